"""Models and versions in SQL. `ports.VersionRows`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, bindparam, func, insert, select, update

from mlext.records import Evaluation, Metrics, Model, ModelVersion
from mlext.storage.schema import evaluation, model, model_version, version_value
from ociserver.refs import Digest, RepositoryName
from ociserver.storage.schema import repository, tag
from ociserver.storage.transaction import SqlTransaction, repository_named

# Of evaluations that are read at once.
_EVALUATIONS_BYTES = 4 * 1024 * 1024

_model = (
    select(model, repository.c.name)
    .join(repository, repository.c.id == model.c.repository_id)
    .order_by(repository.c.name)
)
_version = (
    select(model_version, repository.c.name)
    .join(repository, repository.c.id == model_version.c.repository_id)
    .where(repository.c.name == bindparam("model"))
)
# Built once: every push of a manifest asks whether it is a version.
_version_numbered = _version.where(model_version.c.number == bindparam("number"))
_version_of = _version.where(model_version.c.digest == bindparam("digest"))
_new_version = insert(model_version)
_new_evaluation = insert(evaluation)
_numbered = (
    update(model)
    .where(model.c.repository_id == bindparam("of"))
    .values(last_number=bindparam("number"))
)
_newest_first = (evaluation.c.at.desc(), evaluation.c.id.desc())
# Sizes first, as each may be a quarter of a megabyte.
_recent = (
    select(evaluation.c.id, evaluation.c.at, func.length(evaluation.c.metrics).label("size"))
    .where(
        evaluation.c.repository_id == repository_named,
        evaluation.c.number == bindparam("of"),
        evaluation.c.at <= bindparam("at"),
        (evaluation.c.at < bindparam("at")) | (evaluation.c.id < bindparam("id")),
    )
    .order_by(*_newest_first)
    .limit(bindparam("limit"))
    .subquery()
)
_sized = select(
    _recent.c.id,
    func.count().over().label("recent"),
    func.sum(_recent.c.size)
    .over(order_by=(_recent.c.at.desc(), _recent.c.id.desc()), rows=(None, 0))
    .label("total"),
).subquery()
_latest = (
    select(evaluation, _sized.c.recent)
    .join(_sized, _sized.c.id == evaluation.c.id)
    .where(_sized.c.total <= _EVALUATIONS_BYTES)
    .order_by(*_newest_first)
)
_metrics = (
    select(version_value.c.key, version_value.c.text_value)
    .where(
        version_value.c.repository_id == repository_named,
        version_value.c.number == bindparam("of"),
        version_value.c.kind == "metric",
    )
    .order_by(version_value.c.key)
)


class VersionSql(SqlTransaction):
    """`ports.VersionRows`."""

    def model(self, name: RepositoryName) -> Model | None:
        row = self._db.execute(_model.where(repository.c.name == name)).one_or_none()
        return _as_model(row) if row else None

    def models(self, after: str, limit: int) -> Sequence[Model]:
        page = _model.where(repository.c.name > after).limit(limit)
        return [_as_model(row) for row in self._db.execute(page)]

    def models_named(self, names: Collection[RepositoryName]) -> Sequence[Model]:
        found = _model.where(repository.c.name.in_(list(names)))
        return [_as_model(row) for row in self._db.execute(found)]

    def put_model(self, value: Model) -> None:
        fields = ("last_number", "owner", "task", "description", "created_at", "updated_at",
                  "updated_by")  # fmt: skip
        row: dict[str, Any] = {name: getattr(value, name) for name in fields}
        self._put(model, [{"repository_id": self._repository_id(value.name), **row}])
        self.changed.add(value.name)

    def add_version(self, version: ModelVersion, values: Sequence[tuple[str, str, object]]) -> None:
        repository_id = self._repository_id(version.model)
        self._db.execute(
            _new_version,
            {
                "repository_id": repository_id,
                "number": version.number,
                "id": version.id,
                "digest": version.digest,
                "framework": version.framework,
                "run": version.run_id,
                "created_at": version.created_at,
                "created_by": version.created_by,
                "body": version.body,
            },
        )
        self._db.execute(_numbered, {"of": repository_id, "number": version.number})
        self._put_values(repository_id, version.number, values)
        self.changed.add(version.model)

    def _put_values(
        self, repository_id: int, number: int, values: Sequence[tuple[str, str, object]]
    ) -> None:
        rows = [
            {
                "repository_id": repository_id,
                "number": number,
                "kind": kind,
                "key": key,
                "number_value": _as_number(value),
                "text_value": value if isinstance(value, str) else json.dumps(value),
            }
            for kind, key, value in values
        ]
        self._put(version_value, rows)

    def version(self, name: RepositoryName, number: int) -> ModelVersion | None:
        return self._one(_version_numbered, {"model": name, "number": number})

    def version_of(self, name: RepositoryName, digest: Digest) -> ModelVersion | None:
        return self._one(_version_of, {"model": name, "digest": digest})

    def _one(self, statement: Select[Any], where: dict[str, Any]) -> ModelVersion | None:
        row = self._db.execute(statement, where).one_or_none()
        return _as_version(row) if row else None

    def standing(self, name: RepositoryName, tags: Collection[str]) -> Mapping[str, Digest]:
        found = select(tag.c.name, tag.c.digest).where(
            tag.c.repository_id == repository_named, tag.c.name.in_(list(tags))
        )
        rows = self._db.execute(found, {"repository": name})
        return {row.name: Digest(row.digest) for row in rows}

    def add_evaluation(self, name: RepositoryName, value: Evaluation) -> None:
        repository_id = self._repository_id(name)
        self._db.execute(
            _new_evaluation,
            {
                "id": value.id,
                "repository_id": repository_id,
                "number": value.number,
                "at": value.at,
                "by": value.by,
                "dataset": value.dataset,
                "metrics": json.dumps(dict(value.metrics)).encode(),
            },
        )
        values = [("metric", key, number) for key, number in value.metrics.items()]
        self._put_values(repository_id, value.number, values)
        self.changed.add(name)

    def evaluations(
        self, name: RepositoryName, number: int, limit: int = 1_000
    ) -> Sequence[Evaluation]:
        return self.evaluations_before(name, number, None, limit)[0][::-1]

    def evaluations_before(
        self, name: RepositoryName, number: int, last: Evaluation | None, limit: int
    ) -> tuple[Sequence[Evaluation], bool]:
        at, last_id = (last.at, last.id) if last else (math.inf, "")
        where = {"repository": name, "of": number, "at": at, "id": last_id, "limit": limit + 1}
        rows = self._db.execute(_latest, where).all()
        found = [_as_evaluation(row) for row in rows[:limit]]
        return found, bool(rows) and rows[0].recent > len(found)

    def evaluation(
        self, name: RepositoryName, number: int, evaluation_id: str
    ) -> Evaluation | None:
        found = select(evaluation).where(
            evaluation.c.id == evaluation_id,
            evaluation.c.repository_id == repository_named,
            evaluation.c.number == number,
        )
        row = self._db.execute(found, {"repository": name}).one_or_none()
        return _as_evaluation(row) if row else None

    def metrics(self, name: RepositoryName, number: int) -> Metrics:
        rows = self._db.execute(_metrics, {"repository": name, "of": number})
        return {row.key: json.loads(row.text_value) for row in rows}


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _as_evaluation(row: Row[Any]) -> Evaluation:
    return Evaluation(
        id=row.id,
        number=row.number,
        at=row.at,
        by=row.by,
        dataset=row.dataset,
        metrics=json.loads(row.metrics),
    )


def _as_model(row: Row[Any]) -> Model:
    return Model(
        name=RepositoryName(row.name),
        last_number=row.last_number,
        owner=row.owner,
        task=row.task,
        description=row.description,
        created_at=row.created_at,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


def _as_version(row: Row[Any]) -> ModelVersion:
    """Return the version of a row with its columns and its model's name."""
    return ModelVersion(
        model=RepositoryName(row.name),
        number=row.number,
        id=row.id,
        digest=Digest(row.digest),
        framework=row.framework,
        run_id=row.run,
        created_at=row.created_at,
        created_by=row.created_by,
        body=row.body,
    )

"""Runs and edges in SQL. `ports.LineageRows`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Row,
    Select,
    delete,
    exists,
    func,
    select,
    union,
)

from mlext.records import Edge, PlacedVersion, Run
from mlext.storage.schema import alias, edge, is_of_run, model_version, run
from ociserver.refs import Digest, RepositoryName, Tag
from ociserver.storage.schema import blob_digest, manifest, repository, repository_blob
from ociserver.storage.transaction import SqlTransaction

_MANY = 1_000
# Of nodes and these together, one statement carries at most what SQLite takes (32,766 values).
_MODELS = 10_000

_named = select(repository.c.name)
_manifests = (
    _named.join(manifest, manifest.c.repository_id == repository.c.id),
    manifest.c.digest,
)
_blobs = (
    _named.join(repository_blob, repository_blob.c.repository_id == repository.c.id).join(
        blob_digest, blob_digest.c.blob_id == repository_blob.c.blob_id
    ),
    blob_digest.c.digest,
)
# Beside the table that a statement is about.
_maker = run.alias("maker")
# `run:ID`, less its first four characters.
_run_of_edge = func.substr(edge.c.source, 5)


class LineageSql(SqlTransaction):
    """`ports.LineageRows`."""

    def run(self, run_id: str) -> Run | None:
        return self._run(select(run).where(run.c.id == run_id))

    def run_of(self, model: RepositoryName, number: int) -> Run | None:
        found = (
            select(run)
            .join(model_version, is_of_run(model_version, run))
            .join(repository, repository.c.id == model_version.c.repository_id)
            .where(repository.c.name == model, model_version.c.number == number)
        )
        return self._run(found)

    def _run(self, found: Select[Any]) -> Run | None:
        row = self._db.execute(found).one_or_none()
        if row is None:
            return None
        return Run(
            id=row.id,
            created_by=row.created_by,
            created_at=row.created_at,
            finished_at=row.finished_at,
            body=json.loads(row.body),
        )

    def last_naming(self, run_id: str, besides: str) -> float | None:
        found = select(func.max(model_version.c.created_at)).where(
            model_version.c.run == run_id, model_version.c.created_by != besides
        )
        last: float | None = self._db.execute(found).scalar_one()
        return last

    def put_run(self, value: Run) -> None:
        row = {
            "id": value.id,
            "created_by": value.created_by,
            "created_at": value.created_at,
            "finished_at": value.finished_at,
            "body": json.dumps(dict(value.body)).encode(),
        }
        self._put(run, [row])

    def models_of_run(self, run_id: str) -> Sequence[RepositoryName]:
        found = (
            select(repository.c.name)
            .join(model_version, model_version.c.repository_id == repository.c.id)
            .join(run, is_of_run(model_version, run))
            .where(run.c.id == run_id)
            .distinct()
            .limit(_MANY)
        )
        return [RepositoryName(name) for name in self._db.execute(found).scalars()]

    def put_edges(
        self, source: str, edges: Sequence[tuple[str, str]], model: str, by: str, now: float
    ) -> None:
        self._put(
            edge,
            [
                _edge_row(Edge(source, kind, target), model, by, now)
                for kind, target in dict.fromkeys(edges)
            ],
        )

    def add_edge(self, value: Edge, model: RepositoryName, by: str, now: float) -> bool:
        return self._insert_new(edge, _edge_row(value, model, by, now))

    def replace_edges(
        self, source: str, edges: Sequence[tuple[str, str]], by: str, now: float
    ) -> None:
        self._db.execute(delete(edge).where(edge.c.source == source))
        self.put_edges(source, edges, "", by, now)

    def edge_models(self, nodes: Collection[str], *, upstream: bool) -> Sequence[RepositoryName]:
        there = _end(upstream).in_(list(nodes))
        said = select(edge.c.model.label("name")).where(there, edge.c.model != "")
        by_run = (
            select(repository.c.name)
            .join(model_version, model_version.c.repository_id == repository.c.id)
            .join(edge, model_version.c.run == _run_of_edge)
            .where(there, edge.c.model == "")
        )
        return self._names(union(said, by_run))

    def edges(
        self,
        nodes: Collection[str],
        models: Collection[RepositoryName],
        by: str,
        limit: int,
        *,
        upstream: bool,
    ) -> Sequence[Edge]:
        of_known_run = (edge.c.by == by) | _made_there(_run_of_edge, models)
        found = (
            select(edge.c.source, edge.c.kind, edge.c.target)
            .distinct()
            .where(
                _end(upstream).in_(list(nodes)),
                edge.c.model.in_(list(models)) | ((edge.c.model == "") & of_known_run),
            )
            .order_by(edge.c.source, edge.c.kind, edge.c.target)
            .limit(limit)
        )
        return [Edge(*row) for row in self._db.execute(found)]

    def node_models(
        self, digests: Collection[str], runs: Collection[str]
    ) -> Sequence[RepositoryName]:
        made = _named.join(model_version, model_version.c.repository_id == repository.c.id)
        return self._names(
            union(
                _holding(_manifests, digests),
                _holding(_blobs, digests),
                made.where(model_version.c.digest.in_(list(digests))),
                made.where(model_version.c.run.in_(list(runs))),
            )
        )

    def placed_versions(
        self, digests: Collection[str], models: Collection[RepositoryName], limit: int
    ) -> tuple[Sequence[PlacedVersion], bool]:
        found = (
            select(
                repository.c.name.label("model"),
                model_version.c.number,
                model_version.c.digest,
                model_version.c.id,
                model_version.c.framework,
                alias.c.name.label("alias"),
            )
            .join(repository, repository.c.id == model_version.c.repository_id)
            .outerjoin(
                alias,
                (alias.c.repository_id == model_version.c.repository_id)
                & (alias.c.number == model_version.c.number),
            )
            .where(model_version.c.digest.in_(list(digests)), repository.c.name.in_(list(models)))
            .order_by(repository.c.name, model_version.c.number, alias.c.name)
            .limit(limit + 1)
        )
        placed = self._db.execute(found).all()
        by_version = groupby(placed[:limit], lambda row: (row.model, row.number))
        return [_as_placed([*rows]) for _, rows in by_version], len(placed) > limit

    def held_digests(
        self, digests: Collection[str], repositories: Collection[RepositoryName]
    ) -> set[str]:
        among = repository.c.name.in_(list(repositories))
        held = union(
            _holding(_manifests, digests).with_only_columns(manifest.c.digest).where(among),
            _holding(_blobs, digests).with_only_columns(blob_digest.c.digest).where(among),
        )
        return set(self._db.execute(held).scalars())

    def known_runs(
        self, runs: Collection[str], models: Collection[RepositoryName], by: str
    ) -> set[str]:
        found = select(run.c.id).where(
            run.c.id.in_(list(runs)), (run.c.created_by == by) | _made_there(run.c.id, models)
        )
        return set(self._db.execute(found).scalars())

    def _names(self, found: CompoundSelect[Any]) -> list[RepositoryName]:
        names = self._db.execute(found.order_by("name").limit(_MODELS)).scalars()
        return [RepositoryName(name) for name in names]


def _edge_row(value: Edge, model: str, by: str, now: float) -> dict[str, Any]:
    ends = {"source": value.source, "kind": value.kind, "target": value.target}
    return {**ends, "model": model, "at": now, "by": by}


def _end(upstream: bool) -> Column[str]:  # noqa: FBT001 - one of two columns
    return edge.c.source if upstream else edge.c.target


def _made_there(
    run_id: ColumnElement[str], models: Collection[RepositoryName]
) -> ColumnElement[bool]:
    """Return whether these models have a version of the run."""
    return exists(
        select(model_version.c.number)
        .join(repository, repository.c.id == model_version.c.repository_id)
        .join(_maker, is_of_run(model_version, _maker))
        .where(_maker.c.id == run_id, repository.c.name.in_(list(models)))
    )


def _holding(held: tuple[Select[tuple[str]], Column[str]], digests: Collection[str]) -> Any:
    statement, digest = held
    return statement.where(digest.in_(list(digests)))


def _as_placed(rows: Sequence[Row[*tuple[Any, ...]]]) -> PlacedVersion:
    """Return the version that has a row for each of its aliases."""
    one = rows[0]
    return PlacedVersion(
        digest=Digest(one.digest),
        model=RepositoryName(one.model),
        number=one.number,
        id=one.id,
        framework=one.framework,
        aliases=tuple(Tag(row.alias) for row in rows if row.alias is not None),
    )

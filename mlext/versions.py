"""Registering versions, and what is said of them afterwards. Plain functions of one transaction:
what a caller wraps them in decides what is there together or not at all.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlext import lineage
from mlext.acts import Act
from mlext.documents import ENTRIES
from mlext.errors import DocumentInvalid, ModelUnknown, RunFrozen, VersionExists, VersionUnknown
from mlext.ports import ModelsTx
from mlext.records import (
    Evaluation,
    Metrics,
    Model,
    ModelVersion,
    Registration,
    Run,
    rfc3339,
)
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.content import Manifest, parse_manifest
from ociserver.errors import Denied, ManifestBlobUnknown, ManifestUnknown
from ociserver.refs import RepositoryName, Tag

# Version tags that are looked at at once for one that nothing else stands on.
_NUMBERS = 50
_VERSION_TAG = re.compile(r"v[0-9]+")
_TAG_MAX = len("v999999999")
# By so much may the clock of whoever says when a run ended be ahead of ours.
_CLOCKS_SECONDS = 300.0


def version_tag(number: int) -> Tag:
    """Return the tag that a version is pulled by, which nobody can move."""
    return Tag(f"v{number}")


def is_version_tag(tag: Tag) -> bool:
    """Tell whether the tag is one of a version, there or to come, and so never an alias."""
    return bool(_VERSION_TAG.fullmatch(tag))


def version_under(tx: ModelsTx, model: RepositoryName, tag: Tag) -> ModelVersion | None:
    """Return the version that is pulled by this tag, None where the tag is of none."""
    if not is_version_tag(tag) or len(tag) > _TAG_MAX:
        return None
    number = int(tag[1:])
    return tx.version(model, number) if tag == version_tag(number) else None


def register(act: Act, model: RepositoryName, asked: Registration) -> ModelVersion:
    """Make the artifact the model's next version, with its tag, its lineage and its event.

    Raises ManifestUnknown, ManifestBlobUnknown, VersionExists, Denied where its run is not theirs
    to name.
    """
    tx = act.tx
    stored = tx.manifest(model, asked.digest)
    if stored is None:
        raise ManifestUnknown(f"{model} has no manifest {asked.digest}: push it first")
    known = tx.version_of(model, asked.digest)
    if known is not None:
        raise VersionExists(
            f"{asked.digest} is version {known.number} of {model} already",
            detail={"version": known.number, "version_id": known.id},
        )
    view = parse_manifest(stored.body, stored.media_type)
    if missing := tx.missing(model, view):
        raise ManifestBlobUnknown(
            f"{model} lacks {len(missing)} of what the manifest names: push it first",
            detail=[{"digest": each} for each in missing],
        )
    act = _naming(act, asked.run_id)
    of = tx.model(model) or _new_model(act, model)
    number = _next_number(tx, model, asked, of.last_number)
    version = _made(act, model, number, asked, view)
    tx.add_version(version, _values(asked))
    tx.move_tag(model, version_tag(number), asked.digest)
    if asked.run is not None:
        put_run(act, asked.run_id, asked.run, is_new=True)
    edges = [*asked.lineage]
    if asked.run_id:
        edges.append((lineage.MADE_BY, lineage.run_of(asked.run_id)))
    tx.put_edges(asked.digest, edges, model, act.by.name, act.at)
    said = {"version": number, "version_id": version.id, "digest": asked.digest}
    act.note("register", model, {**said, "run_id": asked.run_id})
    return version


def may_know(tx: ModelsTx, by: Author, run: Run) -> bool:
    """Tell whether they may read the run: they put it, or may pull a version of it."""
    return run.created_by == by.name or any(
        by.may(Action.PULL, each, None) for each in tx.models_of_run(run.id)
    )


def _naming(act: Act, run_id: str) -> Act:
    """Return the act as one that names the run: after it, if the run is there.

    Whose version came first, and was registered by somebody else, has nothing of the run
    (`ports.LineageRows.run_of`). Raises Denied for a run that they may not know.
    """
    run = act.tx.run(run_id) if run_id else None
    if run is None:
        return act
    if not may_know(act.tx, act.by, run):
        raise _of_somebody_else(run_id)
    return replace(act, dated=act.after(run.created_at))


def _of_somebody_else(run_id: str) -> Denied:
    return Denied(f"run {run_id} was put by somebody else")


def _new_model(act: Act, name: RepositoryName) -> Model:
    made = Model(
        name=name, last_number=0, created_at=act.at, updated_at=act.at, updated_by=act.by.name
    )
    act.tx.put_model(made)
    return made


def _next_number(tx: ModelsTx, model: RepositoryName, asked: Registration, last: int) -> int:
    """Return the next number whose tag is free, or stands on this very artifact."""
    while True:
        tags = {version_tag(last + step): last + step for step in range(1, _NUMBERS + 1)}
        standing = tx.standing(model, tags)
        for tag, number in tags.items():
            if standing.get(tag, asked.digest) == asked.digest:
                return number
        last += _NUMBERS


def _made(
    act: Act, model: RepositoryName, number: int, asked: Registration, view: Manifest
) -> ModelVersion:
    version_id = f"mv_{uuid.uuid4().hex}"
    shown: dict[str, Any] = {
        "model": model,
        "version": number,
        "version_id": version_id,
        "artifact_digest": asked.digest,
        "media_type": view.media_type,
        "artifact_type": view.artifact_type,
        "framework": asked.framework,
        "description": asked.description,
        "metrics": dict(asked.metrics),
        "params": dict(asked.params),
        "tags": dict(asked.tags),
        "run_id": asked.run_id,
        "lineage": [{"type": kind, "target": node} for kind, node in asked.lineage],
        "status": "registered",
        "created_by": act.by.name,
        "created_at": rfc3339(act.at),
    }
    return ModelVersion(
        model=model,
        number=number,
        id=version_id,
        digest=asked.digest,
        framework=asked.framework,
        run_id=asked.run_id,
        created_at=act.at,
        created_by=act.by.name,
        body=json.dumps(shown, ensure_ascii=False).encode(),
    )


def _values(asked: Registration) -> list[tuple[str, str, object]]:
    return [
        (kind, key, value)
        for kind, named in (("metric", asked.metrics), ("param", asked.params), ("tag", asked.tags))
        for key, value in named.items()
    ]


def the_version(tx: ModelsTx, model: RepositoryName, number: int) -> ModelVersion:
    """Return the version. Raises VersionUnknown, ModelUnknown."""
    found = tx.version(model, number)
    if found is None:
        the_model(tx, model)
        raise VersionUnknown(f"{model} has no version {number}")
    return found


def the_model(tx: ModelsTx, model: RepositoryName) -> Model:
    """Return the model. Raises ModelUnknown."""
    found = tx.model(model)
    if found is None:
        raise ModelUnknown(f"there is no model {model}: no version was registered in it")
    return found


def describe(act: Act, model: RepositoryName, said: Mapping[str, str]) -> Model:
    """Change what is said of the model: owner, task type, description. Raises ModelUnknown."""
    found = the_model(act.tx, model)
    was = {"owner": found.owner, "task": found.task, "description": found.description}
    changed = {key: value for key, value in said.items() if was[key] != value}
    if not changed:
        return found
    now: dict[str, Any] = {**was, **changed}
    following = replace(found, **now, updated_at=act.at, updated_by=act.by.name)
    act.tx.put_model(following)
    act.note("describe", model, {"from": {key: was[key] for key in changed}, "to": changed})
    return following


def evaluate(
    act: Act, model: RepositoryName, number: int, metrics: Metrics, dataset: str
) -> Evaluation:
    """Record metrics that were measured after registration.

    Raises VersionUnknown, DocumentInvalid: of new names, there is no end to these.
    """
    version = the_version(act.tx, model, number)
    if len({*act.tx.metrics(model, number), *metrics}) > ENTRIES:
        raise DocumentInvalid(f"version {number} would have more than {ENTRIES} metrics in all")
    last = next(iter(act.tx.evaluations(model, number, 1)), None)
    given = Evaluation(
        id=f"ev_{uuid.uuid4().hex}",
        number=number,
        at=act.after(last.at if last else None),
        by=act.by.name,
        dataset=dataset,
        metrics=metrics,
    )
    act.tx.add_evaluation(model, given)
    said = {"version": number, "digest": version.digest, "dataset": dataset}
    detail = {**said, "evaluation_id": given.id, "metrics": dict(metrics)}
    act.note("evaluate", model, detail, given.at)
    return given


def _refuse_what_is_to_come(said: Mapping[str, object], now: float) -> None:
    """Raise DocumentInvalid for a run that is over before it is: its lineage would be complete."""
    for key in ("started_at", "finished_at"):
        if isinstance(when := said.get(key), float) and when > now + _CLOCKS_SECONDS:
            raise DocumentInvalid(f"{key} {rfc3339(when)} is still to come")


def put_run(act: Act, run_id: str, said: Mapping[str, object], *, is_new: bool = False) -> Run:
    """Record a run as it is now; what it said before and does not now is kept.

    It belongs to whoever put it first, and is frozen once it has finished: the same again is no
    error. `is_new` changes nothing of one that is there. Raises Denied, RunFrozen, DocumentInvalid
    for a time that is still to come.
    """
    known = act.tx.run(run_id)
    if known is not None and is_new:
        return known
    body: dict[str, object] = {**(known.body if known else {}), **said}
    if known is not None:
        # First of all: whoever puts nothing new is shown the run.
        if known.created_by != act.by.name:
            raise _of_somebody_else(run_id)
        if body == known.body:
            return known
        if known.finished_at is not None:
            raise RunFrozen(f"run {run_id} finished at {rfc3339(known.finished_at)} and is frozen")
    _refuse_what_is_to_come(said, act.at)
    finished = body.get("finished_at")
    by = known.created_by if known else act.by.name
    run = Run(
        id=run_id,
        created_by=by,
        created_at=known.created_at if known else act.after(act.tx.last_naming(run_id, by)),
        finished_at=finished if isinstance(finished, float) else None,
        body=body,
    )
    act.tx.put_run(run)
    made_from = lineage.edges_of_run(body)
    act.tx.replace_edges(lineage.run_of(run_id), made_from, act.by.name, act.at)
    act.note("run", run_id, {"said": dict(said)})
    return run

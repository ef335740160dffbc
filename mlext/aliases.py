"""Moving aliases: the one way there is, whatever door the request came by; and what may be asked
before, gates and approvals.

A move is a comparison and a swap: right, gate, alias, tag, history and audit event stand or fall
in one transaction. Plain functions of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from mlext import lineage
from mlext.acts import Act
from mlext.errors import (
    AliasElsewhere,
    AliasUnknown,
    DocumentInvalid,
    GatesFull,
    GateUnknown,
    GateUnsatisfied,
    TagProtected,
)
from mlext.gates import GATES_MAX, Facts, Gate, Verdict, judge, parse_gate
from mlext.ports import ModelsTx
from mlext.records import Alias, Approval, ModelVersion
from mlext.versions import is_version_tag, the_version, version_under
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.errors import ManifestUnknown
from ociserver.refs import Digest, RepositoryName, Tag, parse_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A move that is asked for. `expected` is the version it must stand on, 0 for none at all;
    `etags` what If-Match says, of which one must be its own or `*`. None of either: wherever it
    stands.
    """

    alias: Tag
    number: int
    expected: int | None = None
    etags: Sequence[str] | None = None


def parse_alias(text: str) -> Tag:
    """Return the name of an alias. Raises TagInvalid, DocumentInvalid."""
    name = parse_tag(text)
    if is_version_tag(name):
        raise DocumentInvalid(f"{name} is the tag of a version, and no alias")
    return name


def move(act: Act, model: RepositoryName, asked: Sequence[Move], reason: str) -> list[Alias]:
    """Move the aliases, all of them or none. Return them as they are now.

    One that stands on its version already stays as it is: nothing moves, so no gate is asked, and
    neither a move nor its reason is on record. Raises VersionUnknown, Denied, GateUnsatisfied,
    AliasElsewhere, ManifestUnknown where the artifact was deleted.
    """
    moved = []
    for each in asked:
        act.require(Action.PROMOTE, model, each.alias)
        version = the_pulled(act.tx, model, each.number)
        known = act.tx.alias(model, each.alias)
        _expect(known, each)
        if known is None or known.number != version.number:
            known = _moved(act, version, each.alias, known, reason)
            act.tx.move_tag(model, each.alias, version.digest)
        moved.append(known)
    return moved


def the_pulled(tx: ModelsTx, model: RepositoryName, number: int) -> ModelVersion:
    """Return a version that can be pulled. Raises VersionUnknown, ManifestUnknown where it was
    deleted.
    """
    version = the_version(tx, model, number)
    if tx.manifest(model, version.digest) is None:
        raise ManifestUnknown(f"version {number} of {model} was deleted")
    return version


def pushed_onto(
    act: Act, model: RepositoryName, tag: Tag, digest: Digest, *, is_named: bool
) -> None:
    """Let the push of a tag be what it is: a move, where the tag is an alias or has a gate, or
    rules have its name (`is_named`).

    The caller moves the tag. Raises TagProtected, Denied, GateUnsatisfied.
    """
    if is_version_tag(tag):
        pulled = version_under(act.tx, model, tag)
        if pulled is not None and pulled.digest != digest:
            raise TagProtected(f"{tag} is version {pulled.number} of {model}, which never changes")
        return
    known = act.tx.alias(model, tag)
    if known is None and not is_named and not _gates(act.tx, model, tag):
        return
    act.require(Action.PROMOTE, model, tag)
    version = act.tx.version_of(model, digest)
    if version is None:
        raise TagProtected(
            f"{tag} is an alias of {model}: it points at versions, and {digest} is none. "
            "Register it first"
        )
    if known is None or known.digest != digest:
        _moved(act, version, tag, known, "pushed")


def gated(tx: ModelsTx, model: RepositoryName, tags: Collection[Tag]) -> list[Tag]:
    """Return those of the tags that a gate is set up for: aliases, moved yet or not."""
    every = _every_gate(tx)
    free = (tag for tag in tags if not is_version_tag(tag))
    return [tag for tag in free if any(each.is_for(model, tag) for each in every)]


def _expect(known: Alias | None, asked: Move) -> None:
    stands = known.number if known else 0
    if asked.expected is not None and asked.expected != stands:
        wanted = f"version {asked.expected}" if asked.expected else "no version"
    elif asked.etags is not None and not (known and {known.etag, "*"} & {*asked.etags}):
        wanted = f"ETag {', '.join(asked.etags)}"
    else:
        return
    where = f"version {stands}" if known else "no version yet"
    raise AliasElsewhere(
        f"{asked.alias} stands on {where}, and {wanted} was expected",
        detail=known.shown() if known else {"alias": asked.alias, "version": None},
    )


def _moved(act: Act, version: ModelVersion, name: Tag, known: Alias | None, reason: str) -> Alias:
    at = act.after(known.updated_at if known else None)
    verdict = verdict_on(act.tx, version, name, act.by, at)
    if not verdict.passed:
        raise GateUnsatisfied(
            f"the gate of {name} lets no version {version.number} of {version.model} pass: "
            + "; ".join(each.reason for each in verdict.conditions if not each.passed),
            detail=verdict.to_json(),
        )
    alias = Alias(
        model=version.model,
        name=name,
        number=version.number,
        digest=version.digest,
        moves=known.moves + 1 if known else 1,
        updated_at=at,
        updated_by=act.by.name,
        reason=reason,
    )
    act.tx.put_alias(alias, known.number if known else None)
    said = {
        "alias": name,
        "from": {"version": known.number, "digest": known.digest} if known else None,
        "to": {"version": version.number, "digest": version.digest},
        "reason": reason,
        "verdict": verdict.to_json(),
    }
    act.note("promote", version.model, said, at)
    return alias


def verdict_on(tx: ModelsTx, version: ModelVersion, name: Tag, by: Author, now: float) -> Verdict:
    """Return what the gates of the alias say of the version, if it were moved there now."""
    gates = _gates(tx, version.model, name)
    return judge(gates, _facts(tx, version, name, by, now)) if gates else Verdict(())


def _facts(tx: ModelsTx, version: ModelVersion, name: Tag, by: Author, now: float) -> Facts:
    evaluations = tx.evaluations(version.model, version.number)
    run = tx.run_of(version.model, version.number) if version.run_id else None
    stints = tx.stints(version.model, version.number)
    return Facts(
        model=version.model,
        alias=name,
        version={**json.loads(version.body), "metrics": tx.metrics(version.model, version.number)},
        evaluations=[each.shown() for each in evaluations],
        run=run.shown() if run else None,
        lineage_problems=lineage.gaps(version, run),
        approvals=tx.approvals(version.model, version.number, name),
        mover=by.name,
        author=version.created_by,
        soak={alias: now - since for alias, since in stints.items()},
        returns=tx.has_stood(version.model, name, version.number),
        now=datetime.fromtimestamp(now, UTC),
    )


def _gates(tx: ModelsTx, model: RepositoryName, name: Tag) -> list[Gate]:
    return [each for each in _every_gate(tx) if each.is_for(model, name)]


def _every_gate(tx: ModelsTx) -> list[Gate]:
    return [_kept_gate(body) for body in tx.gates().values()]


@lru_cache(maxsize=GATES_MAX)
def _kept_gate(body: bytes) -> Gate:
    return parse_gate(json.loads(body))


def put_gate(act: Act, gate_id: str, gate: Gate) -> None:
    """Set the gate up, in place of that of this id. Raises GatesFull."""
    gates = act.tx.gates()
    was = gates.get(gate_id)
    if was is None and len(gates) >= GATES_MAX:
        raise GatesFull(f"there are {GATES_MAX} gates: one pattern may be for many models")
    act.tx.put_gate(gate_id, json.dumps(gate.to_json()).encode(), act.by.name, act.at)
    act.note("gate", gate_id, {"from": json.loads(was) if was else None, "to": gate.to_json()})


def drop_gate(act: Act, gate_id: str) -> None:
    """Take the gate away. Raises GateUnknown."""
    was = act.tx.gates().get(gate_id)
    if was is None:
        raise GateUnknown(f"there is no gate {gate_id}")
    act.tx.drop_gate(gate_id)
    act.note("gate", gate_id, {"from": json.loads(was), "to": None})


def approve(act: Act, model: RepositoryName, number: int, name: Tag, comment: str) -> Approval:
    """Record that they approve of the version under the alias. Raises VersionUnknown, Denied."""
    act.require(Action.APPROVE, model, name)
    version = the_version(act.tx, model, number)
    given = Approval(number=number, alias=name, by=act.by.name, at=act.at, comment=comment)
    act.tx.put_approval(model, given)
    said = {"alias": name, "version": number, "digest": version.digest, "comment": comment}
    act.note("approve", model, said)
    return given


def the_alias(tx: ModelsTx, model: RepositoryName, name: Tag) -> Alias:
    """Return where it points. Raises AliasUnknown."""
    found = tx.alias(model, name)
    if found is None:
        raise AliasUnknown(f"{model} has no alias {name}")
    return found

"""Aliases, gates and approvals in SQL. `ports.AliasRows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select

from mlext.records import Alias, AliasMove, Approval
from mlext.storage.schema import alias, alias_move, approval, gate, idempotent_answer
from ociserver.refs import Digest, RepositoryName, Tag
from ociserver.storage.schema import manifest, manifest_child, tag
from ociserver.storage.transaction import SqlTransaction, repository_named

# Sentences of one refusal on what is past.
_REASONS = 100

_alias_named = select(alias).where(
    alias.c.repository_id == repository_named, alias.c.name == bindparam("alias")
)
_new_move = insert(alias_move)
_moves = select(alias_move).where(
    alias_move.c.repository_id == repository_named, alias_move.c.name == bindparam("alias")
)
_move_at = (
    _moves.where(alias_move.c.at <= bindparam("until")).order_by(alias_move.c.move.desc()).limit(1)
)
# A manifest, and those that name it as a child, or name one that does.
_itself = select(manifest.c.digest).where(
    manifest.c.repository_id == repository_named, manifest.c.digest == bindparam("digest")
)
_needing = _itself.cte("needing", recursive=True)
_needing = _needing.union(
    select(manifest_child.c.parent)
    .join(_needing, manifest_child.c.child == _needing.c.digest)
    .where(manifest_child.c.repository_id == repository_named)
)
_pointing = (
    select(alias.c.name, alias.c.digest)
    .join(_needing, alias.c.digest == _needing.c.digest)
    .where(alias.c.repository_id == repository_named)
    .order_by(alias.c.name)
)
# What an alias pointed at until its next move took it away: `later` is that move.
_later = alias_move.alias("later")
_pointed = (
    select(alias_move.c.name, alias_move.c.digest)
    .distinct()
    .join(_needing, alias_move.c.digest == _needing.c.digest)
    .join(
        _later,
        (_later.c.repository_id == alias_move.c.repository_id)
        & (_later.c.name == alias_move.c.name)
        & (_later.c.move == alias_move.c.move + 1),
    )
    .where(alias_move.c.repository_id == repository_named, _later.c.at >= bindparam("since"))
    .order_by(alias_move.c.name, alias_move.c.digest)
    .limit(_REASONS)
)
# The move after which an alias has pointed at nothing but the version.
_else = alias_move.alias("elsewhere")
_other = (
    select(func.max(_else.c.move))
    .where(
        _else.c.repository_id == alias.c.repository_id,
        _else.c.name == alias.c.name,
        _else.c.number != alias.c.number,
    )
    .correlate(alias)
    .scalar_subquery()
)
_stints = (
    select(alias.c.name, func.min(alias_move.c.at).label("since"))
    .select_from(alias)
    .join(
        alias_move,
        (alias_move.c.repository_id == alias.c.repository_id)
        & (alias_move.c.name == alias.c.name)
        & (alias_move.c.move > func.coalesce(_other, 0)),
    )
    .where(alias.c.repository_id == repository_named, alias.c.number == bindparam("number"))
    .group_by(alias.c.name)
)
# Asked by every push of a tag: built once, as building it would cost more than running it.
_gates = select(gate.c.id, gate.c.body).order_by(gate.c.id)


class AliasSql(SqlTransaction):
    """`ports.AliasRows`."""

    def alias(self, model: RepositoryName, name: Tag) -> Alias | None:
        row = self._db.execute(_alias_named, {"repository": model, "alias": name}).one_or_none()
        return _as_alias(model, row) if row else None

    def aliases(self, model: RepositoryName, after: str, limit: int) -> Sequence[Alias]:
        found = (
            select(alias)
            .where(alias.c.repository_id == repository_named, alias.c.name > after)
            .order_by(alias.c.name)
            .limit(limit)
        )
        return [_as_alias(model, row) for row in self._db.execute(found, {"repository": model})]

    def put_alias(self, value: Alias, from_number: int | None) -> None:
        row: dict[str, Any] = {
            "repository_id": self._repository_id(value.model),
            "name": value.name,
            "number": value.number,
            "digest": value.digest,
            "reason": value.reason,
        }
        last = {"updated_at": value.updated_at, "updated_by": value.updated_by}
        self._put(alias, [{**row, **last, "moves": value.moves}])
        made = {"move": value.moves, "at": value.updated_at, "by": value.updated_by}
        self._db.execute(_new_move, {**row, **made, "from_number": from_number})
        self.changed.add(value.model)

    def alias_moves(
        self, model: RepositoryName, name: Tag, before: int, limit: int
    ) -> Sequence[AliasMove]:
        earlier = _moves.where(alias_move.c.move < before)
        found = earlier.order_by(alias_move.c.move.desc()).limit(limit)
        rows = self._db.execute(found, {"repository": model, "alias": name})
        return [_as_move(row) for row in rows]

    def alias_at(self, model: RepositoryName, name: Tag, at: float) -> AliasMove | None:
        where = {"repository": model, "alias": name, "until": at}
        row = self._db.execute(_move_at, where).one_or_none()
        return _as_move(row) if row else None

    def retained(self, model: RepositoryName, digest: Digest, since: float) -> Sequence[str]:
        where = {"repository": model, "digest": digest}
        now = self._db.execute(_pointing, where)
        before = self._db.execute(_pointed, {**where, "since": since})
        return [
            *(f"alias {row.name} points at {_said(row.digest, digest)}" for row in now),
            *(
                f"alias {row.name} pointed at {_said(row.digest, digest)} and may be rolled back"
                for row in before
            ),
        ]

    def tags_on(self, repository: RepositoryName, digest: Digest) -> Sequence[Tag]:
        found = (
            select(tag.c.name)
            .where(tag.c.repository_id == repository_named, tag.c.digest == digest)
            .order_by(tag.c.name)
        )
        rows = self._db.execute(found, {"repository": repository})
        return [Tag(name) for name in rows.scalars()]

    def has_stood(self, model: RepositoryName, name: Tag, number: int) -> bool:
        found = _moves.where(alias_move.c.number == number).limit(1)
        return self._db.execute(found, {"repository": model, "alias": name}).first() is not None

    def stints(self, model: RepositoryName, number: int) -> Mapping[Tag, float]:
        rows = self._db.execute(_stints, {"repository": model, "number": number})
        return {Tag(row.name): row.since for row in rows}

    def gates(self) -> Mapping[str, bytes]:
        rows = self._db.execute(_gates)
        return {row.id: row.body for row in rows}

    def put_gate(self, gate_id: str, body: bytes, by: str, now: float) -> None:
        self._put(gate, [{"id": gate_id, "body": body, "updated_by": by, "updated_at": now}])

    def drop_gate(self, gate_id: str) -> None:
        self._db.execute(delete(gate).where(gate.c.id == gate_id))

    def put_approval(self, model: RepositoryName, value: Approval) -> None:
        row = {
            "repository_id": self._repository_id(model),
            "number": value.number,
            "alias": value.alias,
            "by": value.by,
            "at": value.at,
            "comment": value.comment,
        }
        self._put(approval, [row])

    def approvals(self, model: RepositoryName, number: int, alias: Tag) -> Sequence[Approval]:
        found = select(approval).where(
            approval.c.repository_id == repository_named,
            approval.c.number == number,
            approval.c.alias == alias,
        )
        ordered = found.order_by(approval.c.at, approval.c.by)
        return [_as_approval(row) for row in self._db.execute(ordered, {"repository": model})]

    def approvals_after(
        self, model: RepositoryName, number: int, last: tuple[str, str], limit: int
    ) -> Sequence[Approval]:
        name, by = last
        found = (
            select(approval)
            .where(
                approval.c.repository_id == repository_named,
                approval.c.number == number,
                approval.c.alias >= name,
                (approval.c.alias > name) | (approval.c.by > by),
            )
            .order_by(approval.c.alias, approval.c.by)
            .limit(limit)
        )
        return [_as_approval(row) for row in self._db.execute(found, {"repository": model})]

    def kept_answer(self, by: str, key: str) -> tuple[str, bytes] | None:
        found = select(idempotent_answer.c.request, idempotent_answer.c.answer).where(
            idempotent_answer.c.by == by, idempotent_answer.c.key == key
        )
        row = self._db.execute(found).one_or_none()
        return (row.request, row.answer) if row else None

    def keep_answer(self, by: str, key: str, request: str, answer: bytes, now: float) -> None:
        row = {"by": by, "key": key, "request": request, "answer": answer, "at": now}
        self._put(idempotent_answer, [row])

    def drop_answers(self, before: float) -> None:
        self._db.execute(delete(idempotent_answer).where(idempotent_answer.c.at < before))


def _said(pointed_at: str, digest: Digest) -> str:
    return "it" if pointed_at == digest else f"{pointed_at}, which needs it,"


def _as_alias(model: RepositoryName, row: Row[Any]) -> Alias:
    return Alias(
        model=model,
        name=Tag(row.name),
        number=row.number,
        digest=Digest(row.digest),
        moves=row.moves,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        reason=row.reason,
    )


def _as_approval(row: Row[Any]) -> Approval:
    return Approval(
        number=row.number, alias=Tag(row.alias), by=row.by, at=row.at, comment=row.comment
    )


def _as_move(row: Row[Any]) -> AliasMove:
    return AliasMove(
        name=Tag(row.name),
        move=row.move,
        at=row.at,
        by=row.by,
        reason=row.reason,
        from_number=row.from_number,
        number=row.number,
        digest=Digest(row.digest),
    )

"""The audit, in SQL. `records.AuditRows`.

That rows stay as they are is the work of triggers (`migrations/versions/0005_chain.py`). A number
is one more than the last that the transaction sees, so whoever sees it can see all lower ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, select

from ociserver.auth.chain import GENESIS, START, Mark, chained
from ociserver.auth.records import AuditEvent, AuditLink, AuditQuestion
from ociserver.storage.schema import audit_event
from ociserver.storage.transaction import SqlTransaction

_appended = insert(audit_event).inline()
_last = (
    select(audit_event.c.number, audit_event.c.hash).order_by(audit_event.c.number.desc()).limit(1)
)
# Of details that are read at once: of one event they may be half a megabyte.
_DETAILS_BYTES = 4 * 1024 * 1024
_size = func.length(audit_event.c.detail).label("size")
_sizes = (
    select(_size)
    .where(audit_event.c.number > bindparam("after"))
    .order_by(audit_event.c.number)
    .limit(bindparam("limit"))
)
_latest_first = (audit_event.c.at.desc(), audit_event.c.number.desc())
_page = (
    select(audit_event)
    .where(audit_event.c.number > bindparam("after"))
    .order_by(audit_event.c.number)
    .limit(bindparam("limit"))
)
# With the event before the page, whose hash the first of the page names.
_linked = (
    select(audit_event)
    .where(
        audit_event.c.number
        >= select(func.coalesce(func.max(audit_event.c.number), 0))
        .where(audit_event.c.number <= bindparam("after"))
        .scalar_subquery()
    )
    .order_by(audit_event.c.number)
    .limit(bindparam("limit"))
)


class AuditSql(SqlTransaction):
    """`records.AuditRows`."""

    def record(self, events: Sequence[AuditEvent]) -> None:
        if not events:
            return
        found = self._db.execute(_last).one_or_none()
        last = Mark(found.number, found.hash) if found else START
        self._db.execute(_appended, [_values(each) for each in chained(last, events)])

    def events(self, after: int, limit: int) -> Sequence[AuditEvent]:
        rows = self._db.execute(_page, {"after": after, "limit": limit})
        return [_event(row) for row in rows]

    def trail(self, after: int, limit: int) -> Sequence[AuditLink]:
        sizes = self._db.execute(_sizes, {"after": after, "limit": limit}).scalars().all()
        count = _fitting(sizes)
        rows = self._db.execute(_linked, {"after": after, "limit": count + 1}).all()
        previous = GENESIS
        links = []
        for row in rows:
            if row.number > after:
                links.append(AuditLink(event=_event(row), previous=previous, hash=row.hash))
            previous = row.hash
        return links[:count]

    def latest(
        self, asked: AuditQuestion, before: AuditEvent | None, limit: int
    ) -> tuple[Sequence[AuditEvent], bool]:
        found = (
            select(audit_event.c.number, _size)
            .where(*_conditions(asked, before))
            .order_by(*_latest_first)
            .limit(limit + 1)
        )
        rows = self._db.execute(found).all()
        count = _fitting([row.size for row in rows[:limit]])
        numbers = [row.number for row in rows[:count]]
        whole = select(audit_event).where(audit_event.c.number.in_(numbers))
        events = self._db.execute(whole.order_by(*_latest_first))
        return [_event(row) for row in events], len(rows) > count


def _fitting(sizes: Sequence[int]) -> int:
    """Return how many of the first there is room for, one at least."""
    totals = accumulate(sizes)
    return max(sum(total <= _DETAILS_BYTES for total in totals), min(len(sizes), 1))


def _conditions(asked: AuditQuestion, before: AuditEvent | None) -> Iterator[ColumnElement[bool]]:
    """Yield what must hold of the events, so that one index has them in their order: that of the
    first equality, the narrowest by its nature. Where a planner has no figures, any looks as good.
    """
    # Most was done; of what was refused or failed there is less than of what somebody did.
    by_who = ("actor", "action")
    rest = (*by_who, "outcome") if asked.outcome == "done" else ("outcome", *by_who)
    is_indexed = True
    for name in ("subject", *rest):
        value = getattr(asked, name)
        if value is not None:
            column = audit_event.c[name]
            yield (column if is_indexed else column + "") == value
            is_indexed = False
    if asked.since > -math.inf:
        yield audit_event.c.at >= asked.since
    if asked.until < math.inf:
        yield audit_event.c.at < asked.until
    if before is not None:
        at, number = audit_event.c.at, audit_event.c.number
        yield at <= before.at
        yield (at < before.at) | (number < before.number)


def _values(each: AuditLink) -> dict[str, object]:
    event = each.event
    return {
        "number": event.number,
        "at": event.at,
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "outcome": event.outcome,
        "detail": json.dumps(event.detail),
        "hash": each.hash,
    }


def _event(row: Row[Any]) -> AuditEvent:
    return AuditEvent(
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        detail=json.loads(row.detail),
        number=row.number,
    )

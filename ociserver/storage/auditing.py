"""The audit, in SQL. `records.AuditRows`.

That rows stay as they are is the work of triggers (`migrations/versions/0005_chain.py`). A number
is one more than the last that the transaction sees, so whoever sees it can see all lower ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select

from ociserver.auth.chain import GENESIS, START, Mark, chained
from ociserver.auth.records import AuditEvent, AuditLink
from ociserver.storage.schema import audit_event
from ociserver.storage.transaction import SqlTransaction

_appended = insert(audit_event).inline()
_last = (
    select(audit_event.c.number, audit_event.c.hash).order_by(audit_event.c.number.desc()).limit(1)
)
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
        rows = self._db.execute(_linked, {"after": after, "limit": limit + 1}).all()
        previous = GENESIS
        links = []
        for row in rows:
            if row.number > after:
                links.append(AuditLink(event=_event(row), previous=previous, hash=row.hash))
            previous = row.hash
        return links[:limit]


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

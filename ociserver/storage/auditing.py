"""The audit, in SQL. `records.AuditRows`.

That rows stay as they are, and that numbers grow from commit to commit, is the work of triggers
(`migrations/versions/0004_access.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import bindparam, insert, select

from ociserver.auth.records import AuditEvent
from ociserver.storage.schema import audit_event
from ociserver.storage.transaction import SqlTransaction

# Inline: nobody asks which number it was given.
_appended = insert(audit_event).inline()
_page = (
    select(audit_event)
    .where(audit_event.c.number > bindparam("after"))
    .order_by(audit_event.c.number)
    .limit(bindparam("limit"))
)


class AuditSql(SqlTransaction):
    """`records.AuditRows`."""

    def record(self, events: Sequence[AuditEvent]) -> None:
        rows = [
            {
                "at": event.at,
                "actor": event.actor,
                "action": event.action,
                "subject": event.subject,
                "outcome": event.outcome,
                "detail": json.dumps(dict(event.detail)),
            }
            for event in events
        ]
        if rows:
            self._db.execute(_appended, rows)

    def events(self, after: int, limit: int) -> Sequence[AuditEvent]:
        rows = self._db.execute(_page, {"after": after, "limit": limit})
        return [
            AuditEvent(
                at=row.at,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                outcome=row.outcome,
                detail=json.loads(row.detail),
                number=row.number,
            )
            for row in rows
        ]

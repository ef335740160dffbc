"""The audit is a hash chain: its events, without gaps in their numbers, in a table made anew.

The form of the hash is `auth/chain.py`'s and can never change: it is not written down here again.
"""

import json

import sqlalchemy as sa
from alembic import op

from ociserver.auth.chain import START, Mark, chained
from ociserver.auth.records import AuditEvent

revision = "0005"
down_revision = "0004"

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_PAGE = 1_000


def upgrade() -> None:
    """Chain what was recorded so far, in the order of its numbers."""
    db = op.get_bind()
    postgres = db.dialect.name == "postgresql"
    if postgres:
        op.execute("LOCK TABLE audit_event")
    table = op.create_table(
        "audit_chain",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.Column("hash", _TEXT, nullable=False),
    )
    _copy(db, table)
    # Its triggers go with it, and on PostgreSQL its sequence.
    op.drop_table("audit_event")
    op.rename_table("audit_chain", "audit_event")
    if postgres:
        op.execute("ALTER INDEX audit_chain_pkey RENAME TO audit_event_pkey")
        # A number is one more than the last: the order that it kept is kept by that.
        op.execute("DROP FUNCTION audit_event_ordered()")
    for statement in _TRIGGERS[db.dialect.name]:
        op.execute(statement)


def _copy(db: sa.Connection, table: sa.Table) -> None:
    page = sa.text("SELECT * FROM audit_event WHERE number > :after ORDER BY number LIMIT :limit")
    last, after = START, 0
    while rows := db.execute(page, {"after": after, "limit": _PAGE}).all():
        events = [
            AuditEvent(
                at=row.at,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                outcome=row.outcome,
                detail=json.loads(row.detail),
            )
            for row in rows
        ]
        links = chained(last, events)
        db.execute(
            sa.insert(table).inline(),
            [
                {
                    "number": each.event.number,
                    "at": each.event.at,
                    "actor": each.event.actor,
                    "action": each.event.action,
                    "subject": each.event.subject,
                    "outcome": each.event.outcome,
                    "detail": json.dumps(each.event.detail),
                    "hash": each.hash,
                }
                for each in links
            ],
        )
        last, after = Mark(links[-1].event.number, links[-1].hash), rows[-1].number


_TRIGGERS = {
    "sqlite": [
        """CREATE TRIGGER audit_event_unchanged BEFORE UPDATE ON audit_event
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END""",
        """CREATE TRIGGER audit_event_undeleted BEFORE DELETE ON audit_event
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END""",
        # INSERT OR REPLACE deletes the row that is in its way, and no trigger hears of that.
        """CREATE TRIGGER audit_event_unreplaced BEFORE INSERT ON audit_event
        WHEN EXISTS (SELECT 1 FROM audit_event WHERE number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END""",
    ],
    "postgresql": [
        """CREATE TRIGGER audit_event_unchanged BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
        FOR EACH STATEMENT EXECUTE FUNCTION audit_event_refused()""",
    ],
}

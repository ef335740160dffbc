"""The audit is read from its end, and by what an event is of, by whom, and what came of it."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the indexes, each in the order of time."""
    op.create_index("audit_event_by_time", "audit_event", ["at", "number"])
    for column in ("subject", "actor", "action", "outcome"):
        op.create_index(f"audit_event_by_{column}", "audit_event", [column, "at", "number"])

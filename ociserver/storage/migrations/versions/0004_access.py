"""Who may come in, and what was done: principals, secrets, keys, refresh tokens, the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make their tables, and what keeps the audit as it was recorded."""
    op.add_column("upload", sa.Column("owner", _TEXT, nullable=False, server_default="anyone"))
    op.create_table(
        "principal",
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("groups", _TEXT, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("disabled_at", sa.Float, index=True),
        sa.Column("tokens_from", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "credential",
        sa.Column("id", _TEXT, primary_key=True),
        sa.Column("principal", _TEXT, sa.ForeignKey("principal.name"), nullable=False, index=True),
        sa.Column("hash", _TEXT, nullable=False),
        sa.Column("ends_at", sa.Float),
    )
    op.create_table(
        "signing_key",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", _TEXT, nullable=False, unique=True),
        sa.Column("private", sa.LargeBinary, nullable=False),
        sa.Column("signs_from", sa.Float, nullable=False),
    )
    op.create_table(
        "refresh_token",
        sa.Column("hash", _TEXT, primary_key=True),
        sa.Column("family", _TEXT, nullable=False, index=True),
        sa.Column("principal", _TEXT, nullable=False),
        sa.Column("issued_at", sa.Float, nullable=False),
        sa.Column("ends_at", sa.Float, nullable=False, index=True),
        sa.Column("replaced_at", sa.Float),
    )
    op.create_table(
        "audit_event",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sqlite_autoincrement=True,
    )
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


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
        """CREATE FUNCTION audit_event_refused() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$""",
        """CREATE TRIGGER audit_event_unchanged BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
        FOR EACH STATEMENT EXECUTE FUNCTION audit_event_refused()""",
        # Numbers are taken before the commit. Were they not taken one transaction after another, a
        # lower one could come to be seen after a higher, and whoever reads on from the last number
        # read would never see it. The lock is held until the commit; its key is one of ours, as
        # are those in postgres.py.
        f"""CREATE FUNCTION audit_event_ordered() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock({0x1AD1_0003}); RETURN NULL; END $$""",
        """CREATE TRIGGER audit_event_in_turn BEFORE INSERT ON audit_event
        FOR EACH STATEMENT EXECUTE FUNCTION audit_event_ordered()""",
    ],
}

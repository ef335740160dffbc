"""What several replicas on one bucket need: leases, the store's own state, ages and pins."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Add them. What is here already counts as pushed now: its grace begins with the upgrade."""
    op.add_column("upload", sa.Column("store_state", sa.LargeBinary))
    op.add_column("discarded", sa.Column("store_state", sa.LargeBinary))
    op.add_column("blob", sa.Column("checked_at", sa.Float))
    op.create_index("ix_blob_checked_at", "blob", ["checked_at"])
    op.add_column("blob", sa.Column("quarantined_at", sa.Float))
    for table, column in (("repository_blob", "linked_at"), ("manifest", "touched_at")):
        op.add_column(table, sa.Column(column, sa.Float, nullable=False, server_default="0"))
        op.execute(sa.text(f"UPDATE {table} SET {column} = :now").bindparams(now=time.time()))  # noqa: S608
    op.create_table(
        "lease",
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "pin",
        sa.Column("repository_id", sa.Integer, sa.ForeignKey("repository.id"), primary_key=True),
        sa.Column("digest", _TEXT, primary_key=True),
        sa.Column("owner", _TEXT, primary_key=True),
    )

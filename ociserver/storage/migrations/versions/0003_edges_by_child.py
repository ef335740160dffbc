"""Edges are found by their child in one index: SQLite took the primary key before, and read every
edge of the repository.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index again, with the parent in it."""
    op.drop_index("manifest_child_by_child", "manifest_child")
    op.create_index(
        "manifest_child_by_child", "manifest_child", ["repository_id", "child", "parent"]
    )

"""The registry's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them, unless they are from before there were revisions."""
    if sa.inspect(op.get_bind()).has_table("repository"):
        return
    op.create_table(
        "repository",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", _TEXT, nullable=False, unique=True),
    )
    op.create_table(
        "blob",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", _TEXT, nullable=False, unique=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "blob_digest",
        sa.Column("digest", _TEXT, primary_key=True),
        sa.Column("blob_id", sa.Integer, sa.ForeignKey("blob.id"), nullable=False, index=True),
    )
    op.create_table(
        "repository_blob",
        sa.Column("repository_id", sa.Integer, sa.ForeignKey("repository.id"), primary_key=True),
        sa.Column("blob_id", sa.Integer, sa.ForeignKey("blob.id"), primary_key=True, index=True),
    )
    op.create_table(
        "manifest",
        sa.Column("repository_id", sa.Integer, sa.ForeignKey("repository.id"), primary_key=True),
        sa.Column("digest", _TEXT, primary_key=True),
        sa.Column("media_type", _TEXT, nullable=False),
        sa.Column("artifact_type", _TEXT),
        sa.Column("subject", _TEXT),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("descriptor", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("manifest_by_subject", "manifest", ["repository_id", "subject", "digest"])
    op.create_table(
        "manifest_child",
        sa.Column("repository_id", sa.Integer, sa.ForeignKey("repository.id"), primary_key=True),
        sa.Column("parent", _TEXT, primary_key=True),
        sa.Column("child", _TEXT, primary_key=True),
    )
    op.create_index("manifest_child_by_child", "manifest_child", ["repository_id", "child"])
    op.create_table(
        "tag",
        sa.Column("repository_id", sa.Integer, sa.ForeignKey("repository.id"), primary_key=True),
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    op.create_index("tag_by_digest", "tag", ["repository_id", "digest"])
    op.create_table(
        "upload",
        sa.Column("id", _TEXT, primary_key=True),
        sa.Column("repository", _TEXT, nullable=False),
        sa.Column("algorithm", _TEXT, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("hash_state", sa.LargeBinary),
        sa.Column("touched_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "discarded",
        sa.Column("key", _TEXT, primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
    )

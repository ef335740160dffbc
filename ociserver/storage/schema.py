"""The catalog's tables: what bytes exist, the graph over them, work in flight, access, the audit.

One schema for SQLite and PostgreSQL; a change of it is a script in `migrations/versions`.
`docs/storage.md` tells how to rescue data with it by hand.
Names sort by byte on both databases: the spec wants tags in that order.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData()


def text() -> String:
    """Return the type of a text that sorts by byte, on either database."""
    return String().with_variant(String(collation="C"), "postgresql")


repository = Table(
    "repository",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", text(), nullable=False, unique=True),
)

# An object of the blob store that is whole and hashed. The row is the commit.
blob = Table(
    "blob",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", text(), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    # When its bytes were last hashed, and when they were found to be other bytes, or gone.
    Column("checked_at", Float, index=True),
    Column("quarantined_at", Float),
)

blob_digest = Table(
    "blob_digest",
    metadata,
    Column("digest", text(), primary_key=True),
    Column("blob_id", ForeignKey("blob.id"), nullable=False, index=True),
)

repository_blob = Table(
    "repository_blob",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("blob_id", ForeignKey("blob.id"), primary_key=True, index=True),
    # When it was last pushed, mounted or asked for by a push: its grace counts from then.
    Column("linked_at", Float, nullable=False, server_default="0"),
)

# `descriptor` is what a referrers list says of the manifest, rendered once when it was pushed.
manifest = Table(
    "manifest",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("digest", text(), primary_key=True),
    Column("media_type", text(), nullable=False),
    Column("artifact_type", text()),
    Column("subject", text()),
    Column("created_at", Float, nullable=False),
    # When it was last pushed, or lost a tag: the age of an untagged one counts from then.
    Column("touched_at", Float, nullable=False, server_default="0"),
    Column("descriptor", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
Index("manifest_by_subject", manifest.c.repository_id, manifest.c.subject, manifest.c.digest)
Index("manifest_by_digest", manifest.c.digest, manifest.c.repository_id)

manifest_child = Table(
    "manifest_child",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("parent", text(), primary_key=True),
    Column("child", text(), primary_key=True),
)
# The parent is in it so that SQLite's planner prefers it to the primary key, which finds only the
# repository: every edge of it would be read.
Index(
    "manifest_child_by_child",
    manifest_child.c.repository_id,
    manifest_child.c.child,
    manifest_child.c.parent,
)

tag = Table(
    "tag",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("name", text(), primary_key=True),
    Column("digest", text(), nullable=False),
    Column("updated_at", Float, nullable=False),
)
Index("tag_by_digest", tag.c.repository_id, tag.c.digest)

# A manifest that is kept whatever tags say. `owner` names who asks for it: another package, say.
pin = Table(
    "pin",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("digest", text(), primary_key=True),
    Column("owner", text(), primary_key=True),
)

upload = Table(
    "upload",
    metadata,
    Column("id", text(), primary_key=True),
    Column("repository", text(), nullable=False),
    Column("algorithm", text(), nullable=False),
    Column("owner", text(), nullable=False, server_default="anyone"),
    Column("offset", BigInteger, nullable=False),
    Column("hash_state", LargeBinary),
    # What the blob store needs to go on with the object: multipart upload, parts, tail.
    Column("store_state", LargeBinary),
    Column("touched_at", Float, nullable=False, index=True),
)

# Keys whose objects are to be deleted. With it every object of the blob store is named by a row at
# any moment (upload, blob or here), so a crash leaves nothing that only a listing would find.
# A minute after `since` they are: a collection sets it ahead, for those who still read.
discarded = Table(
    "discarded",
    metadata,
    Column("key", text(), primary_key=True),
    Column("since", Float, nullable=False),
    Column("store_state", LargeBinary),
)

# Who alone may do something for now, among all workers of all replicas.
lease = Table(
    "lease",
    metadata,
    Column("name", text(), primary_key=True),
    Column("owner", text(), nullable=False),
    Column("until", Float, nullable=False),
)

# People and robots share their names. `groups` is a sorted list as JSON: nobody asks who is in one.
principal = Table(
    "principal",
    metadata,
    Column("name", text(), primary_key=True),
    Column("kind", text(), nullable=False),
    Column("groups", text(), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float, index=True),
    # What was issued to it before then counts no more.
    Column("tokens_from", Float, nullable=False, index=True),
)

credential = Table(
    "credential",
    metadata,
    Column("id", text(), primary_key=True),
    Column("principal", ForeignKey("principal.name"), nullable=False, index=True),
    Column("hash", text(), nullable=False),
    Column("ends_at", Float),
)

# `number` tells which was added last, whatever the clocks of those who add them say.
signing_key = Table(
    "signing_key",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", text(), nullable=False, unique=True),
    Column("private", LargeBinary, nullable=False),
    Column("signs_from", Float, nullable=False),
)

refresh_token = Table(
    "refresh_token",
    metadata,
    Column("hash", text(), primary_key=True),
    Column("family", text(), nullable=False, index=True),
    Column("principal", text(), nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("ends_at", Float, nullable=False, index=True),
    Column("replaced_at", Float),
)

# Triggers refuse to change or delete a row. `detail` is JSON. `hash` covers the row and the hash
# of the one before (`auth/chain.py`), so numbers are given by who records: they are 1, 2, 3.
audit_event = Table(
    "audit_event",
    metadata,
    Column(
        "number",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("at", Float, nullable=False),
    Column("actor", text(), nullable=False),
    Column("action", text(), nullable=False),
    Column("subject", text(), nullable=False),
    Column("outcome", text(), nullable=False),
    Column("detail", text(), nullable=False),
    Column("hash", text(), nullable=False),
)
# For whoever looks for something, the latest first.
Index("audit_event_by_time", audit_event.c.at, audit_event.c.number)
for _each in (
    audit_event.c.subject,
    audit_event.c.actor,
    audit_event.c.action,
    audit_event.c.outcome,
):
    Index(f"audit_event_by_{_each.name}", _each, audit_event.c.at, audit_event.c.number)

"""The model registry's tables, beside the registry's own in one catalog.

A model is a repository that has versions, and its row is made with the first. A change of the
schema is a script in `ociserver/storage/migrations/versions`: one catalog has one chain of them.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    Table,
    UniqueConstraint,
    and_,
    or_,
)

from ociserver.storage.schema import metadata, text

model = Table(
    "model",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    # The highest number ever given, so that none is given twice.
    Column("last_number", Integer, nullable=False),
    Column("owner", text(), nullable=False, server_default=""),
    Column("task", text(), nullable=False, server_default=""),
    Column("description", text(), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("updated_by", text(), nullable=False),
)

# `body` is the version as the wire shows it, written once: nothing of a version ever changes.
model_version = Table(
    "model_version",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", text(), nullable=False, unique=True),
    Column("digest", text(), nullable=False),
    Column("framework", text(), nullable=False),
    Column("run", text(), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("created_by", text(), nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("repository_id", "digest"),
)
Index("model_version_by_digest", model_version.c.digest)
Index("model_version_by_time", model_version.c.repository_id, model_version.c.created_at)
Index(
    "model_version_latest",
    model_version.c.created_at,
    model_version.c.repository_id,
    model_version.c.number,
)

# What versions are found and sorted by: a row for each metric, parameter and tag. A metric's row
# holds what is known last: an evaluation's value takes the place of an earlier one here, and only
# here. A number is in `number_value`, and everything is in `text_value`.
version_value = Table(
    "version_value",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", text(), primary_key=True),
    Column("key", text(), primary_key=True),
    Column("number_value", Float),
    Column("text_value", text(), nullable=False),
)
Index(
    "version_value_by_number",
    version_value.c.kind,
    version_value.c.key,
    version_value.c.number_value,
    version_value.c.repository_id,
    version_value.c.number,
)
Index(
    "version_value_by_text",
    version_value.c.kind,
    version_value.c.key,
    version_value.c.text_value,
    version_value.c.repository_id,
    version_value.c.number,
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("id", text(), primary_key=True),
    Column("repository_id", ForeignKey("repository.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("by", text(), nullable=False),
    Column("dataset", text(), nullable=False),
    Column("metrics", LargeBinary, nullable=False),
)
Index("evaluation_by_version", evaluation.c.repository_id, evaluation.c.number, evaluation.c.at)

# `body` is the run as its last PUT left it; once `finished_at` is set it stays.
run = Table(
    "run",
    metadata,
    Column("id", text(), primary_key=True),
    Column("created_by", text(), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("body", LargeBinary, nullable=False),
)

# Lineage: `source` came, in the way `kind` says, from `target`. Both are names of nodes
# (`mlext/lineage.py`): a digest, `run:ID`, `commit:…`, `dataset:…`. `model` is where it was said,
# for who may pull there may know it; empty where a run says it.
edge = Table(
    "edge",
    metadata,
    Column("source", text(), primary_key=True),
    Column("kind", text(), primary_key=True),
    Column("target", text(), primary_key=True),
    Column("model", text(), primary_key=True),
    Column("at", Float, nullable=False),
    Column("by", text(), nullable=False),
)
Index("edge_by_target", edge.c.target, edge.c.model, edge.c.source)

# Where an alias points now; its tag is moved with it. `moves` counts, for ETags.
alias = Table(
    "alias",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("name", text(), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("digest", text(), nullable=False),
    Column("moves", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("updated_by", text(), nullable=False),
    Column("reason", text(), nullable=False),
)
Index("alias_by_version", alias.c.repository_id, alias.c.number)
Index("alias_by_name", alias.c.name, alias.c.repository_id, alias.c.number)

# Where it pointed when: a row for each move, `at` growing with `move`.
alias_move = Table(
    "alias_move",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("name", text(), primary_key=True),
    Column("move", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("by", text(), nullable=False),
    Column("reason", text(), nullable=False),
    Column("from_number", Integer),
    Column("number", Integer, nullable=False),
    Column("digest", text(), nullable=False),
)
Index("alias_move_by_time", alias_move.c.repository_id, alias_move.c.name, alias_move.c.at)

# `body` is the gate as it was put; globs are matched by the program.
gate = Table(
    "gate",
    metadata,
    Column("id", text(), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("updated_by", text(), nullable=False),
)

approval = Table(
    "approval",
    metadata,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("alias", text(), primary_key=True),
    Column("by", text(), primary_key=True),
    Column("at", Float, nullable=False),
    Column("comment", text(), nullable=False),
)

# Random bytes that all workers of all replicas share, each made once for its own use. What was
# signed by one is worth nothing once its row is gone.
secret = Table(
    "secret",
    metadata,
    Column("name", text(), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# What a request with an Idempotency-Key was answered, for whoever sends it once more.
idempotent_answer = Table(
    "idempotent_answer",
    metadata,
    Column("by", text(), primary_key=True),
    Column("key", text(), primary_key=True),
    Column("request", text(), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("at", Float, nullable=False, index=True),
)


def is_of_run(version: FromClause, maker: FromClause) -> ColumnElement[bool]:
    """Return whether a row of `model_version` is of a row of `run`: it names it, and who registered
    it put that run, too, or it came after the run, when registering asked whether they may know it.
    """
    return and_(
        version.c.run == maker.c.id,
        or_(
            version.c.created_by == maker.c.created_by,
            version.c.created_at > maker.c.created_at,
        ),
    )

"""The model registry: models, versions, runs, lineage, aliases, gates."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _text(name: str, **options: object) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False, **options)  # type: ignore[arg-type]


def _float(name: str, **options: object) -> sa.Column[float]:
    return sa.Column(name, sa.Float, nullable=False, **options)  # type: ignore[arg-type]


def _whole(name: str, **options: object) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, **options)  # type: ignore[arg-type]


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _repository(*, primary_key: bool = True) -> sa.Column[int]:
    return sa.Column(
        "repository_id",
        sa.Integer,
        sa.ForeignKey("repository.id"),
        primary_key=primary_key,
        nullable=False,
    )


def upgrade() -> None:
    """Make their tables."""
    _models()
    _lineage()
    _aliases()


def _models() -> None:
    op.create_table(
        "model",
        _repository(),
        _whole("last_number"),
        _text("owner", server_default=""),
        _text("task", server_default=""),
        _text("description", server_default=""),
        _float("created_at"),
        _float("updated_at"),
        _text("updated_by"),
    )
    op.create_table(
        "model_version",
        _repository(),
        _whole("number", primary_key=True),
        _text("id", unique=True),
        _text("digest"),
        _text("framework"),
        _text("run", index=True),
        _float("created_at"),
        _text("created_by"),
        _bytes("body"),
        sa.UniqueConstraint("repository_id", "digest"),
    )
    op.create_index("model_version_by_digest", "model_version", ["digest"])
    op.create_index("model_version_by_time", "model_version", ["repository_id", "created_at"])
    op.create_index(
        "model_version_latest", "model_version", ["created_at", "repository_id", "number"]
    )
    op.create_table(
        "version_value",
        _repository(),
        _whole("number", primary_key=True),
        _text("kind", primary_key=True),
        _text("key", primary_key=True),
        sa.Column("number_value", sa.Float),
        _text("text_value"),
    )
    for column in ("number", "text"):
        op.create_index(
            f"version_value_by_{column}",
            "version_value",
            ["kind", "key", f"{column}_value", "repository_id", "number"],
        )
    op.create_table(
        "evaluation",
        _text("id", primary_key=True),
        _repository(primary_key=False),
        _whole("number"),
        _float("at"),
        _text("by"),
        _text("dataset"),
        _bytes("metrics"),
    )
    op.create_index("evaluation_by_version", "evaluation", ["repository_id", "number", "at"])


def _lineage() -> None:
    op.create_table(
        "run",
        _text("id", primary_key=True),
        _text("created_by"),
        _float("created_at"),
        sa.Column("finished_at", sa.Float),
        _bytes("body"),
    )
    op.create_table(
        "edge",
        _text("source", primary_key=True),
        _text("kind", primary_key=True),
        _text("target", primary_key=True),
        _text("model", primary_key=True),
        _float("at"),
        _text("by"),
    )
    op.create_index("edge_by_target", "edge", ["target", "model", "source"])
    # Who holds an artifact is asked by its digest alone.
    op.create_index("manifest_by_digest", "manifest", ["digest", "repository_id"])


def _aliases() -> None:
    op.create_table(
        "alias",
        _repository(),
        _text("name", primary_key=True),
        _whole("number"),
        _text("digest"),
        _whole("moves"),
        _float("updated_at"),
        _text("updated_by"),
        _text("reason"),
    )
    op.create_index("alias_by_version", "alias", ["repository_id", "number"])
    op.create_index("alias_by_name", "alias", ["name", "repository_id", "number"])
    op.create_table(
        "alias_move",
        _repository(),
        _text("name", primary_key=True),
        _whole("move", primary_key=True),
        _float("at"),
        _text("by"),
        _text("reason"),
        sa.Column("from_number", sa.Integer),
        _whole("number"),
        _text("digest"),
    )
    op.create_index("alias_move_by_time", "alias_move", ["repository_id", "name", "at"])
    op.create_table(
        "gate", _text("id", primary_key=True), _bytes("body"), _float("updated_at"),
        _text("updated_by"),
    )  # fmt: skip
    op.create_table(
        "approval",
        _repository(),
        _whole("number", primary_key=True),
        _text("alias", primary_key=True),
        _text("by", primary_key=True),
        _float("at"),
        _text("comment"),
    )
    op.create_table("secret", _text("name", primary_key=True), _bytes("value"))
    op.create_table(
        "idempotent_answer",
        _text("by", primary_key=True),
        _text("key", primary_key=True),
        _text("request"),
        _bytes("answer"),
        _float("at", index=True),
    )

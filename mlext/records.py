"""What the model registry keeps, as values. Pure. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ociserver.refs import Digest, RepositoryName, Tag

Metrics = Mapping[str, float]
Params = Mapping[str, str | float | int | bool]
Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A repository that has versions, and what is said of them all."""

    name: RepositoryName
    last_number: int
    owner: str = ""
    task: str = ""
    description: str = ""
    created_at: float
    updated_at: float
    updated_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a version is registered with. `lineage` are (kind, node) that the artifact came from."""

    digest: Digest
    framework: str = ""
    run_id: str = ""
    metrics: Metrics = field(default_factory=dict)
    params: Params = field(default_factory=dict)
    tags: Tags = field(default_factory=dict)
    description: str = ""
    lineage: tuple[tuple[str, str], ...] = ()
    run: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version. `body` is what the wire shows of it, as JSON, the same for good."""

    model: RepositoryName
    number: int
    id: str
    digest: Digest
    framework: str
    run_id: str
    created_at: float
    created_by: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedVersion:
    """A version as lineage shows it, with the aliases that point at it now."""

    digest: Digest
    model: RepositoryName
    number: int
    id: str
    framework: str
    aliases: tuple[Tag, ...]

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "model": self.model,
            "version": self.number,
            "version_id": self.id,
            "framework": self.framework,
            "aliases": list(self.aliases),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Metrics that were measured after registration, on a dataset."""

    id: str
    number: int
    at: float
    by: str
    dataset: str
    metrics: Metrics

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "id": self.id,
            "version": self.number,
            "evaluated_at": rfc3339(self.at),
            "evaluated_by": self.by,
            "dataset": self.dataset,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """Where an alias points, since its last move; `moves` counts these."""

    model: RepositoryName
    name: Tag
    number: int
    digest: Digest
    moves: int
    updated_at: float
    updated_by: str
    reason: str

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "alias": self.name,
            "version": self.number,
            "artifact_digest": self.digest,
            "updated_by": self.updated_by,
            "updated_at": rfc3339(self.updated_at),
            "reason": self.reason,
        }

    @property
    def etag(self) -> str:
        """What a client holds against a later state: it differs with each move."""
        return f'"{self.number}.{self.moves}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One move of an alias; `from_number` is None for the first."""

    name: Tag
    move: int
    at: float
    by: str
    reason: str
    from_number: int | None
    number: int
    digest: Digest

    @property
    def etag(self) -> str:
        """`Alias.etag` after this move."""
        return f'"{self.number}.{self.move}"'

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "alias": self.name,
            "move": self.move,
            "at": rfc3339(self.at),
            "by": self.by,
            "reason": self.reason,
            "from_version": self.from_number,
            "version": self.number,
            "artifact_digest": self.digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """That somebody approves of a version under an alias."""

    number: int
    alias: Tag
    by: str
    at: float
    comment: str

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "version": self.number,
            "alias": self.alias,
            "approved_by": self.by,
            "approved_at": rfc3339(self.at),
            "comment": self.comment,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run; `body` is what it was last put as. Once `finished_at` is set it stays so."""

    id: str
    created_by: str
    created_at: float
    finished_at: float | None
    body: Mapping[str, object]

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {
            "run_id": self.id,
            **{
                key: rfc3339(value) if isinstance(value, float) else value
                for key, value in self.body.items()
            },
            "created_by": self.created_by,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`source` came, in the way `kind` says, from `target`; both are nodes (`mlext.lineage`)."""

    source: str
    kind: str
    target: str


def rfc3339(at: float) -> str:
    """Return the time as RFC 3339 writes it, in UTC, to the microsecond."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")

"""Models and versions to find: who they are and what is said of them, the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import material

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = 1_780_000_000.0
_SECONDS_APART = 60.0
# How many values each tag has: from some that half of all versions share to some that few do.
TAGS = {"tier": 2, "region": 5, "team": 20, "owner": 500, "dataset": 5_000}
METRICS = ("accuracy", "auc", "f1", "latency_ms", "loss")
# An alias, and how far behind the last version it stands.
ALIASES = {"prod": 2, "staging": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model: an artifact, five tags and five metrics."""

    model: str
    number: int
    at: float
    manifest: bytes
    digest: str
    tags: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """So many models, each with so many versions."""

    models: int
    each: int

    @property
    def names(self) -> list[str]:
        """The models' names, in order."""
        return [model(of) for of in range(self.models)]

    def versions(self, of: int) -> Iterator[Version]:
        """Yield the versions of one model. Which was made when is mixed over all models."""
        draw = random.Random(of)
        name = model(of)
        for number in range(1, self.each + 1):
            body = material.manifest([], note=f"{name} {number}")
            yield Version(
                model=name,
                number=number,
                at=BEGIN + ((number - 1) * self.models + of) * _SECONDS_APART,
                manifest=body,
                digest=material.digest(body),
                tags={key: tag(key, draw.randrange(count)) for key, count in TAGS.items()},
                metrics={key: round(draw.random(), 4) for key in METRICS},
            )

    def batches(self, size: int = 100) -> Iterator[range]:
        """Yield the models in parts: what is in memory at once."""
        for start in range(0, self.models, size):
            yield range(start, min(start + size, self.models))


def model(of: int) -> str:
    return f"model-{of:05}"


def tag(key: str, number: int) -> str:
    return f"{key}-{number}"

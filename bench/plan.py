"""What a run is made of: sizes, where generated input lies, and what a measure is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import material
from bench.load import Script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.peers import Peer
    from bench.server import Server

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything; `--quick` shrinks it all."""

    blob: int
    stream: int
    shard: int
    seconds: float
    reads: int
    tags: int
    referrers: int
    peer_tags: int
    peer_referrers: int
    artifacts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a run's generated input lies, and its sizes."""

    folder: Path
    sizes: Sizes

    def script(self, name: str, *, ends_when_used: bool = False) -> Script:
        """Start an empty script of this name."""
        return Script(self.folder / f"{name}.script", ends_when_used)

    def blob(self) -> Path:
        """Return the big file, made when first asked for."""
        return material.big_file(self.folder / "blob.bin", self.sizes.blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the tables."""

    key: str
    label: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A named measure; without a fill each take starts on an empty folder."""

    name: str
    rows: tuple[Row, ...]
    take: Callable[[Bench, Server], Figures]
    fill: Callable[[Bench, Server], None] | None = None
    static: bool = False  # nginx can be measured too
    both_profiles: bool = True
    once: bool = False  # too long for rounds
    fits: Callable[[Peer], bool] = lambda _peer: True

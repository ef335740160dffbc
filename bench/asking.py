"""What is asked of a model registry: scripts of resolves, searches and promotions, of Lading and
the same of MLflow. All are drawn by a seed, so that servers of one round are asked the same.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.load import Script
from bench.population import METRICS, TAGS, Population, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JSON = "application/json"
PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. `theirs` is how often MLflow is asked for what takes it long."""

    population: Population
    searches: int
    moves: int
    theirs: int
    seconds: float
    rounds: int


FULL = Sizes(
    population=Population(models=5_000, each=50), searches=300, moves=1_000, theirs=40, seconds=3,
    rounds=3,
)  # fmt: skip
QUICK = Sizes(
    population=Population(models=200, each=10), searches=50, moves=100, theirs=10, seconds=1,
    rounds=1,
)  # fmt: skip


class Asking:
    """Writes the scripts of one round, for whichever server."""

    def __init__(self, sizes: Sizes, folder: Path, seed: int) -> None:
        self._sizes = sizes
        self._folder = folder
        self._seed = seed

    def _drawn(self, name: str, count: int, ask: Callable[[random.Random], str]) -> Path:
        # The same draws for every server of a round, whatever else was asked of one before.
        draw = random.Random(f"{self._seed} {name}")
        script = Script(self._folder / f"{name}.script")
        for _ in range(count):
            script.group().step("GET", ask(draw), 200)
        return script.save()

    def _names(self) -> list[str]:
        names = self._sizes.population.names
        random.Random(self._seed).shuffle(names)
        return names

    def resolves(self) -> Path:
        """Every model's alias once."""
        script = Script(self._folder / "resolves.script")
        for name in self._names():
            script.group().step("GET", f"/v1/models/{name}/aliases/prod", 200)
        return script.save()

    def pages(self) -> Path:
        """Ask for a page of every model once, by a name that no search of `searches` has."""
        script = Script(self._folder / "pages.script", ends_when_used=True)
        for name in self._names():
            script.group().step("GET", f"/v1/models/{name}/versions?limit={PAGE - 1}", 200)
        return script.save()

    def searches(self) -> Iterator[tuple[str, Path]]:
        """Yield each kind of search, with its name."""
        for name, ask in (
            ("newest", self._newest), ("one", self._one), ("broad", _broad), ("mixed", _mixed),
            ("rare", _rare), ("tagged", _tagged),
        ):  # fmt: skip
            yield name, self._drawn(name, self._sizes.searches, ask)

    def _model(self, draw: random.Random) -> str:
        return draw.choice(self._sizes.population.names)

    def _newest(self, draw: random.Random) -> str:
        return f"/v1/models/{self._model(draw)}/versions?limit={PAGE}"

    def _one(self, draw: random.Random) -> str:
        of, by = draw.sample(METRICS, 2)
        said = f"metrics.{of} > 0.3 and tags.tier = '{_tag(draw, 'tier')}'"
        return f"/v1/models/{self._model(draw)}/versions?{_query(said, f'-metrics.{by}')}"

    def moves(self, count: int, name: str) -> Path:
        """Promotions, each of a model of its own."""
        draw = random.Random(f"{self._seed} {name}")
        script = Script(self._folder / f"{name}.script", ends_when_used=True)
        for model in (self._names() * (count // self._sizes.population.models + 1))[:count]:
            number = draw.randint(1, self._sizes.population.each)
            said = json.dumps({"version": number, "reason": "better on last week's traffic"})
            target = f"/v1/models/{model}/aliases/prod"
            script.group().step("PUT", target, 200, said.encode(), JSON)
        return script.save()

    # -- the same of MLflow

    def their_resolves(self) -> Path:
        """Ask for some models' aliases once."""
        script = Script(self._folder / "their-resolves.script")
        for name in self._names()[: self._sizes.theirs]:
            where = f"name={name}&alias=prod"
            script.group().step("GET", f"/api/2.0/mlflow/registered-models/alias?{where}", 200)
        return script.save()

    def their_searches(self) -> Iterator[tuple[str, Path]]:
        """Yield the two kinds of search that both know, by the names that ours have."""

        def newest(draw: random.Random) -> str:
            return _their_search(f"name = '{self._model(draw)}'", "version_number DESC")

        def tagged(draw: random.Random) -> str:
            return _their_search(f"tags.team = '{_tag(draw, 'team')}'", "creation_timestamp DESC")

        for name, ask in (("newest", newest), ("tagged", tagged)):
            yield name, self._drawn(f"their-{name}", self._sizes.theirs, ask)

    def their_moves(self) -> Path:
        """Promotions, each of a model of its own."""
        draw = random.Random(f"{self._seed} moves")
        script = Script(self._folder / "their-moves.script", ends_when_used=True)
        for model in self._names()[: self._sizes.theirs]:
            number = str(draw.randint(1, self._sizes.population.each))
            said = json.dumps({"name": model, "alias": "prod", "version": number})
            target = "/api/2.0/mlflow/registered-models/alias"
            script.group().step("POST", target, 200, said.encode(), JSON)
        return script.save()


def _broad(draw: random.Random) -> str:
    of = draw.choice(METRICS)
    said = f"metrics.{of} > {draw.uniform(0.3, 0.9):.3f} and tags.region = '{_tag(draw, 'region')}'"
    return f"/v1/versions?{_query(said, f'-metrics.{of}')}"


def _mixed(draw: random.Random) -> str:
    one, other, by = draw.sample(METRICS, 3)
    said = f"metrics.{one} > 0.8 and metrics.{other} < 0.3 and tags.team = '{_tag(draw, 'team')}'"
    return f"/v1/versions?{_query(said, f'-metrics.{by}')}"


def _rare(draw: random.Random) -> str:
    said = f"tags.dataset = '{_tag(draw, 'dataset')}'"
    return f"/v1/versions?{_query(said, f'-metrics.{draw.choice(METRICS)}')}"


def _tagged(draw: random.Random) -> str:
    said = f"tags.team = '{_tag(draw, 'team')}'"
    return f"/v1/versions?{_query(said, '-created_at')}"


def _tag(draw: random.Random, key: str) -> str:
    return tag(key, draw.randrange(TAGS[key]))


def _query(said: str, sort: str) -> str:
    return f"filter={quote(said)}&sort={quote(sort)}&limit={PAGE}"


def _their_search(said: str, order: str) -> str:
    asked = f"filter={quote(said)}&order_by={quote(order)}&max_results={PAGE}"
    return f"/api/2.0/mlflow/model-versions/search?{asked}"

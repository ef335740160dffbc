# Whatever was done and whenever: where an alias stood is the same by its history and by the audit,
# and no event of the audit can be another one, be gone or stand elsewhere.
from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.strategies import DataObject

from mlext import aliases, versions
from mlext.acts import Act
from mlext.aliases import Move
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import AliasMove
from mlext.replay import Standing, move_of, standings
from ociserver.auth.chain import START as BEGINNING
from ociserver.auth.chain import Mark, first_break, line
from ociserver.auth.records import AuditLink
from ociserver.errors import LadingError
from ociserver.refs import RepositoryName, Tag
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog
from tests.faults.models import artifact
from tests.mlext.acting import TRANSACTION, as_models, author, pushed
from tests.mlext.commands import Commands
from tests.mlext.models import Modelling
from tests.postgres import PostgresServer

ALIASES = ("prod", "staging")
START = 1_700_000_000.0
TICK = 0.000_001
# Clocks of replicas go back, stand still and jump; a microsecond is the least that they tell.
TIMES = some.integers(0, 12).map(lambda n: round(START + n * TICK, 6)) | some.integers(0, 100).map(
    lambda n: START + n
)
NUMBERS = some.integers(1, 4)
NAMES = some.sampled_from(ALIASES)
PEOPLE = some.sampled_from(["user:ann", "user:bob", "robot:ci"])

Work = Callable[[Act, RepositoryName], object]


def registering(tag: str | None) -> Work:
    return lambda act, model: pushed(act, model, artifact(framework="x"), tag)


def moving(moves: list[tuple[str, int, int | None]]) -> Work:
    asked = [Move(alias=Tag(name), number=number, expected=was) for name, number, was in moves]
    return lambda act, model: aliases.move(act, model, asked, f"to {asked[0].number}")


def evaluating(number: int, f1: float) -> Work:
    def work(act: Act, model: RepositoryName) -> None:
        versions.evaluate(act, model, number, {"f1": f1}, "")

    return work


def approving(number: int, name: str) -> Work:
    return lambda act, model: aliases.approve(act, model, number, Tag(name), "")


def gating(rule: str) -> Work:
    def work(act: Act, model: RepositoryName) -> None:
        body = f'{{"name": "g", "model": "{model}", "alias": "prod", {rule}}}'
        act.tx.put_gate(model.replace("/", "."), body.encode(), act.by.name, act.at)

    return work


GATES = ('"approvals": 1', '"rules": ["version.metrics.f1 > 0.5"]', '"rules": ["true"]',
         '"soak": {"alias": "staging", "seconds": 3}')  # fmt: skip
MOVES = some.tuples(NAMES, NUMBERS, some.none() | some.integers(0, 4))
WORK = some.one_of(
    some.sampled_from([None, None, "prod", "other"]).map(registering),
    some.lists(MOVES, min_size=1, max_size=2, unique_by=lambda each: each[0]).map(moving),
    some.lists(MOVES, min_size=1, max_size=2, unique_by=lambda each: each[0]).map(moving),
    some.tuples(NAMES, NUMBERS, some.none()).map(lambda each: moving([each])),
    some.builds(evaluating, NUMBERS, some.sampled_from([0.1, 0.9])),
    some.builds(approving, NUMBERS, NAMES),
    some.sampled_from(GATES).map(gating),
)
HISTORIES = some.lists(some.tuples(WORK, PEOPLE, TIMES), min_size=3, max_size=25)


@dataclass
class World:
    """A catalog in this process, and the loop that it lives in. `last` is the last event known."""

    runner: asyncio.Runner
    catalog: ModelsCatalog
    last: Mark = BEGINNING

    def live(self, model: RepositoryName, history: list[tuple[Work, str, float]]) -> list[bytes]:
        """Do it all; return the audit's lines on it."""

        async def one(work: Work, by: str, at: float) -> None:
            # What is refused leaves nothing behind.
            with suppress(LadingError):
                await self.catalog.write(
                    lambda tx: work(Act(tx, author(by), at), model), in_turn=True
                )

        async def main() -> Sequence[AuditLink]:
            versions = [(registering(None), "robot:ci", START)] * 2
            # They wait in one queue, and share commits.
            await asyncio.gather(*(one(*each) for each in versions + history))
            return await self.catalog.read(lambda tx: tx.trail(self.last.number, 999))

        links = self.runner.run(main())
        self.last = Mark(links[-1].event.number, links[-1].hash)
        return [line(each) for each in links]

    def asked(
        self, model: RepositoryName, times: Sequence[float]
    ) -> dict[tuple[str, float], Standing | None]:
        """Return what `?at=` would be answered for each alias and time."""

        def work(tx: ModelsTx) -> dict[tuple[str, float], Standing | None]:
            return {
                (name, at): as_standing(model, tx.alias_at(model, Tag(name), at))
                for name in ALIASES
                for at in times
            }

        async def main() -> dict[tuple[str, float], Standing | None]:
            return await self.catalog.read(work)

        return self.runner.run(main())

    def now(self, model: RepositoryName) -> dict[str, int]:
        """Return where the aliases stand."""

        async def main() -> dict[str, int]:
            return await self.catalog.read(
                lambda tx: {each.name: each.number for each in tx.aliases(model, "", 99)}
            )

        return self.runner.run(main())


def as_standing(model: str, move: AliasMove | None) -> Standing | None:
    if move is None:
        return None
    return Standing(
        model=model,
        alias=move.name,
        number=move.number,
        digest=move.digest,
        at=move.at,
        by=move.by,
        reason=move.reason,
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with asyncio.Runner() as runner:
        path = tmp_path_factory.mktemp("replay") / "catalog.db"

        async def opened() -> SqliteCatalog:
            return SqliteCatalog(path, TRANSACTION)

        catalog = runner.run(opened())
        yield World(runner, as_models(catalog))
        runner.run(catalog.aclose())


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer) -> Iterator[World]:
    url = postgres.new_database()
    with asyncio.Runner() as runner:
        runner.run(migrate(url))

        async def opened() -> PostgresCatalog:
            return PostgresCatalog(url, TRANSACTION)

        catalog = runner.run(opened())
        yield World(runner, as_models(catalog))
        runner.run(catalog.aclose())


def check(world: World, history: list[tuple[Work, str, float]], more: list[float]) -> list[bytes]:
    model = RepositoryName(f"replay/{uuid.uuid4().hex}")
    lines = world.live(model, history)
    moves = [each for each in map(move_of, lines) if each is not None]
    exactly = [each.at for each in moves]
    for name in ALIASES:
        # Whatever clocks said, a later move has a later time.
        ordered = [each.at for each in moves if each.alias == name]
        assert ordered == sorted(set(ordered))
    times = [*exactly, *(round(at - TICK, 6) for at in exactly), *more, 0.0, START * 2]
    told = world.asked(model, times)
    assert told == {(name, at): standings(moves, at).get((model, name)) for name, at in told}
    ended = standings(moves, math.inf)
    assert world.now(model) == {name: each.number for (_, name), each in ended.items()}
    return lines


@settings(max_examples=40, deadline=None)
@given(history=HISTORIES, more=some.lists(TIMES, max_size=4), which=some.data())
def test_any_past_moment_is_the_same_by_history_and_by_audit(
    embedded: World, history: list[tuple[Work, str, float]], more: list[float], which: DataObject
) -> None:
    before = embedded.last
    lines = check(embedded, history, more)
    head = embedded.last
    assert first_break(lines, before, head) is None
    for change in (edited, removed, swapped):
        other = change(lines, which)
        assert other == lines or first_break(other, before, head) is not None


@settings(max_examples=6, deadline=None)
@given(history=HISTORIES, more=some.lists(TIMES, max_size=4))
def test_it_is_so_on_postgresql(
    shared: World, history: list[tuple[Work, str, float]], more: list[float]
) -> None:
    check(shared, history, more)


def edited(lines: list[bytes], which: DataObject) -> list[bytes]:
    """Have an event say something else: who, when, of what, to where, by what verdict."""
    number = which.draw(some.integers(0, len(lines) - 1))
    event = json.loads(lines[number])
    key = which.draw(some.sampled_from(sorted({*event} - {"number"})))
    if key == "detail":
        inner = which.draw(some.sampled_from(sorted(event["detail"])))
        event["detail"][inner] = "other"
    else:
        event[key] = 1.5 if key == "at" else "other"
    text = json.dumps(event, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return [*lines[:number], text, *lines[number + 1 :]]


def removed(lines: list[bytes], which: DataObject) -> list[bytes]:
    number = which.draw(some.integers(0, len(lines) - 1))
    return [*lines[:number], *lines[number + 1 :]]


def swapped(lines: list[bytes], which: DataObject) -> list[bytes]:
    one, two = (which.draw(some.integers(0, len(lines) - 1)) for _ in range(2))
    other = list(lines)
    other[one], other[two] = lines[two], lines[one]
    return other


def test_a_command_tells_it_from_an_export(models: Modelling, tmp_path: Path) -> None:
    model = models.name()
    for _ in range(2):
        models.register(model)
    first = models.promote(model, "prod", 1).json()
    second = models.promote(model, "prod", 2).json()
    lines = models.client.get(
        "/v1/audit", params={"limit": 1_000}, headers={"Accept": "application/x-ndjson"}
    ).content
    lading = Commands(str(models.client.base_url))
    state = ("audit", "state", model, "prod", "--json")
    assert lading.json(*state[:-1], stdin=lines.decode()) == second
    assert lading.json(*state[:-1], "--at", first["updated_at"], stdin=lines.decode()) == first
    early = lading(*state, "--at", "2020-01-01T00:00:00Z", stdin=lines.decode())
    assert (early.status, early.out) == (1, "")
    assert "had no alias prod then" in early.err
    export = tmp_path / "export"
    export.write_bytes(lines)
    assert "version          2" in lading.done(*state[:-1], "--export", export)
    export.write_bytes(lines.replace(b'"version":2', b'"version":1'))
    changed = lading(*state, "--export", export)
    assert (changed.status, changed.out) == (1, "")
    assert "was changed" in changed.err
    assert lading(*state, "--at", "yesterday").status == 2
    assert lading(*state, "--export", tmp_path / "none").status == 2

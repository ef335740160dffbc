"""`kill -9` while models are registered and moved: what is found afterwards is the state before or
after each of these, with alias, tag, history and audit in agreement.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from sqlalchemy import event

from mlext import aliases, versions
from mlext.acts import Act
from mlext.aliases import Move
from mlext.ports import ModelsTx
from mlext.records import Registration
from ociserver.refs import RepositoryName, Tag
from ociserver.storage.sqlite import SqliteCatalog
from tests.faults.audit import crash
from tests.faults.models import (
    Scene,
    artifact,
    ask,
    postgres_scene,
    promote,
    push,
    sqlite_scene,
)
from tests.faults.wire import Connection
from tests.mlext.acting import TRANSACTION, author, pushed, stored

MODEL = RepositoryName("race/stepwise")
ANN = author("user:ann")
Work = Callable[[Act], object]


PLAIN, SAYING = artifact(), artifact(framework="pytorch")


def set_up(act: Act) -> None:
    for body in (artifact(framework="a"), artifact(framework="b"), PLAIN):
        pushed(act, MODEL, body)
    moves = [Move(alias=Tag("prod"), number=1), Move(alias=Tag("old"), number=2)]
    aliases.move(act, MODEL, moves, "set up")


def swap(act: Act) -> None:
    moves = [Move(alias=Tag("prod"), number=2, expected=1), Move(alias=Tag("old"), number=1)]
    aliases.move(act, MODEL, moves, "swap")


def registered(act: Act) -> None:
    made_from = (("base-model", "sha256:" + "1" * 64),)
    asked = Registration(
        digest=stored(PLAIN).digest,
        run_id="r1",
        run={"code_commit": "a" * 40},
        metrics={"f1": 0.9},
        lineage=made_from,
    )
    versions.register(act, MODEL, asked)


def pushed_onto_an_alias(act: Act) -> None:
    pushed(act, MODEL, SAYING, "prod")


@dataclass
class Steps:
    """What the files of a catalog were before each statement of a write, and after it."""

    folder: Path
    copies: list[Path] = field(default_factory=list)

    def keep(self, *_: object) -> None:
        copy = self.folder / f"step-{len(self.copies)}"
        copy.mkdir()
        for path in self.folder.glob("catalog.db*"):
            shutil.copy(path, copy)
        self.copies.append(copy)


def stepwise(folder: Path, work: Work) -> list[Path]:
    """Run `work` as one write; return copies of the files as a kill before each step leaves them.

    A process that is killed leaves to the kernel what it has written: just these bytes.
    """
    steps = Steps(folder)

    async def run() -> None:
        catalog = SqliteCatalog(folder / "catalog.db", TRANSACTION)
        try:
            await catalog.write(lambda tx: set_up(Act(cast("ModelsTx", tx), ANN)))
            for moment in ("before_cursor_execute", "commit"):
                event.listen(catalog._writer, moment, steps.keep)
            await catalog.write(lambda tx: work(Act(cast("ModelsTx", tx), ANN)))
            for moment in ("before_cursor_execute", "commit"):
                event.remove(catalog._writer, moment, steps.keep)
            steps.keep()
        finally:
            await catalog.aclose()

    asyncio.run(run())
    return steps.copies


@pytest.mark.parametrize("work", [swap, registered, pushed_onto_an_alias])
def test_a_kill_before_any_step_leaves_the_old_state_whole(tmp_path: Path, work: Work) -> None:
    copies = stepwise(tmp_path, work)
    # It must have been many, or this looked at nothing.
    assert len(copies) > 10
    states = []
    for copy in copies:
        scene = Scene(f"sqlite:///{copy}/catalog.db", [])
        scene.check_whole()
        states.append(
            [
                scene.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
                for table in ("alias", "alias_move", "tag", "model_version", "audit_event", "edge")
            ]
        )
    assert all(each == states[0] for each in states[:-1])
    assert states[-1] != states[0]


@dataclass
class Mover:
    """Moves an alias of its own on and on, and knows what it was told."""

    model: str
    alias: str
    told: list[int] = field(default_factory=list)
    # What was asked for and not answered: it may have been done.
    asked: Mapping[str, str | int] | None = None

    def move(self, connection: Connection) -> None:
        asked: Mapping[str, str | int] = self.asked or {
            "version": 1 + len(self.told) % 2,
            "expected_version": 2 - len(self.told) % 2 if self.told else 0,
            "reason": "on and on",
            "key": uuid.uuid4().hex,
        }
        self.asked = asked
        document = {key: value for key, value in asked.items() if key != "key"}
        path = f"/v1/models/{self.model}/aliases/{self.alias}"
        status, said = ask(connection, "PUT", path, document, Idempotency_Key=str(asked["key"]))
        assert status == 200, said
        self.told.append(int(said["version"]))
        self.asked = None


def move_until_killed(
    scene: Scene, movers: list[Mover], kill: Callable[[], None]
) -> list[tuple[str, str]]:
    """Have all of them move, and push versions, until the kill; return what was pushed where."""
    crashing = Event()
    pushed: list[tuple[str, str]] = []

    def work(number: int, mover: Mover) -> None:
        try:
            with scene.connection(number) as connection:
                while True:
                    mover.move(connection)
                    pushed.append((mover.model, push(connection, mover.model, framework="x")))
        except (OSError, HTTPException):
            assert crashing.is_set()

    with ThreadPoolExecutor(len(movers)) as pool:
        working = [pool.submit(work, *each) for each in enumerate(movers)]
        time.sleep(0.6)
        crashing.set()
        kill()
        for each in working:
            each.result()
    return pushed


@pytest.fixture(params=["sqlite", "postgres"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    if request.param == "sqlite":
        with sqlite_scene(tmp_path) as scene:
            yield scene
    else:
        with postgres_scene(tmp_path, request.getfixturevalue("postgres")) as scene:
            yield scene


def test_what_was_told_outlives_kills_and_what_was_not_is_done_once(scene: Scene) -> None:
    models = [scene.model(2), scene.model(2)]
    movers = [Mover(models[number % 2], f"a{number}") for number in range(4)]

    def kill() -> None:
        for each in scene.replicas:
            crash(each)

    for _ in range(2):
        registered = move_until_killed(scene, movers, kill)
        scene.check_whole()
        for each in scene.replicas:
            each.start()
        with scene.connection() as connection:
            for mover in movers:
                # Sent once more, whether it was done or not: it is done once.
                if mover.asked:
                    mover.move(connection)
                check_moves(connection, mover)
            for model, digest in registered:
                document = {"artifact_digest": digest}
                path = f"/v1/models/{model}/versions"
                assert ask(connection, "POST", path, document)[0] == 409
        scene.check_whole()
    # It must have been a storm: with one move each there would be little to lose.
    assert min(len(mover.told) for mover in movers) > 2
    with scene.connection() as connection:
        assert promote(connection, models[0], "a0", 1)[0] == 200


def check_moves(connection: Connection, mover: Mover) -> None:
    path = f"/v1/models/{mover.model}/aliases/{mover.alias}/history"
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ask(connection, "GET", path + (f"?cursor={cursor}" if cursor else ""))[1]
        found += [each["version"] for each in page["moves"]]
        cursor = page["next_cursor"]
    assert found[::-1] == mover.told

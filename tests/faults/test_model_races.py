"""Clients that race for one alias, one number or one artifact: on two workers over SQLite, and on
two replicas over PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from threading import Event
from typing import Any

import asyncpg
import pytest

from ociserver.storage import postgres
from tests.faults.models import (
    Scene,
    artifact,
    ask,
    postgres_scene,
    promote,
    push,
    push_config,
    register,
    sqlite_scene,
)
from tests.faults.storm import together
from tests.faults.wire import Connection
from tests.serving import digest_of
from tests.wire.raw import eventually

# The version that an alias was moved to, and when.
Moved = tuple[int, str]
_CLIENTS = 100
# 100 ms are promised between replicas; the rest is what a busy machine adds.
_PROMISED_SECONDS = 2.0


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("models")
    if request.param == "sqlite":
        with sqlite_scene(folder) as scene:
            yield scene
            scene.check_whole()
        return
    with postgres_scene(folder, request.getfixturevalue("postgres")) as scene:
        yield scene
        scene.check_whole()


@dataclass
class Seen:
    """What one reader was told, in order: when it asked, and the digest (None: not there)."""

    replica: int
    alias: list[tuple[float, str | None]] = field(default_factory=list)
    tag: list[tuple[float, str | None]] = field(default_factory=list)


@contextmanager
def watched(scene: Scene, model: str, alias: str, readers: int) -> Iterator[list[Seen]]:
    """Have readers resolve the alias by both doors until the block is left, and a moment longer."""
    over, seen = Event(), [Seen(number % len(scene.replicas)) for number in range(readers)]

    def read(kept: Seen) -> None:
        with scene.connection(kept.replica) as connection:
            while True:
                last = over.is_set()
                kept.alias.append((time.monotonic(), alias_digest(connection, model, alias)))
                kept.tag.append((time.monotonic(), tag_digest(connection, model, alias)))
                if last:
                    return
                # Others are to have their share of two cores.
                time.sleep(0.005)

    with ThreadPoolExecutor(readers) as pool:
        reading = [pool.submit(read, each) for each in seen]
        try:
            eventually(lambda: all(len(each.tag) > 1 for each in seen))
            yield seen
        finally:
            over.set()
            for each in reading:
                each.result()


def alias_digest(connection: Connection, model: str, alias: str) -> str | None:
    status, said = ask(connection, "GET", f"/v1/models/{model}/aliases/{alias}")
    if status != 200:
        return None
    path = f"/v1/models/{model}/versions/{said['version']}"
    # Number and artifact are of one version: else it would be a mix.
    version = ask(connection, "GET", path)[1]
    assert version["artifact_digest"] == said["artifact_digest"]
    return str(said["artifact_digest"])


def tag_digest(connection: Connection, model: str, alias: str) -> str | None:
    answer = connection.ask("GET", f"/v2/{model}/manifests/{alias}")
    return answer.digest if answer.status == 200 else None


def digests(scene: Scene, model: str) -> dict[int, str]:
    with scene.connection() as connection:
        versions = f"/v1/models/{model}/versions"
        found: dict[int, str] = {}
        while (asked := ask(connection, "GET", f"{versions}/{len(found) + 1}"))[0] == 200:
            found[len(found) + 1] = asked[1]["artifact_digest"]
    return found


def test_of_100_promoters_with_one_expectation_one_wins(scene: Scene) -> None:
    model = scene.model(3)
    known = digests(scene, model)
    with scene.connection() as connection:
        assert promote(connection, model, "prod", 1)[0] == 200

    def move(number: int, connection: Connection) -> tuple[int, dict[str, Any], float]:
        target = 2 + number % 2
        status, said = promote(connection, model, "prod", target, expected_version=1)
        return status, said, time.monotonic()

    with watched(scene, model, "prod", 4) as seen:
        moved = together(scene.replicas, _CLIENTS, move)
    assert Counter(status for status, _, _ in moved) == {200: 1, 409: _CLIENTS - 1}
    [(number, said, acknowledged)] = [
        (number, said, at) for number, (status, said, at) in enumerate(moved) if status == 200
    ]
    winner = said["version"]
    assert winner == 2 + number % 2
    refused = [said["data"]["version"] for status, said, _ in moved if status == 409]
    assert set(refused) == {winner}
    for each in seen:
        mover = number % len(scene.replicas)
        check_seen(each, known[1], known[winner], acknowledged, exact=each.replica == mover)
    check_everywhere(scene, model, "prod", known[winner])


def check_seen(seen: Seen, old: str, new: str, acknowledged: float, *, exact: bool) -> None:
    """Only the old and the new; the old nowhere after the news of the new must have come."""
    for told in (seen.alias, seen.tag):
        assert {digest for _, digest in told} <= {old, new}
        deadline = acknowledged if exact else acknowledged + _PROMISED_SECONDS
        assert all(digest == new for asked, digest in told if asked > deadline)
        assert told[0][1] == old


def check_everywhere(scene: Scene, model: str, alias: str, digest: str) -> None:
    began = time.monotonic()
    for number in range(len(scene.replicas)):
        with scene.connection(number) as connection:
            for find in (alias_digest, tag_digest):
                eventually(lambda find=find, c=connection: find(c, model, alias) == digest)  # type: ignore[misc]
    assert time.monotonic() - began < _PROMISED_SECONDS


def test_100_registrations_by_both_doors_are_1_to_100(scene: Scene) -> None:
    model = f"race/{uuid.uuid4().hex}"
    with scene.connection() as connection:
        push_config(connection, model)

    def take_a_number(number: int, connection: Connection) -> tuple[str, int]:
        if number % 2:
            digest = push(connection, model)
            status, version = register(connection, model, digest)
            assert status == 201
            return digest, version
        # It says what it is, and is registered by being pushed.
        digest = push(connection, model, framework="pytorch")
        status, version = register(connection, model, digest)
        assert status == 409
        return digest, version

    taken = together(scene.replicas, _CLIENTS, take_a_number)
    assert sorted(number for _, number in taken) == list(range(1, _CLIENTS + 1))
    with scene.connection() as connection:
        for digest, number in taken:
            assert tag_digest(connection, model, f"v{number}") == digest


def test_100_registrations_of_one_artifact_are_one_version(scene: Scene) -> None:
    model = scene.model(1)
    with scene.connection() as connection:
        digest = push(connection, model)
    told = together(
        scene.replicas, _CLIENTS, lambda _, connection: register(connection, model, digest)
    )
    assert Counter(told) == {(201, 2): 1, (409, 2): _CLIENTS - 1}
    assert digests(scene, model)[2] == digest


def test_aliases_that_are_swapped_are_never_seen_half_swapped(scene: Scene) -> None:
    model = scene.model(2)
    place = f"/v1/models/{model}/aliases"
    with scene.connection() as connection:
        for alias, number in (("blue", 1), ("green", 2)):
            assert promote(connection, model, alias, number)[0] == 200

    def swap(number: int, connection: Connection) -> list[int]:
        statuses = []
        for attempt in range(4):
            blue = 1 + (number + attempt) % 2
            moves = [
                {"alias": "blue", "version": 3 - blue, "expected_version": blue},
                {"alias": "green", "version": blue, "expected_version": 3 - blue},
            ]
            status, _ = ask(connection, "POST", place, {"moves": moves, "reason": "swap"})
            shown = ask(connection, "GET", place)[1]["aliases"]
            assert {each["version"] for each in shown} == {1, 2}
            statuses.append(status)
        return statuses

    statuses = Counter(chain.from_iterable(together(scene.replicas, 16, swap)))
    assert statuses.keys() <= {200, 409}
    with scene.connection() as connection:
        for alias in ("blue", "green"):
            moves = ask(connection, "GET", f"{place}/{alias}/history?limit=1000")[1]["moves"]
            assert len(moves) == 1 + statuses[200]


def moved(said: dict[str, Any]) -> Moved:
    """Return which move an alias stands on, by its answer."""
    return said.get("version", 0), said.get("updated_at", "")


def check_line(moves: list[dict[str, Any]], start: int) -> None:
    """Each move goes on from where the one before went, and somewhere else."""
    assert [each["from_version"] for each in moves] == [start, *(e["version"] for e in moves[:-1])]
    assert all(each["from_version"] != each["version"] for each in moves)


def test_rollbacks_among_promotions_are_one_line_of_moves(scene: Scene) -> None:
    model = scene.model(3)
    with scene.connection() as connection:
        for number in (1, 2):
            assert promote(connection, model, "prod", number)[0] == 200

    def move(number: int, connection: Connection) -> tuple[int, Moved]:
        # Half go on to 3 and half go back to 1; a third of both look first where it stands.
        target = 3 if number % 2 else 1
        asked = {"expected_version": 2} if number % 3 == 0 else {}
        status, said = promote(connection, model, "prod", target, **asked)
        return status, moved(said)

    told = together(scene.replicas, 30, move)
    assert {status for status, _ in told} <= {200, 409}
    with scene.connection() as connection:
        history = ask(connection, "GET", f"/v1/models/{model}/aliases/prod/history")[1]["moves"]
    moves = history[::-1][2:]
    # Each move was told to who made it, and to who found the alias where they would have it.
    done = {found for status, found in told if status == 200}
    assert done == {(each["version"], each["at"]) for each in moves}
    # Who expected 2 can only have been the first to move.
    check_line(moves, 2)
    check_everywhere(scene, model, "prod", history[0]["artifact_digest"])


def test_a_request_that_is_sent_20_times_at_once_moves_once(scene: Scene) -> None:
    model = scene.model(2)
    with scene.connection() as connection:
        assert promote(connection, model, "prod", 1)[0] == 200
    key = uuid.uuid4().hex

    def move(_: int, connection: Connection) -> tuple[int, str]:
        status, said = ask(
            connection,
            "PUT",
            f"/v1/models/{model}/aliases/prod",
            {"version": 2, "reason": "once", "expected_version": 1},
            Idempotency_Key=key,
        )
        return status, json.dumps(said)

    told = Counter(together(scene.replicas, 20, move))
    [(status, _)] = told
    assert status == 200
    with scene.connection() as connection:
        moves = ask(connection, "GET", f"/v1/models/{model}/aliases/prod/history")[1]["moves"]
    assert [each["version"] for each in moves] == [2, 1]


def test_pushes_onto_an_alias_among_moves_leave_one_line_of_moves(scene: Scene) -> None:
    model = scene.model(2)
    with scene.connection() as connection:
        assert promote(connection, model, "prod", 1)[0] == 200

    def move(number: int, connection: Connection) -> Moved | str:
        if number % 2:
            status, said = promote(connection, model, "prod", 1 + number // 2 % 2)
            assert status == 200
            return moved(said)
        body = artifact(framework="pytorch")
        connection.put_manifest(model, "prod", body)
        return digest_of(body)

    told = together(scene.replicas, 24, move)
    with scene.connection() as connection:
        history = ask(connection, "GET", f"/v1/models/{model}/aliases/prod/history")[1]["moves"]
    pushed = [each["artifact_digest"] for each in history if each["reason"] == "pushed"]
    assert sorted(pushed) == sorted(each for each in told if isinstance(each, str))
    asked = {(each["version"], each["at"]) for each in history if each["reason"] != "pushed"}
    first = (1, history[-1]["at"])
    assert asked == {first} | {each for each in told if not isinstance(each, str)}
    check_line(history[::-1][1:], 1)
    assert sorted(digests(scene, model)) == list(range(1, 15))
    check_everywhere(scene, model, "prod", history[0]["artifact_digest"])


def test_a_push_that_registers_waits_for_its_turn_to_record(scene: Scene) -> None:
    if scene.database is None:
        return  # there every write waits for its turn
    model = scene.model(1)
    turn = f"({postgres._RECORDING})"

    def push_while_held(**annotations: str) -> None:
        with scene.connection() as connection:
            connection.http.timeout = 1
            push(connection, model, **annotations)

    async def work() -> None:
        holder = await asyncpg.connect(scene.catalog)
        try:
            await holder.execute(f"SELECT pg_advisory_lock{turn}")
            await asyncio.to_thread(push_while_held)
            # Those that lose against others run again and again; who waits runs once.
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(push_while_held, framework="pytorch")
            await holder.execute(f"SELECT pg_advisory_unlock{turn}")
        finally:
            await holder.close()

    asyncio.run(work())
    eventually(lambda: len(digests(scene, model)) == 2)

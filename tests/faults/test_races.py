"""Clients that race for one digest or one upload session, on two workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations

import pytest

from tests.faults.audit import blob_files, check_at_rest, running
from tests.faults.storm import connection_to_each_worker, together
from tests.faults.wire import Connection, finishing
from tests.serving import Served, digest_of

_CLIENTS = 8
_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(Served(tmp_path_factory.mktemp("race"), workers=2)) as served:
        yield served
        check_at_rest(served.data)


@pytest.mark.parametrize("size", [0, 1000, _MIB])
def test_one_digest_finished_by_8_clients_at_once_is_one_file(served: Served, size: int) -> None:
    content = random.randbytes(size + random.randrange(1, 1000))
    digest = digest_of(content)
    with Connection(served.port) as connection:
        locations = [connection.begin(f"race/r{number % 3}") for number in range(_CLIENTS)]
        for location in locations:
            connection.ask("PATCH", location, content, expect=[202])

    def finish(number: int, connection: Connection) -> None:
        connection.ask("PUT", finishing(locations[number], digest), expect=[201])

    together(served, _CLIENTS, finish)
    assert len(_files_of(served, content)) == 1
    with Connection(served.port) as connection:
        for number in range(3):
            found = connection.ask("GET", f"/v2/race/r{number}/blobs/{digest}", expect=[200])
            assert found.body == content


def test_one_blob_posted_at_once_by_8_clients_is_one_file(served: Served) -> None:
    content = random.randbytes(100_000)
    path = f"/v2/race/posted/blobs/uploads/?digest={digest_of(content)}"
    together(
        served, _CLIENTS, lambda _, connection: connection.ask("POST", path, content, expect=[201])
    )
    assert len(_files_of(served, content)) == 1


@pytest.mark.parametrize("ranged", [True, False])
def test_two_writers_on_one_session_never_mix(served: Served, ranged: bool) -> None:
    for _ in range(6):
        # A worker each: a lock within one process would not do.
        with connection_to_each_worker(served) as connections:
            parts = [random.randbytes(3 * _MIB + number) for number in range(2)]
            location = connections[0].begin("race/writers")
            statuses = race(
                [
                    Ask(each, "PATCH", location, part, (202, 409, 416), ranged=ranged)
                    for each, part in zip(connections, parts, strict=True)
                ]
            )
            taken = [part for part, status in zip(parts, statuses, strict=True) if status == 202]
            assert len(taken) == 1 or (taken and not ranged)
            _check_holds_one_of(connections[1], location, [*map(b"".join, permutations(taken))])


def _check_holds_one_of(connection: Connection, location: str, contents: list[bytes]) -> None:
    """The session is one of these, and ends as that and as nothing else."""
    assert connection.ask("GET", location, expect=[204]).offset == len(contents[0])
    ended = [
        content
        for content in contents
        if connection.ask("PUT", finishing(location, digest_of(content))).status == 201
    ]
    assert len(ended) == 1
    found = connection.ask("GET", f"/v2/race/writers/blobs/{digest_of(ended[0])}", expect=[200])
    assert found.body == ended[0]


def test_of_two_ends_of_one_session_one_wins_wholly(served: Served) -> None:
    for _ in range(10):
        with connection_to_each_worker(served) as connections:
            bodies = [random.randbytes(random.choice((2_000, 2 * _MIB))) for _ in range(2)]
            location = connections[0].begin("race/ends")
            statuses = race(
                [
                    Ask(each, "PUT", finishing(location, digest_of(body)), body, (201, 404, 409))
                    for each, body in zip(connections, bodies, strict=True)
                ]
            )
            assert statuses.count(201) == 1, statuses
            for status, body in zip(statuses, bodies, strict=True):
                path = f"/v2/race/ends/blobs/{digest_of(body)}"
                for connection in connections:
                    found = connection.ask("GET", path, expect=[200 if status == 201 else 404])
                    assert status != 201 or found.body == body


def test_a_cancel_against_an_end_leaves_all_or_nothing(served: Served) -> None:
    for _ in range(20):
        content = random.randbytes(20_000)
        with connection_to_each_worker(served) as (one, other):
            location = one.begin("race/cancelled")
            ended, cancelled = race(
                [
                    Ask(one, "PUT", finishing(location, digest_of(content)), content, (201, 404)),
                    Ask(other, "DELETE", location, b"", (204, 404)),
                ]
            )
            assert {ended, cancelled} in ({201, 404}, {404, 204})
            blob = f"/v2/race/cancelled/blobs/{digest_of(content)}"
            for connection in (one, other):
                connection.ask("GET", blob, expect=[200 if ended == 201 else 404])
            assert len(_files_of(served, content)) == (ended == 201)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request on a connection of its own, and how it may be answered."""

    connection: Connection
    method: str
    path: str
    body: bytes
    expect: tuple[int, ...]
    ranged: bool = False

    def send(self) -> int:
        headers = {"Content-Range": f"0-{len(self.body) - 1}"} if self.ranged else {}
        return self.connection.ask(
            self.method, self.path, self.body, headers=headers, expect=self.expect
        ).status


def race(asks: Sequence[Ask]) -> list[int]:
    """Send all at once; return the statuses."""
    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(Ask.send, asks))


def _files_of(served: Served, content: bytes) -> list[str]:
    return [
        path.name
        for path in blob_files(served.data)
        if path.stat().st_size == len(content) and path.read_bytes() == content
    ]

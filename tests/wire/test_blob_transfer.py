# Large blobs on their way out: the kernel sends them, and clients are slow, absent or rude.
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from tests.serving import Served, push_blob
from tests.wire.build import MIB, assert_refused, files_holding, noise, open_files
from tests.wire.raw import Connection, eventually, request

_SIZE = 40 * MIB + 3


@dataclass(frozen=True)
class Large:
    served: Served
    target: str
    body: bytes = field(repr=False)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    served = Served(tmp_path_factory.mktemp("large"), options=("--idle", "2s")).start()
    body = noise(_SIZE)
    with served.client() as client:
        digest = push_blob(client, "large", body)
    yield Large(served, f"/v2/large/blobs/{digest}", body)
    served.stop()


@pytest.fixture
def reader(large: Large) -> Iterator[httpx.Client]:
    with large.served.client() as client:
        yield client


def test_a_large_blob_comes_whole(large: Large, reader: httpx.Client) -> None:
    answer = reader.get(large.target)
    assert answer.headers["content-length"] == str(_SIZE)
    assert answer.content == large.body


def test_many_clients_get_it_whole_at_once(large: Large) -> None:
    def pull(_: int) -> bool:
        with large.served.client() as client:
            return client.get(large.target).content == large.body

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(pull, range(6)))


def test_large_parts_and_small_ones_keep_their_places(large: Large) -> None:
    wanted = [(0, 9), (MIB, 20 * MIB), (21 * MIB, 21 * MIB + 3), (22 * MIB, 39 * MIB), (5, 5)]
    asked = ",".join(f"{start}-{end}" for start, end in wanted)
    with Connection(large.served) as connection:
        answer = connection.ask(request("GET", large.target, f"Range: bytes={asked}"))
    assert answer.status_code == 206
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    pieces = answer.content.split(b"--" + boundary)[1:-1]
    bodies = [piece.split(b"\r\n\r\n", 1)[1][:-2] for piece in pieces]
    assert [body == large.body[s : e + 1] for body, (s, e) in zip(bodies, wanted, strict=True)] == [
        True
    ] * len(wanted)


def test_a_slow_reader_gets_it_whole(large: Large) -> None:
    with Connection(large.served, window=4096) as connection:
        connection.send(request("GET", large.target, "Connection: close"))
        status, _ = connection.head()
        pieces = []
        while piece := connection.read_some(16 * 1024):
            pieces.append(piece)
    assert status == 200
    assert b"".join(pieces) == large.body


def test_the_connection_goes_on_after_a_large_blob(large: Large) -> None:
    with Connection(large.served) as connection:
        for _ in range(3):
            assert connection.ask(request("GET", large.target)).content == large.body
        assert connection.ask(request("GET", "/v2/")).status_code == 200


def test_pipelined_requests_are_answered_in_order(large: Large) -> None:
    with Connection(large.served) as connection:
        connection.send(
            request("GET", large.target)
            + request("HEAD", large.target)
            + request("GET", large.target, "Range: bytes=5-9")
            + request("GET", "/v2/nothing/here")
        )
        assert connection.answer().content == large.body
        assert connection.answer("HEAD").headers["content-length"] == str(_SIZE)
        assert connection.answer().content == large.body[5:10]
        assert connection.answer().status_code == 404


@pytest.mark.parametrize("rudely", [True, False])
def test_clients_that_leave_in_the_middle_cost_nothing(large: Large, rudely: bool) -> None:
    with large.served.client() as client:
        assert client.get("/v2/").status_code == 200
        before = open_files(large.served)
        for _ in range(12):
            with Connection(large.served, window=4096) as connection:
                connection.send(request("GET", large.target))
                connection.read(100_000)
                (connection.break_off if rudely else connection.leave)()
        eventually(lambda: open_files(large.served) <= before)
        assert client.get(large.target).content == large.body


def _asks_and_never_reads(large: Large, *fields: str) -> None:
    # What the first pull opens for good, such as the catalog, is open: only what this one leaves
    # behind is counted.
    with Connection(large.served) as connection:
        connection.ask(request("GET", large.target, "Range: bytes=0-9"))
        before = open_files(large.served) - 1
    with Connection(large.served, window=4096) as connection:
        connection.send(request("GET", large.target, *fields))
        connection.head()
        eventually(lambda: open_files(large.served) <= before, seconds=12)


def test_a_client_that_stops_reading_a_blob_is_left(large: Large) -> None:
    _asks_and_never_reads(large)


def test_a_client_that_stops_reading_its_ranges_is_left(large: Large) -> None:
    # Each part is small enough to go through the process rather than by sendfile.
    asked = ",".join(f"{start}-{start + 200_000}" for start in range(0, 38 * MIB, 200_001))
    _asks_and_never_reads(large, f"Range: bytes={asked}")


def test_an_object_that_lost_bytes_is_not_served(large: Large, reader: httpx.Client) -> None:
    body = noise(100_000)
    digest = push_blob(reader, "damaged", body)
    [file] = files_holding(large.served, body)
    with file.open("r+b") as damaged:
        damaged.truncate(99_999)
    answer = reader.get(f"/v2/damaged/blobs/{digest}")
    assert_refused(answer, 503, "TOOMANYREQUESTS")

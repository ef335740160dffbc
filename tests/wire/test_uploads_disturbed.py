# Uploads when something gets in the way: drops, rivals, idleness, a head that promises too much.
from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    assert_refused,
    begin,
    files_holding,
    files_of,
    new_repository,
    noise,
    offset_of,
    resume,
    rows,
)
from tests.wire.raw import Connection, eventually, request

_SIZE = 5 * MIB
_ANYWHERE = random.SystemRandom()


def cuts() -> list[int]:
    return [0, 1, 65_536, MIB - 1, MIB, 3 * MIB + 1, _ANYWHERE.randrange(_SIZE)]


@pytest.mark.parametrize("coding", ["Content-Length: 5242880", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("part", range(len(cuts())))
@pytest.mark.parametrize("politely", [True, False])
def test_an_upload_goes_on_after_a_drop(
    registry: Served, client: httpx.Client, coding: str, part: int, politely: bool
) -> None:
    cut = cuts()[part]
    repository, body = new_repository(), noise(_SIZE)
    location = begin(client, repository)
    with Connection(registry) as connection:
        connection.send(request("PATCH", location, coding))
        framed = b"500000\r\n" if "chunked" in coding else b""
        connection.send(framed + body[:cut])
        (connection.leave if politely else connection.break_off)()
    at = resume(client, location, body)
    assert at <= cut
    finished = client.put(location, params={"digest": digest_of(body)})
    assert finished.status_code == 201, f"cut at {cut}, resumed at {at}: {finished.text}"
    assert client.get(finished.headers["location"]).content == body


@pytest.mark.parametrize("came", [2, 100_000, MIB, 3 * MIB])
def test_what_came_before_a_polite_drop_is_kept(
    registry: Served, client: httpx.Client, came: int
) -> None:
    location = begin(client, new_repository())
    with Connection(registry) as connection:
        head = request("PATCH", location, f"Content-Length: {_SIZE}")
        connection.send(head + noise(came))
        connection.leave()
    eventually(lambda: offset_of(client, location) == came, seconds=3)


def test_a_drop_in_the_closing_put_leaves_the_session(
    registry: Served, client: httpx.Client
) -> None:
    repository, body = new_repository(), noise(2 * MIB)
    location, digest = begin(client, repository), digest_of(body)
    with Connection(registry) as connection:
        head = request("PUT", f"{location}?digest={digest}", f"Content-Length: {len(body)}")
        connection.send(head + body[:MIB])
        connection.leave()
    resume(client, location, body)
    assert client.head(f"/v2/{repository}/blobs/{digest}").status_code == 404
    assert client.put(location, params={"digest": digest}).status_code == 201
    assert client.get(f"/v2/{repository}/blobs/{digest}").content == body


def test_a_single_post_cut_off_leaves_nothing(registry: Served, client: httpx.Client) -> None:
    repository, before = new_repository(), set(files_of(registry))
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'x')}"
    with Connection(registry) as connection:
        connection.send(request("POST", target, "Content-Length: 4000000") + noise(2 * MIB))
        eventually(lambda: set(files_of(registry)) - before)
        connection.leave()
    eventually(lambda: set(files_of(registry)) <= before)
    asked = f"SELECT * FROM upload WHERE repository = '{repository}'"
    eventually(lambda: not rows(registry, asked))


def together(*actions: Callable[[], httpx.Response]) -> list[httpx.Response]:
    gate = threading.Barrier(len(actions))

    def act(action: Callable[[], httpx.Response]) -> httpx.Response:
        gate.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


@pytest.mark.parametrize("algorithms", [("sha256",), ("sha256", "sha512"), ("sha512",)])
def test_clients_that_finish_one_digest_at_once_all_get_201(
    registry: Served, algorithms: tuple[str, ...]
) -> None:
    repository, body = new_repository(), noise(MIB + 31)

    def finisher(rival: int) -> Callable[[], httpx.Response]:
        digest = digest_of(body, algorithms[rival % len(algorithms)])
        with registry.client() as client:
            location = begin(client, repository)
            assert client.patch(location, content=body).status_code == 202

        def finish() -> httpx.Response:
            with registry.client() as own:
                return own.put(location, params={"digest": digest})

        return finish

    answers = together(*(finisher(rival) for rival in range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len(files_holding(registry, body)) == 1
    with registry.client() as client:
        for algorithm in algorithms:
            found = client.get(f"/v2/{repository}/blobs/{digest_of(body, algorithm)}")
            assert found.content == body


def test_the_same_session_finished_twice_at_once_is_finished_once(registry: Served) -> None:
    body = noise(MIB)
    with registry.client() as client:
        location = begin(client, new_repository())
        assert client.patch(location, content=body).status_code == 202

    def finish() -> httpx.Response:
        with registry.client() as own:
            return own.put(location, params={"digest": digest_of(body)})

    codes = sorted(answer.status_code for answer in together(finish, finish, finish))
    assert codes[0] == 201
    assert set(codes[1:]) <= {404, 409}


def test_two_requests_never_write_one_session_at_once(
    registry: Served, client: httpx.Client
) -> None:
    repository, body = new_repository(), noise(3 * MIB)
    location, before = begin(client, repository), set(files_of(registry))
    finish = {"digest": digest_of(body)}
    with Connection(registry) as first:
        first.send(request("PATCH", location, f"Content-Length: {len(body)}") + body[: 2 * MIB])
        # Bytes on disk are proof that the first request has the session.
        eventually(lambda: [p for p in set(files_of(registry)) - before if p.stat().st_size])
        refused = client.patch(location, content=b"rival")
        assert_refused(refused, 409, "BLOB_UPLOAD_INVALID")
        assert int(refused.headers["retry-after"]) > 0
        assert_refused(client.put(location, params=finish), 409, "BLOB_UPLOAD_INVALID")
        assert first.ask(body[2 * MIB :]).status_code == 202
    assert client.put(location, params=finish).status_code == 201
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_a_stream_whose_client_left_never_lands_behind_another(
    registry: Served, client: httpx.Client
) -> None:
    # The dropped stream must not be appended to what its client's next attempt has sent.
    repository, body = new_repository(), noise(3 * MIB)
    location, before = begin(client, repository), set(files_of(registry))
    with Connection(registry) as first, Connection(registry) as dropped:
        first.send(request("PATCH", location, f"Content-Length: {len(body)}") + body[: 2 * MIB])
        eventually(lambda: [p for p in set(files_of(registry)) - before if p.stat().st_size])
        dropped.send(request("PATCH", location, "Content-Length: 99999") + noise(1000))
        dropped.leave()
        assert first.ask(body[2 * MIB :]).status_code == 202
    # Longer than a request waits for the one before it.
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert offset_of(client, location) == len(body)
    assert client.put(location, params={"digest": digest_of(body)}).status_code == 201


def test_cancel_in_the_middle_of_a_chunk_leaves_nothing(
    registry: Served, client: httpx.Client
) -> None:
    location, body = begin(client, new_repository()), noise(2 * MIB)
    before = set(files_of(registry))
    with Connection(registry) as writing:
        writing.send(request("PATCH", location, f"Content-Length: {len(body)}") + body[:MIB])
        eventually(lambda: set(files_of(registry)) - before)
        assert client.delete(location).status_code == 204
        assert_refused(writing.ask(body[MIB:]), 404, "BLOB_UPLOAD_UNKNOWN")
    assert set(files_of(registry)) <= before


def test_idle_uploads_end_with_row_and_file(tmp_path: Path) -> None:
    served = Served(tmp_path, options=("--upload-idle", "1s")).start()
    try:
        with served.client() as client:
            kept = push_blob(client, "idle", b"kept")
            location = begin(client, "idle")
            assert client.patch(location, content=noise(1000)).status_code == 202
            begin(client, "idle")
            eventually(lambda: client.get(location).status_code == 404)
            eventually(lambda: rows(served, "SELECT * FROM upload") == [])
            # The row goes first, then the file, then both are counted.
            eventually(lambda: "lading_uploads_expired_total 2.0" in client.get("/metrics").text)
            assert client.get(f"/v2/idle/blobs/{kept}").content == b"kept"
            assert_refused(client.patch(location, content=b"x"), 404, "BLOB_UPLOAD_UNKNOWN")
        assert [path.read_bytes() for path in files_of(served)] == [b"kept"]
    finally:
        served.stop()


def test_an_upload_under_way_is_not_idle(tmp_path: Path) -> None:
    options = ("--upload-idle", "1s", "--body-bytes", "1", "--body-seconds", "20s")
    served = Served(tmp_path, options=options).start()
    body = b"slow but steady " * 8
    try:
        with served.client() as client, Connection(served) as connection:
            location = begin(client, "steady")
            connection.send(request("PATCH", location, f"Content-Length: {len(body)}"))
            connection.send(body[:-1])
            doomed = begin(client, "steady")
            # Proof that time went by: a younger session was ended for idleness.
            eventually(lambda: client.get(doomed).status_code == 404)
            assert connection.ask(body[-1:]).status_code == 202
            assert client.put(location, params={"digest": digest_of(body)}).status_code == 201
    finally:
        served.stop()


# -- Expect: 100-continue, and answers that come before the body


def test_a_body_is_asked_for_with_100(registry: Served, client: httpx.Client) -> None:
    location, body = begin(client, new_repository()), noise(1000)
    fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
    with Connection(registry) as connection:
        assert connection.ask(request("PATCH", location, *fields)).status_code == 100
        assert connection.ask(body).status_code == 202
    assert offset_of(client, location) == 1000


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PATCH", "/v2/a/blobs/uploads/" + "0" * 32, 404),
        ("PUT", "/v2/a/blobs/uploads/" + "0" * 32 + "?digest=sha256:no", 400),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:no", 400),
        ("POST", "/v2/NO/blobs/uploads/", 400),
        ("PUT", "/v2/a/manifests/latest", 413),
        ("PUT", "/v2/a/manifests/-no", 400),
        ("PUT", "/v2/a/tags/list", 405),
        ("PUT", "/nothing/here", 404),
    ],
)
def test_an_error_known_from_the_head_comes_before_the_body(
    registry: Served, method: str, target: str, status: int
) -> None:
    fields = ("Content-Length: 99999999", "Expect: 100-continue")
    with Connection(registry) as connection:
        answer = connection.ask(request(method, target, *fields))
    assert answer.status_code == status
    assert answer.json()["errors"]


def test_an_out_of_order_chunk_is_refused_before_its_body(
    registry: Served, client: httpx.Client
) -> None:
    location = begin(client, new_repository())
    fields = ("Content-Length: 10", "Content-Range: 10-19", "Expect: 100-continue")
    with Connection(registry) as connection:
        answer = connection.ask(request("PATCH", location, *fields))
    assert_refused(answer, 416, "BLOB_UPLOAD_INVALID")

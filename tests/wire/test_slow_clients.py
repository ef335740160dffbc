# Clients that keep us waiting: a slow body, a slow head, silence.
from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.serving import Served, digest_of
from tests.wire.build import (
    MIB,
    OCI_MANIFEST,
    assert_refused,
    begin,
    files_of,
    new_repository,
    noise,
    offset_of,
    put_manifest,
    rows,
    unique_image,
)
from tests.wire.raw import Connection, request


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--body-seconds", "1s", "--body-bytes", "1000", "--idle", "1s")
    served = Served(tmp_path_factory.mktemp("impatient"), options=options).start()
    yield served
    served.stop()


def test_a_chunk_that_stalls_is_408_and_what_came_is_kept(impatient: Served) -> None:
    repository, body = new_repository(), noise(5000)
    with impatient.client() as client:
        location = begin(client, repository)
        with Connection(impatient) as connection:
            head = request("PATCH", location, "Content-Length: 5000")
            assert_refused(connection.ask(head + body[:2500]), 408, "SIZE_INVALID")
        assert offset_of(client, location) == 2500
        fields = {"content-range": "2500-4999"}
        assert client.patch(location, content=body[2500:], headers=fields).status_code == 202
        assert client.put(location, params={"digest": digest_of(body)}).status_code == 201
        assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_a_trickle_is_too_slow(impatient: Served) -> None:
    with impatient.client() as client, Connection(impatient) as connection:
        location = begin(client, new_repository())
        connection.send(request("PATCH", location, "Content-Length: 100000"))
        for _ in range(40):
            connection.send(b"drop")
            time.sleep(0.05)
        assert_refused(connection.answer(), 408, "SIZE_INVALID")
        assert offset_of(client, location) <= 160


def test_a_body_at_the_pace_is_taken_however_long(impatient: Served) -> None:
    body = noise(12_000)
    with impatient.client() as client, Connection(impatient) as connection:
        location = begin(client, new_repository())
        connection.send(request("PATCH", location, f"Content-Length: {len(body)}"))
        # Longer than body-seconds in all, faster than body-bytes in each.
        for at in range(0, len(body), 1000):
            connection.send(body[at : at + 1000])
            time.sleep(0.2)
        assert connection.answer().status_code == 202


@pytest.mark.parametrize("sent", [0, 10])
def test_a_manifest_that_stalls_is_408(impatient: Served, sent: int) -> None:
    target, body = f"/v2/{new_repository()}/manifests/v1", unique_image()
    fields = (f"Content-Length: {len(body)}", f"Content-Type: {OCI_MANIFEST}")
    with impatient.client() as client, Connection(impatient) as connection:
        answer = connection.ask(request("PUT", target, *fields, body=body[:sent]))
        assert_refused(answer, 408, "SIZE_INVALID")
        assert_refused(client.get(target), 404, "MANIFEST_UNKNOWN")


def test_a_closing_put_that_stalls_leaves_the_session(impatient: Served) -> None:
    repository, body = new_repository(), noise(3000)
    digest = digest_of(body)
    with impatient.client() as client:
        location = begin(client, repository)
        client.patch(location, content=body[:1000])
        with Connection(impatient) as connection:
            head = request("PUT", f"{location}?digest={digest}", "Content-Length: 2000")
            assert_refused(connection.ask(head + body[1000:1500]), 408, "SIZE_INVALID")
        at = offset_of(client, location)
        finished = client.put(location, params={"digest": digest}, content=body[at:])
        assert finished.status_code == 201
        assert client.get(f"/v2/{repository}/blobs/{digest}").content == body


def test_a_single_post_that_stalls_leaves_nothing(impatient: Served) -> None:
    repository, before = new_repository(), set(files_of(impatient))
    target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'x')}"
    with Connection(impatient) as connection:
        head = request("POST", target, "Content-Length: 3000")
        assert_refused(connection.ask(head + noise(1500)), 408, "SIZE_INVALID")
    assert set(files_of(impatient)) <= before
    assert rows(impatient, f"SELECT * FROM upload WHERE repository = '{repository}'") == []


def test_silence_before_a_head_is_whole_closes(impatient: Served) -> None:
    starts = [b"", b"GET /v2/ HT", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: y"]
    with ExitStack() as stack:
        silent = [stack.enter_context(Connection(impatient)) for _ in starts]
        for connection, start in zip(silent, starts, strict=True):
            connection.send(start)
        started = time.monotonic()
        for connection in silent:
            connection.rest()
        assert time.monotonic() - started < 8


def test_a_head_sent_drop_by_drop_is_cut(impatient: Served) -> None:
    with Connection(impatient) as connection:
        connection.send(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n")
        drops = (b"X-%d: y\r\n" % number for number in range(100))
        assert connection.is_cut_while_sending(drops, pause=0.1)


def test_silence_after_an_answer_closes(impatient: Served) -> None:
    with impatient.client() as client:
        repository = new_repository()
        put_manifest(client, repository, "v1", unique_image())
    with Connection(impatient) as cold, Connection(impatient) as hot:
        for connection, target in ((cold, "/v2/"), (hot, f"/v2/{repository}/manifests/v1")):
            # The second and third of these are answered from memory.
            for _ in range(3):
                assert connection.ask(request("GET", target)).status_code == 200
        assert cold.is_closed()
        assert hot.is_closed()


def test_a_client_that_never_reads_manifests_is_left(impatient: Served) -> None:
    repository, body = new_repository(), unique_image()
    with impatient.client() as client:
        put_manifest(client, repository, "v1", body + b" " * (4 * MIB - len(body)))
        asked = request("GET", f"/v2/{repository}/manifests/v1")
        with Connection(impatient, window=4096) as connection:
            connection.send(asked * 12)
            assert connection.is_cut_while_sending([asked] * 200, pause=0.05)

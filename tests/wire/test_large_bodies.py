"""Large bodies go from the socket past the parser: framing must hold before, behind and around."""

from __future__ import annotations

import time
from random import Random

import httpx
import pytest

from tests.serving import Served, digest_of
from tests.wire.build import MIB, begin, new_repository, noise
from tests.wire.raw import Connection, eventually, request

KIB = 1024


def put(location: str, body: bytes, *fields: str) -> bytes:
    """A closing PUT up to its body."""
    target = f"{location}?digest={digest_of(body)}"
    return request("PUT", target, f"Content-Length: {len(body)}", *fields)


@pytest.mark.parametrize(
    "size",
    [*(256 * KIB + more for more in (-1, 0, 1)), MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 77],
)
@pytest.mark.parametrize("gap", [0, 0.02])
def test_a_body_in_any_pieces_is_taken_whole_and_the_next_request_is_read(
    registry: Served, client: httpx.Client, size: int, gap: float
) -> None:
    repository, body = new_repository(), noise(size)
    message = put(begin(client, repository), body) + body + request("GET", "/v2/")
    random = Random(size)
    with Connection(registry) as connection:
        start = 0
        while start < len(message):
            end = start + random.choice([1, 300, 70 * KIB, 300 * KIB, 2 * MIB])
            connection.send(message[start:end])
            start = end
            time.sleep(gap)
        assert connection.answer().status_code == 201
        assert connection.answer().status_code == 200
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_uploads_follow_each_other_without_waiting_for_an_answer(
    registry: Served, client: httpx.Client
) -> None:
    repository = new_repository()
    bodies = [noise(3 * MIB), noise(10), noise(2 * MIB), b"", noise(600 * KIB)]
    with Connection(registry) as connection:
        connection.send(b"".join(put(begin(client, repository), body) + body for body in bodies))
        assert [connection.answer().status_code for _ in bodies] == [201] * len(bodies)
        assert connection.ask(request("GET", "/v2/")).status_code == 200
    for body in bodies:
        assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_a_client_that_asks_first_is_told_to_go_on(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), noise(4 * MIB)
    with Connection(registry) as connection:
        connection.send(put(begin(client, repository), body, "Expect: 100-continue"))
        assert connection.head()[0] == 100
        connection.send(body)
        assert connection.answer().status_code == 201
        assert connection.ask(request("GET", "/v2/")).status_code == 200


def test_a_large_chunked_body_is_parsed_to_its_end(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), noise(3 * MIB)
    target = f"{begin(client, repository)}?digest={digest_of(body)}"
    with Connection(registry) as connection:
        connection.send(request("PUT", target, "Transfer-Encoding: chunked"))
        for start in range(0, len(body), 700_000):
            piece = body[start : start + 700_000]
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n" + request("GET", "/v2/"))
        assert connection.answer().status_code == 201
        assert connection.answer().status_code == 200
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_what_was_read_of_a_body_that_breaks_off_is_kept(
    registry: Served, client: httpx.Client
) -> None:
    repository, body = new_repository(), noise(6 * MIB)
    for sent in (3 * MIB, 2 * MIB + 13):
        location = begin(client, repository)
        with Connection(registry) as connection:
            head = request("PATCH", location, f"Content-Length: {len(body)}")
            connection.send(head + body[:sent])
            connection.leave()
        # The registry may read this question before the request it asks about.
        kept = f"0-{sent - 1}"
        eventually(lambda at=location, k=kept: client.get(at).headers["range"] == k)  # type: ignore[misc]
        fields = {"content-range": f"{sent}-{len(body) - 1}"}
        assert client.patch(location, content=body[sent:], headers=fields).status_code == 202
        assert client.put(location, params={"digest": digest_of(body)}).status_code == 201

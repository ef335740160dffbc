# HTTP/1.1 to the letter where it guards something: framing, heads, limits (RFC 9112, RFC 9110).
from __future__ import annotations

import threading

import httpx
import pytest

from tests.serving import Served, digest_of
from tests.wire.build import (
    MIB,
    assert_refused,
    begin,
    new_repository,
    noise,
    offset_of,
    put_manifest,
    resume,
    unique_image,
)
from tests.wire.raw import Connection, chunked, request


def hidden(client: httpx.Client) -> tuple[str, bytes]:
    """Return a tag that is there and a request that would remove it, were it run."""
    repository = new_repository()
    put_manifest(client, repository, "precious", unique_image())
    target = f"/v2/{repository}/manifests/precious"
    return target, request("DELETE", target)


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ("Content-Length: 0", "Transfer-Encoding: chunked"),
        ("Content-Length: 4", "Transfer-Encoding: identity"),
        ("Content-Length: 4", "Transfer-Encoding: xchunked"),
        ("Content-Length: 4", "transfer-encoding:\tchunked"),
        ("Content-Length: 4", "Transfer-Encoding: chunked, identity"),
        ("Content-Length: 4", "Transfer-Encoding : chunked"),
        ("Content-Length: 4", "X: y\nTransfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, gzip",),
        ("Transfer-Encoding: gzip",),
        ("Content-Length: 4", "Content-Length: 0"),
        ("Content-Length: 0", "Content-Length: 0"),
        ("Content-Length: 0, 0",),
        ("Content-Length: +0",),
        ("Content-Length: -1",),
        ("Content-Length: 0x0",),
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length: ",),
        ("Content-Length: 0\n",),
        ("Content-Length : 0",),
        ("X: y\r\n folded: Content-Length: 5", "Content-Length: 0"),
        ("X: y\r\n\tfolded",),
        (" X: y",),
        ("X\x00: y",),
        ("X: y\x00z",),
        ("X y: z",),
        (": y",),
        ("no colon",),
        ("X: y\rz",),
        ("Content-Length: 0\rX: y",),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_head_that_reads_two_ways_closes_the_connection(
    registry: Served, client: httpx.Client, method: str, fields: tuple[str, ...]
) -> None:
    target, second = hidden(client)
    with Connection(registry) as connection:
        asked = request(method, "/v2/a/blobs/uploads/", *fields) + b"0\r\n\r\n" + second
        answer = connection.ask(asked)
        assert_refused(answer, 400, "UNSUPPORTED")
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()
    assert client.get(target).status_code == 200


def test_a_body_in_two_codings_is_not_taken_for_one(registry: Served, client: httpx.Client) -> None:
    # RFC 9112 section 6.1: a coding we do not understand is 501 (or refused), never stored.
    location = begin(client, new_repository())
    with Connection(registry) as connection:
        head = request("PATCH", location, "Transfer-Encoding: gzip, chunked")
        assert connection.ask(head + chunked(b"gzipped?")).status_code in {400, 501}
    assert client.get(location).headers["range"] == "0-0"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v2/ HTTP/1.1\nHost: registry\n\n",
        b"GET /v2/ HTTP/1.1\r\nHost: registry\n\r\n",
        b"GET /v2/ HTTP/1.1\nHost: registry\r\n\r\n",
        b"GET /v2/ HTTP/1.1 \r\nHost: registry\r\n\r\n",
        b"GET /v2/\r\nHost: registry\r\n\r\n",
        b"GET /v2/ HTTP/3.7\r\nHost: registry\r\n\r\n",
        b"GET /v2/ ICE/1.0\r\nHost: registry\r\n\r\n",
        b"get /v2/ HTTP/1.1\r\nHost: registry\r\n\r\n",
        b"GRAB /v2/ HTTP/1.1\r\nHost: registry\r\n\r\n",
        b"GET /v2/\x00 HTTP/1.1\r\nHost: registry\r\n\r\n",
        b"GET v2/ HTTP/1.1\r\nHost: registry\r\n\r\n",
        b"CONNECT registry:443 HTTP/1.1\r\nHost: registry:443\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_head_that_is_no_http_1_1_is_refused(registry: Served, line: bytes) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(line + b"\r\n\r\n")
        assert_refused(answer, 400, "UNSUPPORTED")
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


def test_raw_bytes_beyond_ascii_in_a_path_are_refused(registry: Served) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", "/v2/\u00e9/tags/list"))
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["code"] in {"UNSUPPORTED", "NAME_INVALID"}


@pytest.mark.parametrize(
    "host", ["[", "]", "a/b", "a?b", "a#b", "a b", "[::1", "a:b:c", "", "a@b", "\u00e9"]
)
def test_an_odd_host_changes_no_answer_and_is_no_fault(
    registry: Served, client: httpx.Client, host: str
) -> None:
    # RFC 9112 section 3.2: an invalid Host is 400; if it is let through it must not show.
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, digest_of(body), body, tags=["a", "b"])
    target = f"/v2/{repository}/tags/list"
    asked = f"GET {target}?n=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    with Connection(registry) as connection:
        answer = connection.ask(asked)
    assert answer.status_code in {200, 400}, answer.text
    if answer.status_code == 200:
        assert answer.links["next"]["url"] == f"{target}?n=1&last=a"


def test_http_1_0_needs_no_host_and_ends_the_connection(registry: Served) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert (answer.status_code, answer.json()) == (200, {})
        assert connection.is_closed()


def test_an_absolute_target_is_its_path(registry: Served) -> None:
    with Connection(registry) as connection:
        assert connection.ask(request("GET", "http://other/v2/")).json() == {}


def test_an_upgrade_nobody_offers_is_ignored(registry: Served) -> None:
    # curl --http2 asks so on each first request.
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with Connection(registry) as connection:
        assert connection.ask(request("GET", "/v2/", *fields)).json() == {}
        assert connection.ask(request("GET", "/v2/")).json() == {}


# -- limits on a head


@pytest.mark.parametrize("count", [1, 2])
def test_a_target_over_16_kib_is_414(registry: Served, count: int) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", "/v2/" + "a" * (16 * 1024 * count)))
        assert_refused(answer, 414, "UNSUPPORTED")
        assert connection.is_closed()


@pytest.mark.parametrize(
    "fields", [("X: " + "y" * 170_000,), tuple(f"X-{n}: {'y' * 4000}" for n in range(50))]
)
def test_headers_over_the_limit_are_431(registry: Served, fields: tuple[str, ...]) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", "/v2/", *fields))
        assert_refused(answer, 431, "UNSUPPORTED")
        assert connection.is_closed()


def test_too_many_headers_are_431(registry: Served) -> None:
    with Connection(registry) as connection:
        few = [f"X-{number}: y" for number in range(120)]
        assert connection.ask(request("GET", "/v2/", *few)).status_code == 200
        many = [f"X-{number}: y" for number in range(140)]
        assert_refused(connection.ask(request("GET", "/v2/", *many)), 431, "UNSUPPORTED")
        assert connection.is_closed()


@pytest.mark.parametrize(
    "start", [b"GET /v2/ HTTP/1.1\r\nX: ", b"GET /v2/ HTTP/1.1\r\nX", b"GET /v2/"]
)
def test_a_head_that_never_ends_is_cut(registry: Served, start: bytes) -> None:
    with Connection(registry) as connection:
        connection.send(start)
        assert connection.is_cut_while_sending([b"y" * MIB] * 64)


def test_trailers_never_become_headers(registry: Served, client: httpx.Client) -> None:
    location = begin(client, new_repository())
    with Connection(registry) as connection:
        head = request("PATCH", location, "Transfer-Encoding: chunked")
        coded = b"3\r\nabc\r\n0\r\nContent-Range: 7-9\r\nHost: other\r\n\r\n"
        assert connection.ask(head + coded).status_code == 202
        assert connection.ask(request("GET", "/v2/")).status_code == 200
    assert offset_of(client, location) == 3


@pytest.mark.parametrize("endless", [b"y" * 65536, b"X-Trailer: 1\r\n" * 4096])
def test_a_trailer_that_never_ends_is_refused(registry: Served, endless: bytes) -> None:
    with Connection(registry) as connection:
        target = f"/v2/{new_repository()}/blobs/uploads/?digest={digest_of(b'x')}"
        connection.send(request("POST", target, "Transfer-Encoding: chunked"))
        connection.send(b"1\r\nx\r\n0\r\nX: ")
        assert connection.is_cut_while_sending([endless] * 100, 0.01)


def test_thousands_of_requests_in_one_piece_are_all_answered(registry: Served) -> None:
    before = registry.log.count('"level": "error"')
    with Connection(registry) as connection:
        one = request("GET", "/v2/")
        count = 400_000 // len(one)
        threading.Thread(target=connection.send, args=(one * count,)).start()
        for _ in range(count):
            assert connection.answer().status_code == 200
    assert registry.log.count('"level": "error"') == before


def test_what_was_asked_before_a_malformed_request_is_answered_first(registry: Served) -> None:
    with Connection(registry) as connection:
        connection.send(request("GET", "/v2/") * 3 + b"NONSENSE\r\n\r\n")
        for _ in range(3):
            assert connection.answer().status_code == 200
        assert connection.is_closed()


# -- bodies


@pytest.mark.parametrize(
    "mangled",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc",
        b"3\r\nabc0\r\n\r\n",
        b"3;\x00\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_a_mangled_chunk_ends_the_request_and_keeps_the_session(
    registry: Served, client: httpx.Client, mangled: bytes
) -> None:
    # Some of these hold a good chunk `abc` before what is wrong.
    repository, body = new_repository(), noise(MIB) + b"abc" + noise(MIB)
    location = begin(client, repository)
    target, second = hidden(client)
    with Connection(registry) as connection:
        connection.send(request("PATCH", location, "Transfer-Encoding: chunked"))
        connection.send(b"100000\r\n" + body[:MIB] + b"\r\n" + mangled + second)
        assert_refused(connection.answer(), 400, "UNSUPPORTED")
        assert connection.is_closed()
    assert client.get(target).status_code == 200
    resume(client, location, body)
    assert client.put(location, params={"digest": digest_of(body)}).status_code == 201
    assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body


def test_a_manifest_cut_off_is_not_there(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    for coding in (f"Content-Length: {len(body) + 1}", "Transfer-Encoding: chunked"):
        with Connection(registry) as connection:
            start = b"%x\r\n" % len(body) if "chunked" in coding else b""
            head = request("PUT", f"/v2/{repository}/manifests/v1", coding)
            connection.send(head + start + body)
            connection.leave()
        assert_refused(client.get(f"/v2/{repository}/manifests/v1"), 404, "MANIFEST_UNKNOWN")
    assert_refused(client.get(f"/v2/{repository}/tags/list"), 404, "NAME_UNKNOWN")


def test_pipelined_bodies_stay_apart(registry: Served, client: httpx.Client) -> None:
    repository = new_repository()
    bodies = [noise(size) for size in (2 * MIB, 1, 3 * MIB, 0, 100_000)]
    with Connection(registry) as connection:
        for body in bodies:
            target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(body)}"
            connection.send(request("POST", target, f"Content-Length: {len(body)}", body=body))
        for body in bodies:
            answer = connection.answer()
            assert answer.status_code == 201, answer.text
            assert answer.headers["docker-content-digest"] == digest_of(body)
    for body in bodies:
        assert client.get(f"/v2/{repository}/blobs/{digest_of(body)}").content == body

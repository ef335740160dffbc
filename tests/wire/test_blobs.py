# end-2: HEAD and GET of blobs, conditions, ranges (RFC 9110 sections 13 and 14).
from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import MIB, assert_refused, new_repository, noise

_SIZE = 6 * MIB + 17


@dataclass(frozen=True)
class Blob:
    target: str
    digest: str
    body: bytes = field(repr=False)


@pytest.fixture(scope="module")
def blob(registry: Served) -> Blob:
    body, repository = noise(_SIZE), new_repository()
    with registry.client() as client:
        digest = push_blob(client, repository, body)
    return Blob(f"/v2/{repository}/blobs/{digest}", digest, body)


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Return each part's Content-Range and bytes, in order; the framing is checked to the byte."""
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    rest, found = answer.content, []
    delimiter = b"--" + boundary.encode()
    assert delimiter in rest
    at = rest.index(delimiter)
    assert rest[:at].strip() == b""
    while not rest.startswith(delimiter + b"--", at):
        start = rest.index(b"\r\n\r\n", at) + 4
        head = rest[at:start].decode()
        matched = re.search(r"content-range: (bytes (\d+)-(\d+)/\d+)\r\n", head, re.IGNORECASE)
        assert matched is not None, head
        end = start + int(matched[3]) - int(matched[2]) + 1
        found.append((matched[1], rest[start:end]))
        assert rest.startswith(b"\r\n" + delimiter, end)
        at = end + 2
    assert rest[at:] == delimiter + b"--\r\n"
    return found


def ranges(*wanted: tuple[int, int]) -> dict[str, str]:
    return {"range": "bytes=" + ",".join(f"{start}-{end}" for start, end in wanted)}


def test_get_returns_the_bytes_and_says_what_they_are(client: httpx.Client, blob: Blob) -> None:
    answer = client.get(blob.target)
    assert answer.status_code == 200
    assert answer.content == blob.body
    assert answer.headers["content-length"] == str(_SIZE)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["docker-content-digest"] == blob.digest
    assert answer.headers["etag"] == f'"{blob.digest}"'
    assert answer.headers["accept-ranges"] == "bytes"


def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client, blob: Blob) -> None:
    head, get = client.head(blob.target), client.get(blob.target)
    assert head.status_code == 200
    assert head.content == b""
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


@pytest.mark.parametrize("asked", ["gzip", "zstd, gzip, deflate", "gzip, *", "br;q=1.0"])
def test_no_content_encoding_is_ever_applied(client: httpx.Client, asked: str) -> None:
    body, repository = b"compressible " * 10_000, new_repository()
    digest = push_blob(client, repository, body)
    answer = client.get(f"/v2/{repository}/blobs/{digest}", headers={"accept-encoding": asked})
    assert "content-encoding" not in answer.headers
    assert answer.content == body
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ['"{0}"', 'W/"{0}"', '"other", "{0}"', '"other","{0}" , "b"', "*"])
def test_a_copy_that_is_current_is_answered_304(
    client: httpx.Client, blob: Blob, method: str, form: str
) -> None:
    headers = {"if-none-match": form.format(blob.digest)}
    answer = client.request(method, blob.target, headers=headers)
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == f'"{blob.digest}"'
    assert answer.headers["docker-content-digest"] == blob.digest


def test_a_copy_of_something_else_is_answered_in_full(client: httpx.Client, blob: Blob) -> None:
    headers = {"if-none-match": f'"{digest_of(b"other")}"'}
    assert client.get(blob.target, headers=headers).content == blob.body


def test_304_comes_before_any_range(client: httpx.Client, blob: Blob) -> None:
    headers = {"if-none-match": f'"{blob.digest}"', "range": "bytes=0-1"}
    assert client.get(blob.target, headers=headers).status_code == 304


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, _SIZE - 1),
        ("bytes=-500", _SIZE - 500, _SIZE - 1),
        (f"bytes={_SIZE - 10}-{_SIZE + 5000}", _SIZE - 10, _SIZE - 1),
        (f"bytes=-{_SIZE * 3}", 0, _SIZE - 1),
        (f"bytes={MIB}-{5 * MIB}", MIB, 5 * MIB),
        (f"bytes={_SIZE - 1}-", _SIZE - 1, _SIZE - 1),
        ("BYTES=7-9", 7, 9),
        (f"bytes=7-9,{_SIZE + 1}-{_SIZE + 9}", 7, 9),
        ("bytes=7-999999999999999999", 7, _SIZE - 1),
    ],
)
def test_one_range_is_answered_206(
    client: httpx.Client, blob: Blob, asked: str, start: int, end: int
) -> None:
    answer = client.get(blob.target, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{_SIZE}"
    assert answer.headers["content-length"] == str(end - start + 1)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["docker-content-digest"] == blob.digest
    assert answer.content == blob.body[start : end + 1]


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=500-0",
        f"bytes={_SIZE}-",
        f"bytes={_SIZE}-{_SIZE + 9}",
        "bytes=-0",
        "bytes=",
        "bytes=,",
    ],
)
def test_a_range_without_a_byte_is_416_and_tells_the_size(
    client: httpx.Client, blob: Blob, asked: str
) -> None:
    answer = client.get(blob.target, headers={"range": asked})
    assert_refused(answer, 416, "SIZE_INVALID")
    assert answer.headers["content-range"] == f"bytes */{_SIZE}"


@pytest.mark.parametrize(
    "asked", ["bytes=a-b", "bytes=1", "bytes=--1", "bytes=1-2-3", "bytes=0x1-2"]
)
def test_a_range_that_is_none_is_never_a_fault(
    client: httpx.Client, blob: Blob, asked: str
) -> None:
    # RFC 9110 section 14.2 leaves a choice: ignore it, or refuse.
    answer = client.get(blob.target, headers={"range": asked})
    assert answer.status_code in {200, 400, 416}
    if answer.status_code == 200:
        assert answer.content == blob.body
    else:
        assert answer.json()["errors"][0]["code"] == "SIZE_INVALID"


def test_another_unit_is_ignored(client: httpx.Client, blob: Blob) -> None:
    answer = client.get(blob.target, headers={"range": "pages=1-2"})
    assert (answer.status_code, answer.content) == (200, blob.body)


def test_a_range_of_an_empty_blob_is_416(client: httpx.Client) -> None:
    repository = new_repository()
    digest = push_blob(client, repository, b"")
    answer = client.get(f"/v2/{repository}/blobs/{digest}", headers={"range": "bytes=0-"})
    assert_refused(answer, 416, "SIZE_INVALID")
    assert answer.headers["content-range"] == "bytes */0"


def test_if_range_that_matches_lets_the_range_through(client: httpx.Client, blob: Blob) -> None:
    headers = {"range": "bytes=3-5", "if-range": f'"{blob.digest}"'}
    answer = client.get(blob.target, headers=headers)
    assert (answer.status_code, answer.content) == (206, blob.body[3:6])


@pytest.mark.parametrize(
    "validator", ['W/"{0}"', '"{1}"', "Wed, 21 Oct 2026 07:28:00 GMT", "{0}", '"{0}", "{1}"']
)
def test_if_range_that_does_not_match_gives_the_whole(
    client: httpx.Client, blob: Blob, validator: str
) -> None:
    given = validator.format(blob.digest, digest_of(b"other"))
    answer = client.get(blob.target, headers={"range": "bytes=3-5", "if-range": given})
    assert (answer.status_code, answer.content) == (200, blob.body)


def test_several_ranges_come_in_the_asked_order_unmerged(client: httpx.Client, blob: Blob) -> None:
    wanted = [(MIB, 2 * MIB - 1), (10, 19), (20, 29), (3 * MIB, 5 * MIB), (0, 0), (15, 24)]
    answer = client.get(blob.target, headers=ranges(*wanted))
    assert answer.status_code == 206
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-range" not in answer.headers
    assert parts_of(answer) == [
        (f"bytes {start}-{end}/{_SIZE}", blob.body[start : end + 1]) for start, end in wanted
    ]


def test_podman_gets_its_1013_ranges(client: httpx.Client, blob: Blob) -> None:
    chooser = random.Random(1013)
    cuts = sorted(chooser.sample(range(_SIZE), 2 * 1013))
    wanted = [(start, end - 1) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
    chooser.shuffle(wanted)
    answer = client.get(blob.target, headers=ranges(*wanted))
    assert answer.status_code == 206
    assert parts_of(answer) == [
        (f"bytes {start}-{end}/{_SIZE}", blob.body[start : end + 1]) for start, end in wanted
    ]


def test_4096_ranges_are_served_and_one_more_is_refused(client: httpx.Client, blob: Blob) -> None:
    wanted = [(each * 7, each * 7 + 1) for each in range(4097)]
    assert len(parts_of(client.get(blob.target, headers=ranges(*wanted[:4096])))) == 4096
    assert_refused(client.get(blob.target, headers=ranges(*wanted)), 400, "SIZE_INVALID")


def test_ranges_that_multiply_the_blob_are_refused(client: httpx.Client, blob: Blob) -> None:
    answer = client.get(blob.target, headers=ranges(*[(0, _SIZE - 1)] * 3))
    assert_refused(answer, 400, "SIZE_INVALID")


def test_blobs_belong_to_their_repository(client: httpx.Client, blob: Blob) -> None:
    elsewhere = f"/v2/{new_repository()}/blobs/{blob.digest}"
    assert_refused(client.get(elsewhere), 404, "BLOB_UNKNOWN")
    assert client.head(elsewhere).status_code == 404


def test_a_deleted_blob_is_gone_from_its_repository_only(client: httpx.Client) -> None:
    first, second, body = new_repository(), new_repository(), noise(1000)
    digest = push_blob(client, first, body)
    push_blob(client, second, body)
    assert client.delete(f"/v2/{first}/blobs/{digest}").status_code == 202
    assert_refused(client.get(f"/v2/{first}/blobs/{digest}"), 404, "BLOB_UNKNOWN")
    assert_refused(client.delete(f"/v2/{first}/blobs/{digest}"), 404, "BLOB_UNKNOWN")
    assert client.get(f"/v2/{second}/blobs/{digest}").content == body

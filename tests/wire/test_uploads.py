# end-4 to end-6, end-13, end-14: every way a blob comes in, and every way it is refused.
from __future__ import annotations

from collections.abc import Iterator

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
    rows,
)
from tests.wire.raw import Connection, chunked, request

OTHER = digest_of(b"something else")


def held(client: httpx.Client, repository: str, digest: str) -> bytes:
    answer = client.get(f"/v2/{repository}/blobs/{digest}")
    assert answer.status_code == 200, answer.text
    return answer.content


def chunk(client: httpx.Client, location: str, body: bytes, start: int) -> httpx.Response:
    fields = {"content-range": f"{start}-{start + len(body) - 1}"}
    return client.patch(location, content=body, headers=fields)


def finish(
    client: httpx.Client, location: str, digest: str, body: bytes = b"", **headers: str
) -> httpx.Response:
    return client.put(location, params={"digest": digest}, content=body, headers=headers)


@pytest.mark.parametrize("size", [0, 1, 2, 100_000, 3 * MIB + 1])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_post_then_put(client: httpx.Client, size: int, algorithm: str) -> None:
    repository, body = new_repository(), noise(size)
    digest = digest_of(body, algorithm)
    begun = client.post(f"/v2/{repository}/blobs/uploads/")
    assert begun.status_code == 202
    assert begun.headers["docker-upload-uuid"] in begun.headers["location"]
    assert begun.headers["range"] == "0-0"
    finished = finish(client, begun.headers["location"], digest, body)
    assert finished.status_code == 201
    assert finished.headers["docker-content-digest"] == digest
    assert client.get(finished.headers["location"]).content == body
    assert held(client, repository, digest) == body


def test_the_session_is_gone_once_finished(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(10)
    location = begin(client, repository)
    assert finish(client, location, digest_of(body), body).status_code == 201
    assert_refused(client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_refused(client.patch(location, content=body), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_refused(finish(client, location, digest_of(body)), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_refused(client.delete(location), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_single_post(client: httpx.Client, slash: str, algorithm: str) -> None:
    repository, body = new_repository(), noise(MIB + 5)
    digest = digest_of(body, algorithm)
    answer = client.post(
        f"/v2/{repository}/blobs/uploads{slash}", params={"digest": digest}, content=body
    )
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == digest
    assert client.get(answer.headers["location"]).content == body


def test_a_single_post_that_fails_leaves_nothing(client: httpx.Client, registry: Served) -> None:
    repository, body = new_repository(), noise(MIB + 7)
    before = set(files_of(registry))
    answer = client.post(f"/v2/{repository}/blobs/uploads/", params={"digest": OTHER}, content=body)
    assert_refused(answer, 400, "DIGEST_INVALID")
    assert set(files_of(registry)) == before
    assert rows(registry, f"SELECT * FROM upload WHERE repository = '{repository}'") == []
    assert client.head(f"/v2/{repository}/blobs/{digest_of(body)}").status_code == 404


def test_chunks_in_order(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(2 * MIB + 11)
    location, at = begin(client, repository), 0
    for size in (1, 1023, 70_000, MIB, len(body) - MIB - 70_000 - 1024):
        answer = chunk(client, location, body[at : at + size], at)
        at += size
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{at - 1}"
        location = answer.headers["location"]
        assert offset_of(client, location) == at
    assert finish(client, location, digest_of(body)).status_code == 201
    assert held(client, repository, digest_of(body)) == body


def test_the_last_chunk_in_the_put(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(10_000)
    location = begin(client, repository)
    assert chunk(client, location, body[:4000], 0).status_code == 202
    fields = {"content-range": "4000-9999"}
    answer = finish(client, location, digest_of(body), body[4000:], **fields)
    assert answer.status_code == 201
    assert held(client, repository, digest_of(body)) == body


@pytest.mark.parametrize("start", [0, 999, 1001, 5000])
@pytest.mark.parametrize("closing", [False, True])
def test_a_chunk_out_of_order_is_416_and_tells_where_to_go_on(
    client: httpx.Client, start: int, closing: bool
) -> None:
    repository, body = new_repository(), noise(3000)
    location = begin(client, repository)
    chunk(client, location, body[:1000], 0)
    if closing:
        fields = {"content-range": f"{start}-{start + 1999}"}
        answer = finish(client, location, digest_of(body), body[1000:], **fields)
    else:
        answer = chunk(client, location, body[1000:], start)
    assert_refused(answer, 416, "BLOB_UPLOAD_INVALID")
    assert answer.headers["range"] == "0-999"
    resumed = chunk(client, answer.headers["location"], body[1000:], 1000)
    assert resumed.status_code == 202
    assert finish(client, location, digest_of(body)).status_code == 201
    assert held(client, repository, digest_of(body)) == body


def test_a_first_chunk_must_start_at_0(client: httpx.Client) -> None:
    location = begin(client, new_repository())
    assert_refused(chunk(client, location, b"abc", 3), 416, "BLOB_UPLOAD_INVALID")


@pytest.mark.parametrize(
    "value", ["bytes 0-9/10", "0-", "-9", "9-0", "a-b", "0-9/10", "", "0 - 9", "0-9" * 50]
)
def test_a_content_range_of_another_form_is_refused(client: httpx.Client, value: str) -> None:
    location = begin(client, new_repository())
    answer = client.patch(location, content=b"0123456789", headers={"content-range": value})
    assert_refused(answer, 400, "BLOB_UPLOAD_INVALID")
    assert client.get(location).headers["range"] == "0-0"


def test_a_content_range_that_is_not_the_length_is_refused(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(100)
    location = begin(client, repository)
    answer = client.patch(location, content=body, headers={"content-range": "0-98"})
    assert_refused(answer, 400, "SIZE_INVALID")
    assert finish(client, location, digest_of(body), body).status_code == 201


@pytest.mark.parametrize("announced", ["0-98", "0-100", "0-5000000"])
def test_a_streamed_chunk_of_another_length_is_refused(
    client: httpx.Client, announced: str
) -> None:
    repository, body = new_repository(), noise(100)
    location = begin(client, repository)
    answer = client.patch(location, content=iter([body]), headers={"content-range": announced})
    assert_refused(answer, 400, "SIZE_INVALID")
    assert finish(client, location, digest_of(body), body).status_code == 201
    assert held(client, repository, digest_of(body)) == body


def test_streams_without_content_range_are_appended(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(3 * MIB)
    location = begin(client, repository)

    def pieces(part: bytes) -> Iterator[bytes]:
        for at in range(0, len(part), 300_007):
            yield part[at : at + 300_007]

    first = client.patch(location, content=pieces(body[: 2 * MIB]))
    assert (first.status_code, first.headers["range"]) == (202, f"0-{2 * MIB - 1}")
    second = client.patch(location, content=body[2 * MIB :])
    assert (second.status_code, second.headers["range"]) == (202, f"0-{3 * MIB - 1}")
    assert finish(client, location, digest_of(body)).status_code == 201
    assert held(client, repository, digest_of(body)) == body


def test_chunked_coding_down_to_single_bytes(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), noise(700)
    location = begin(client, repository)
    with Connection(registry) as connection:
        connection.send(request("PATCH", location, "Transfer-Encoding: chunked"))
        coded = chunked(*(body[at : at + 1] for at in range(len(body))))
        assert connection.ask(coded).status_code == 202
    assert finish(client, location, digest_of(body)).status_code == 201
    assert held(client, repository, digest_of(body)) == body


@pytest.mark.parametrize("hint", [True, False])
def test_sha512_in_chunks(client: httpx.Client, hint: bool) -> None:
    repository, body = new_repository(), noise(2 * MIB + 3)
    location = begin(client, repository, **({"digest-algorithm": "sha512"} if hint else {}))
    assert chunk(client, location, body[:MIB], 0).status_code == 202
    assert chunk(client, location, body[MIB:], MIB).status_code == 202
    digest = digest_of(body, "sha512")
    finished = finish(client, location, digest)
    assert finished.status_code == 201
    assert finished.headers["docker-content-digest"] == digest
    answer = client.get(f"/v2/{repository}/blobs/{digest}")
    assert answer.content == body
    assert answer.headers["docker-content-digest"] == digest


def test_a_session_for_sha512_may_be_finished_as_sha256(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(5000)
    location = begin(client, repository, **{"digest-algorithm": "sha512"})
    assert finish(client, location, digest_of(body), body).status_code == 201
    assert held(client, repository, digest_of(body)) == body


@pytest.mark.parametrize("algorithm", ["md5", "SHA256", "sha384", "", "sha256,sha512"])
def test_an_algorithm_we_lack_is_refused_at_once(client: httpx.Client, algorithm: str) -> None:
    answer = client.post(
        f"/v2/{new_repository()}/blobs/uploads/", params={"digest-algorithm": algorithm}
    )
    assert_refused(answer, 400, "DIGEST_INVALID")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_mismatch_leaves_the_session_as_it_was(client: httpx.Client, algorithm: str) -> None:
    repository, body = new_repository(), noise(2 * MIB)
    location = begin(client, repository)
    chunk(client, location, body[:MIB], 0)
    wrong = finish(client, location, digest_of(b"no", algorithm), noise(2 * MIB))
    assert_refused(wrong, 400, "DIGEST_INVALID")
    assert offset_of(client, location) == MIB
    assert client.head(f"/v2/{repository}/blobs/{digest_of(b'no')}").status_code == 404
    right = finish(client, location, digest_of(body, algorithm), body[MIB:])
    assert right.status_code == 201
    assert held(client, repository, digest_of(body, algorithm)) == body


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:baddigeststring", "md5:" + "0" * 32, "sha256:" + "A" * 64, "%00", "x" * 999],
)
def test_a_put_with_a_bad_digest_leaves_the_session(client: httpx.Client, digest: str) -> None:
    repository, body = new_repository(), noise(100)
    location = begin(client, repository)
    assert_refused(finish(client, location, digest, body), 400, "DIGEST_INVALID")
    assert finish(client, location, digest_of(body), body).status_code == 201


def test_a_put_without_a_digest_is_refused(client: httpx.Client) -> None:
    assert_refused(client.put(begin(client, new_repository())), 400, "DIGEST_INVALID")


def test_cancel_ends_the_session_and_its_file(client: httpx.Client, registry: Served) -> None:
    repository, body = new_repository(), noise(4321)
    location = begin(client, repository)
    chunk(client, location, body, 0)
    assert len(files_holding(registry, body)) == 1
    assert client.delete(location).status_code == 204
    assert files_holding(registry, body) == []
    assert_refused(client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_refused(client.delete(location), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("name", ["0" * 32, "nope", "..", "A" * 32, "a" * 5000, "%2e%2e", "%00"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_an_upload_that_never_was(registry: Served, method: str, name: str) -> None:
    target = f"/v2/{new_repository()}/blobs/uploads/{name}?digest={OTHER}"
    with Connection(registry) as connection:
        answer = connection.ask(request(method, target, "Content-Length: 0"))
    assert_refused(answer, 404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_belongs_to_its_repository(client: httpx.Client) -> None:
    mine, other = new_repository(), new_repository()
    location = begin(client, mine)
    assert_refused(client.get(location.replace(mine, other)), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_refused(client.delete(location.replace(mine, other)), 404, "BLOB_UPLOAD_UNKNOWN")
    assert client.get(location).status_code == 204


def test_what_others_pushed_is_kept_once(client: httpx.Client, registry: Served) -> None:
    body = noise(4711)
    for _ in range(3):
        push_blob(client, new_repository(), body)
    assert len(files_holding(registry, body)) == 1

"""Pulls of blobs in S3: sent there by a signed URL, or not, as the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.faults.stage import blobs_option
from tests.faulty import FaultyProxy
from tests.s3 import S3Server
from tests.serving import Served, push_blob
from tests.wire.build import new_repository, noise
from tests.wire.raw import Connection, request

SECRET = "Basic dXNlcjpzZWNyZXQ="
Blob = tuple[str, bytes]


@contextmanager
def redirecting(server: S3Server, data: Path, *options: str) -> Iterator[Served]:
    blobs = blobs_option(server, server.new_bucket(), server.endpoint)
    served = Served(data, options=(*blobs, *options))
    try:
        yield served.start()
    finally:
        served.stop()


@pytest.fixture(scope="module")
def door(minio: S3Server) -> Iterator[FaultyProxy]:
    """The address that clients have for the store; the registry has another."""
    with FaultyProxy(minio.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def served(
    minio: S3Server, door: FaultyProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    # Not versitygw: it takes a signed URL with an Authorization header, which S3 refuses.
    options = (
        *("--redirect-endpoint", door.endpoint, "--redirect-seconds", "90s"),
        *("--redirect-except", "10.1.0.0/16,fd00::/8", "--trusted-proxies", "127.0.0.0/8"),
    )
    with redirecting(minio, tmp_path_factory.mktemp("redirect"), *options) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def blob(client: httpx.Client) -> Blob:
    repository, body = new_repository(), noise(300_000)
    return f"/v2/{repository}/blobs/{push_blob(client, repository, body)}", body


def test_a_pull_is_sent_to_the_public_address_for_a_short_time(
    client: httpx.Client, blob: Blob, door: FaultyProxy
) -> None:
    path, _ = blob
    answer = client.get(path, headers={"authorization": SECRET})
    assert answer.status_code == 307
    assert answer.content == b""
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["docker-content-digest"] == path.rpartition("/")[2]
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}" == door.endpoint
    query = parse_qs(location.query)
    assert query["X-Amz-Expires"] == ["90"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    for text in (SECRET, "secret"):
        assert text not in str(answer.headers)


def test_a_client_that_follows_has_the_bytes_and_leaks_no_authorization(
    served: Served, blob: Blob, door: FaultyProxy
) -> None:
    path, body = blob
    seen: list[httpx.Request] = []
    with httpx.Client(
        base_url=served.url,
        follow_redirects=True,
        headers={"authorization": SECRET},
        event_hooks={"request": [seen.append]},
    ) as client:
        door.reset()
        answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content == body
    assert door.requests == {"GetObject": 1}
    ours, theirs = seen
    assert ours.headers["authorization"] == SECRET
    assert "authorization" not in theirs.headers


@pytest.mark.parametrize(("span", "start", "end"), [("0-9", 0, 10), ("-7", -7, None)])
def test_a_range_is_kept_by_the_client_and_answered_by_the_store(
    client: httpx.Client, blob: Blob, span: str, start: int, end: int | None
) -> None:
    path, body = blob
    answer = client.get(path, headers={"range": f"bytes={span}"}, follow_redirects=True)
    assert answer.status_code == 206
    assert len(answer.history) == 1
    assert answer.content == body[start:end]


def test_a_signed_url_is_good_for_its_object_and_method_only(
    client: httpx.Client, blob: Blob
) -> None:
    location = client.get(blob[0]).headers["location"]
    assert httpx.get(location).content == blob[1]
    assert httpx.put(location, content=b"other").status_code == 403
    assert httpx.delete(location).status_code == 403
    assert httpx.get(location.replace("X-Amz-Expires=90", "X-Amz-Expires=900")).is_client_error
    key = urlsplit(location).path.rpartition("/")[2]
    assert httpx.get(location.replace(key, "0" * 32)).is_client_error


def test_what_needs_no_bytes_or_several_stretches_is_answered_by_us(
    client: httpx.Client, blob: Blob, door: FaultyProxy
) -> None:
    path, body = blob
    door.reset()
    head = client.head(path)
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(body))
    etag = head.headers["etag"]
    assert client.get(path, headers={"if-none-match": etag}).status_code == 304
    assert client.get(path, headers={"range": "bytes=300000-"}).status_code == 416
    several = client.get(path, headers={"range": "bytes=0-99,1000-1099"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert body[:100] in several.content
    assert body[1000:1100] in several.content
    assert not door.requests


@pytest.mark.parametrize("size", [0, 1, 65_535])
def test_a_small_blob_comes_from_us(client: httpx.Client, size: int) -> None:
    repository, body = new_repository(), noise(size)
    answer = client.get(f"/v2/{repository}/blobs/{push_blob(client, repository, body)}")
    assert answer.status_code == 200
    assert answer.content == body


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("fd00::1", 200),
        ("192.0.2.1", 307),
        # Only what our own proxy added is believed; the client may have sent the rest.
        ("10.1.2.3, 192.0.2.1", 307),
        ("192.0.2.1, 10.1.2.3", 200),
        ("10.1.2.3, 127.0.0.9", 200),
        ("nonsense", 200),
    ],
)
def test_clients_of_some_networks_have_their_bytes_from_us(
    client: httpx.Client, blob: Blob, forwarded: str, status: int
) -> None:
    answer = client.get(blob[0], headers={"x-forwarded-for": forwarded})
    assert answer.status_code == status
    if status == 200:
        assert answer.content == blob[1]


@pytest.mark.parametrize(
    "options",
    [("--redirect", "off"), ("--redirect-except", "127.0.0.0/8")],
    ids=" ".join,
)
def test_redirects_are_turned_off(
    minio: S3Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with redirecting(minio, tmp_path, *options) as served, served.client() as client:
        repository, body = new_repository(), noise(300_000)
        path = f"/v2/{repository}/blobs/{push_blob(client, repository, body)}"
        # Nobody is trusted here to name another client.
        fields = {"x-forwarded-for": "192.0.2.1", "range": "bytes=5-"}
        answer = client.get(path, headers=fields)
        assert answer.status_code == 206
        assert answer.content == body[5:]
        assert client.get(path).content == body


def test_a_signed_url_is_given_while_the_store_is_away(minio: S3Server, tmp_path: Path) -> None:
    with FaultyProxy(minio.port) as between:
        blobs = blobs_option(minio, minio.new_bucket(), between.endpoint)
        served = Served(tmp_path, options=(*blobs, "--redirect-endpoint", minio.endpoint))
        try:
            with served.start().client() as client:
                repository, body = new_repository(), noise(70_000)
                path = f"/v2/{repository}/blobs/{push_blob(client, repository, body)}"
                between.refuse()
                assert client.get(path, follow_redirects=True).content == body
        finally:
            served.stop()


def test_a_redirect_ends_its_request_and_not_its_connection(served: Served, blob: Blob) -> None:
    with Connection(served) as connection:
        for _ in range(2):
            assert connection.ask(request("GET", blob[0])).status_code == 307


def test_a_signed_url_is_in_no_log(minio: S3Server, tmp_path: Path) -> None:
    with redirecting(minio, tmp_path, "--log-level", "debug") as served, served.client() as client:
        repository, body = new_repository(), noise(300_000)
        answer = client.get(f"/v2/{repository}/blobs/{push_blob(client, repository, body)}")
        signature = parse_qs(urlsplit(answer.headers["location"]).query)["X-Amz-Signature"][0]
        assert signature not in served.log
        assert minio.secret_key not in served.log

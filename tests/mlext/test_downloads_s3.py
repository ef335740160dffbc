# Downloads where blobs lie in S3: the store's own address for what is large, and ours for the rest.
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.faults.stage import blobs_option
from tests.mlext.test_downloads import Files, download, push_files
from tests.s3 import S3Server
from tests.serving import Served, digest_of
from tests.wire.build import new_repository, noise

SMALL, LARGE = noise(1_000), noise(300_000)


@contextmanager
def on_s3(server: S3Server, data: Path, *options: str) -> Iterator[httpx.Client]:
    blobs = blobs_option(server, server.new_bucket(), server.endpoint)
    served = Served(data, options=(*blobs, *options))
    try:
        with served.start().client() as client:
            yield client
    finally:
        served.stop()


def pushed(client: httpx.Client) -> Files:
    return push_files(client, new_repository(), {"small": SMALL, "weights/große.bin": LARGE})


def test_what_is_large_has_an_address_of_the_store(s3_server: S3Server, tmp_path: Path) -> None:
    with on_s3(s3_server, tmp_path) as client:
        files = pushed(client)
        found = download(client, files.digest, ttl=77)
        small, large = found["files"]
        for url, body in (
            (found["url"], files.body),
            (small["url"], SMALL),
            (large["url"], LARGE),
        ):
            assert httpx.get(url).content == body
        for url in (found["url"], small["url"]):
            assert url.startswith(f"{client.base_url}/v1/downloads/".replace("//v1", "/v1"))
        location = urlsplit(large["url"])
        assert f"{location.scheme}://{location.netloc}" == s3_server.endpoint
        query = parse_qs(location.query)
        assert query["X-Amz-Expires"] == ["77"]
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z").timestamp()
        ends = datetime.fromisoformat(found["expires_at"]).timestamp()
        assert signed - 2 <= ends - 77 <= signed
        part = httpx.get(large["url"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, LARGE[10:20])
        assert "filename*=UTF-8''gro%C3%9Fe.bin" in part.headers["content-disposition"]
        other = large["url"].replace("X-Amz-Expires=77", "X-Amz-Expires=777")
        assert httpx.get(other).is_client_error
        # By its own digest too.
        blob = download(client, digest_of(LARGE))
        assert urlsplit(blob["url"]).netloc == location.netloc
        assert blob["scheme"] == "http"


@pytest.mark.parametrize(
    "options",
    [("--redirect", "off"), ("--redirect-except", "127.0.0.0/8")],
    ids=" ".join,
)
def test_who_is_to_have_bytes_from_us_has_our_address(
    minio: S3Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with on_s3(minio, tmp_path, *options) as client:
        found = download(client, pushed(client).digest)
        large = found["files"][1]
        assert urlsplit(large["url"]).path.startswith("/v1/downloads/")
        assert httpx.get(large["url"]).content == LARGE
        assert httpx.get(large["url"], headers={"Range": "bytes=-5"}).content == LARGE[-5:]


def test_our_address_sends_nobody_to_the_store_for_longer_than_it_lasts(
    minio: S3Server, tmp_path: Path
) -> None:
    options = ("--redirect-except", "10.0.0.0/8", "--trusted-proxies", "127.0.0.0/8")
    with on_s3(minio, tmp_path, *options) as client:
        files = pushed(client)
        inside = {"x-forwarded-for": "10.1.2.3"}
        place = f"/v1/artifacts/{files.digest}/download"
        url = client.get(place, headers=inside).json()["files"][1]["url"]
        assert re.search(r"/v1/downloads/.*/blobs/", url)
        outside = httpx.get(url, headers={"x-forwarded-for": "192.0.2.1"})
        assert (outside.status_code, outside.content) == (200, LARGE)

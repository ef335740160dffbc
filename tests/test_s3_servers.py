"""The two real S3 servers that tests stand on: started, stopped and looked into."""

from __future__ import annotations

import asyncio
import signal
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError

from tests import s3
from tests.s3 import S3Server, Upload

_PART = 5 * 1024 * 1024


def _begin_upload(server: S3Server, bucket: str, key: str) -> str:
    """Begin a multipart upload of one part; return its id."""

    async def main() -> str:
        async with server.client() as client:
            begun = await client.create_multipart_upload(Bucket=bucket, Key=key)
            await client.upload_part(
                Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=bytes(_PART)
            )
            return begun["UploadId"]

    return asyncio.run(main())


def test_an_object_is_written_listed_read_replaced_and_deleted(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    s3_server.write(bucket, "some/one", b"first")
    s3_server.write(bucket, "some/two", b"")
    s3_server.write(bucket, "other", b"1")
    s3_server.write(bucket, "some/one", b"replaced")
    assert s3_server.sizes(bucket) == {"some/one": 8, "some/two": 0, "other": 1}
    assert s3_server.sizes(bucket, "some/") == {"some/one": 8, "some/two": 0}
    assert s3_server.read(bucket, "some/one") == b"replaced"
    s3_server.delete(bucket, "some/one")
    assert s3_server.sizes(bucket, "some/o") == {}


def test_an_open_upload_is_listed_and_is_no_object(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    upload = _begin_upload(s3_server, bucket, "some/large")
    assert s3_server.uploads(bucket) == [Upload(key="some/large", id=upload)]
    assert s3_server.uploads(bucket, "some/large") == [Upload(key="some/large", id=upload)]
    assert s3_server.sizes(bucket) == {}


def test_buckets_are_apart(s3_server: S3Server) -> None:
    one, other = s3_server.new_bucket(), s3_server.new_bucket()
    s3_server.write(one, "key", b"body")
    assert s3_server.sizes(other) == {}


def test_a_stranger_is_refused(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()

    async def ask_with_another_secret() -> None:
        async with s3_server.client(secret_key="another") as client:
            await client.list_objects_v2(Bucket=bucket)

    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        asyncio.run(ask_with_another_secret())


def test_an_address_names_bucket_prefix_and_endpoint(versitygw: S3Server) -> None:
    parts = urlsplit(versitygw.url("bucket", "some/prefix"))
    assert (parts.scheme, parts.netloc, parts.path) == ("s3", "bucket", "/some/prefix")
    assert parse_qs(parts.query) == {"endpoint": [f"http://127.0.0.1:{versitygw.port}"]}
    assert versitygw.url("bucket", endpoint="http://127.0.0.1:1").endswith(
        "?endpoint=http://127.0.0.1:1"
    )


@pytest.mark.parametrize("kind", s3.KINDS)
def test_what_was_stored_is_there_when_it_starts_again_on_its_port(kind: s3.Kind) -> None:
    with s3.running(kind) as server:
        bucket, endpoint = server.new_bucket(), server.endpoint
        server.write(bucket, "key", b"body")
        upload = _begin_upload(server, bucket, "large")
        for how in (signal.SIGTERM, signal.SIGKILL):
            server.stop(how)
            with pytest.raises(ConnectionRefusedError):
                asyncio.run(asyncio.open_connection("127.0.0.1", server.port))
            server.start()
            assert server.endpoint == endpoint
            assert server.read(bucket, "key") == b"body"
            assert server.uploads(bucket, "large") == [Upload(key="large", id=upload)]


@pytest.mark.parametrize("kind", s3.KINDS)
def test_nothing_is_left_of_it(kind: s3.Kind) -> None:
    with s3.running(kind) as server:
        assert server.folder.is_dir()
    assert not server.folder.exists()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio.open_connection("127.0.0.1", server.port))

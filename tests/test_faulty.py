"""The faulty proxy does what its rules say, to a real S3 server and a real client of S3."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import aiohttp
import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from types_aiobotocore_s3 import S3Client
from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

from tests.faulty import Fault, FaultyProxy, Rule
from tests.s3 import S3Server

_PART = 5 * 1024 * 1024
# What the client raises when its connection ends: botocore's words, or in a body aiohttp's own.
_ENDS = (BotoCoreError, aiohttp.ClientPayloadError)
# However few attempts botocore is given, aiohttp below it repeats a GET, HEAD, PUT or DELETE whose
# connection ended before the answer's head had come: once, and unseen.
_TWICE = 2
T = TypeVar("T")


class Path:
    """A bucket of a server, with the proxy in between."""

    def __init__(self, server: S3Server, proxy: FaultyProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.bucket = server.new_bucket()

    def ask(self, question: Callable[[S3Client], Awaitable[T]], attempts: int = 1) -> T:
        async def main() -> T:
            async with self.server.client(
                endpoint=self.proxy.endpoint, attempts=attempts
            ) as client:
                return await question(client)

        return asyncio.run(main())

    def put(self, key: str, body: bytes, attempts: int = 1) -> str:
        """Put an object through the proxy; return its ETag."""
        return self.ask(lambda s3: s3.put_object(Bucket=self.bucket, Key=key, Body=body), attempts)[
            "ETag"
        ]

    def get(self, key: str) -> bytes:
        async def got(s3: S3Client) -> bytes:
            answer = await s3.get_object(Bucket=self.bucket, Key=key)
            async with answer["Body"] as body:
                return bytes(await body.read())

        return self.ask(got)

    def begin(self, key: str) -> str:
        return self.ask(lambda s3: s3.create_multipart_upload(Bucket=self.bucket, Key=key))[
            "UploadId"
        ]

    def put_part(self, key: str, upload: str, number: int, body: bytes) -> str:
        return self.ask(
            lambda s3: s3.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=body
            )
        )["ETag"]

    def complete(self, key: str, upload: str, etags: list[str]) -> str:
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)
        ]
        return self.ask(
            lambda s3: s3.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        )["ETag"]

    def parts(self, key: str, upload: str) -> list[int]:
        answer = self.ask(lambda s3: s3.list_parts(Bucket=self.bucket, Key=key, UploadId=upload))
        return [part["PartNumber"] for part in answer.get("Parts", [])]


@pytest.fixture
def path(s3_server: S3Server) -> Iterator[Path]:
    with FaultyProxy(s3_server.port) as proxy:
        yield Path(s3_server, proxy)


def test_without_a_rule_everything_passes_and_is_counted(path: Path) -> None:
    body = secrets.token_bytes(_PART)
    upload = path.begin("large")
    etags = [path.put_part("large", upload, 1, body), path.put_part("large", upload, 2, b"end")]
    assert path.parts("large", upload) == [1, 2]
    path.complete("large", upload, etags)
    path.ask(lambda s3: s3.head_object(Bucket=path.bucket, Key="large"))
    assert path.get("large") == body + b"end"
    path.put("small", b"small")
    other = path.begin("other")
    path.ask(lambda s3: s3.abort_multipart_upload(Bucket=path.bucket, Key="other", UploadId=other))
    path.ask(lambda s3: s3.list_multipart_uploads(Bucket=path.bucket))
    path.ask(lambda s3: s3.list_objects_v2(Bucket=path.bucket))
    path.ask(lambda s3: s3.delete_object(Bucket=path.bucket, Key="large"))
    path.ask(
        lambda s3: s3.delete_objects(Bucket=path.bucket, Delete={"Objects": [{"Key": "small"}]})
    )
    assert path.server.sizes(path.bucket) == {}
    assert path.proxy.requests == {
        "AbortMultipartUpload": 1,
        "CompleteMultipartUpload": 1,
        "CreateMultipartUpload": 2,
        "DeleteObject": 1,
        "DeleteObjects": 1,
        "GetObject": 1,
        "HeadObject": 1,
        "ListMultipartUploads": 1,
        "ListObjectsV2": 1,
        "ListParts": 1,
        "PutObject": 1,
        "UploadPart": 2,
    }
    assert not path.proxy.faults
    path.proxy.reset()
    assert not path.proxy.requests


def test_a_body_that_waits_to_be_asked_for_passes(path: Path) -> None:
    # botocore sends `Expect: 100-continue` for what it reads from a file.
    body = secrets.token_bytes(1_000_000)
    path.ask(
        lambda s3: s3.put_object(Bucket=path.bucket, Key="file", Body=io.BytesIO(body)),
    )
    assert path.get("file") == body
    with pytest.raises(ClientError, match="NoSuchBucket"):
        path.ask(lambda s3: s3.put_object(Bucket="absent", Key="file", Body=io.BytesIO(body)))


def test_requests_in_parallel_pass(path: Path) -> None:
    keys = [f"key-{number}" for number in range(30)]

    async def put_all(s3: S3Client) -> None:
        await asyncio.gather(
            *(s3.put_object(Bucket=path.bucket, Key=key, Body=bytes(10_000)) for key in keys)
        )

    path.ask(put_all)
    assert path.proxy.requests == {"PutObject": len(keys)}
    assert path.server.sizes(path.bucket) == dict.fromkeys(keys, 10_000)


@pytest.mark.parametrize(("fault", "code"), [("slow_down", "SlowDown"), ("internal", "InternalE")])
def test_a_refusal_is_the_error_of_s3_and_the_server_hears_nothing(
    path: Path, fault: Fault, code: str
) -> None:
    path.proxy.add(Rule(fault=fault, operation="PutObject"))
    with pytest.raises(ClientError, match=code):
        path.put("key", bytes(_PART))
    assert path.server.sizes(path.bucket) == {}
    path.put("key", b"body")
    assert path.proxy.requests == {"PutObject": 2}
    assert path.proxy.faults == {fault: 1}


def test_a_refusal_comes_to_those_who_wait_to_be_asked(path: Path) -> None:
    path.proxy.add(Rule(fault="slow_down", operation="PutObject"))
    with pytest.raises(ClientError, match="SlowDown"):
        path.ask(
            lambda s3: s3.put_object(Bucket=path.bucket, Key="key", Body=io.BytesIO(bytes(_PART)))
        )


def test_a_client_that_tries_again_gets_through(path: Path) -> None:
    path.proxy.add(
        Rule(fault="internal", operation="PutObject"), Rule(fault="cut", operation="PutObject")
    )
    path.put("key", b"body", attempts=3)
    assert path.server.read(path.bucket, "key") == b"body"
    # Each rule counts for itself, so the first request was the first of both.
    assert path.proxy.faults == {"internal": 1}


def test_a_rule_strikes_from_the_nth_on_and_so_many_times(path: Path) -> None:
    path.proxy.add(Rule(fault="slow_down", operation="PutObject", nth=2, times=2))
    path.put("key-1", b"")
    for key in ("key-2", "key-3"):
        with pytest.raises(ClientError, match="SlowDown"):
            path.put(key, b"")
        assert path.get("key-1") == b""
    path.put("key-4", b"")
    assert path.server.sizes(path.bucket) == {"key-1": 0, "key-4": 0}


def test_one_cut_before_the_answer_goes_unseen_by_what_calls_the_client(path: Path) -> None:
    path.proxy.add(Rule(fault="cut", operation="PutObject"))
    path.put("key", b"body")
    assert path.proxy.requests == {"PutObject": 2}
    assert path.proxy.faults == {"cut": 1}


def test_a_rule_without_end_strikes_whatever_has_the_method_until_the_reset(path: Path) -> None:
    path.proxy.add(Rule(fault="cut", method="PUT", times=None))
    for _ in range(3):
        with pytest.raises(_ENDS):
            path.put("key", b"")
    path.proxy.reset()
    path.put("key", b"")


def test_a_cut_part_is_not_stored(path: Path) -> None:
    upload = path.begin("large")
    path.proxy.add(Rule(fault="cut", operation="UploadPart", times=_TWICE))
    with pytest.raises(_ENDS):
        path.put_part("large", upload, 1, bytes(_PART))
    assert path.parts("large", upload) == []


def test_an_answer_cut_in_its_body_gives_half_of_it(path: Path) -> None:
    body = secrets.token_bytes(300_000)
    path.put("key", body)
    path.proxy.add(Rule(fault="cut_answer", operation="GetObject"))
    got = bytearray()

    async def read(s3: S3Client) -> None:
        answer = await s3.get_object(Bucket=path.bucket, Key="key")
        async with answer["Body"] as pieces:
            async for piece in pieces.iter_chunks(10_000):
                got.extend(piece)

    with pytest.raises(_ENDS):
        path.ask(read)
    assert body.startswith(got)
    assert 0 < len(got) <= len(body) // 2
    assert path.get("key") == body


def test_an_answer_without_a_body_is_cut_in_its_head_and_the_server_did_it(path: Path) -> None:
    path.proxy.add(Rule(fault="cut_answer", operation="PutObject", times=_TWICE))
    with pytest.raises(_ENDS):
        path.put("key", b"body")
    assert path.server.read(path.bucket, "key") == b"body"


def test_a_truncated_body_reaches_the_server_as_half_and_is_not_stored(path: Path) -> None:
    # Not stored, because over http the client signs what it sends.
    upload = path.begin("large")
    path.proxy.add(Rule(fault="truncated", times=2 * _TWICE))
    with pytest.raises(_ENDS):
        path.put_part("large", upload, 1, bytes(_PART))
    with pytest.raises(_ENDS):
        path.ask(
            lambda s3: s3.put_object(Bucket=path.bucket, Key="file", Body=io.BytesIO(bytes(_PART)))
        )
    assert path.proxy.faults == {"truncated": 2 * _TWICE}
    assert path.parts("large", upload) == []
    assert path.server.sizes(path.bucket) == {}


def test_versitygw_stores_half_of_an_unsigned_body_as_the_whole(versitygw: S3Server) -> None:
    # MinIO refuses it; versitygw does only when the body is too small to be streamed.
    body = secrets.token_bytes(1_000_000)
    with FaultyProxy(versitygw.port) as proxy:
        path = Path(versitygw, proxy)
        signed = path.ask(
            lambda s3: s3.generate_presigned_url(
                "put_object", Params={"Bucket": path.bucket, "Key": "key"}
            )
        )
        proxy.add(Rule(fault="truncated", method="PUT"))
        with pytest.raises(httpx.TransportError):
            httpx.put(signed, content=body)
        assert versitygw.read(path.bucket, "key") == body[:500_000]


def test_a_wrong_etag_is_wrong_and_the_bytes_are_right(path: Path) -> None:
    path.proxy.add(Rule(fault="wrong_etag", operation="PutObject"))
    wrong, right = path.put("key", b"body"), path.put("key", b"body")
    assert wrong != right
    assert len(wrong) == len(right)
    assert path.server.read(path.bucket, "key") == b"body"


def test_a_completed_upload_has_a_wrong_etag_too(path: Path) -> None:
    upload = path.begin("large")
    etags = [path.put_part("large", upload, 1, b"all of it")]
    path.proxy.add(Rule(fault="wrong_etag", operation="CompleteMultipartUpload"))
    wrong = path.complete("large", upload, etags)
    right = path.ask(lambda s3: s3.head_object(Bucket=path.bucket, Key="large"))["ETag"]
    assert wrong.strip('"') != right.strip('"')
    assert len(wrong) == len(right)


def test_when_the_answer_is_lost_the_server_did_it(path: Path) -> None:
    upload = path.begin("large")
    etags = [path.put_part("large", upload, 1, b"all of it")]
    path.put("key", b"body")
    path.proxy.add(
        Rule(fault="lost_answer", operation="CompleteMultipartUpload"),
        Rule(fault="lost_answer", operation="DeleteObject", times=_TWICE),
    )
    with pytest.raises(_ENDS):
        path.complete("large", upload, etags)
    with pytest.raises(_ENDS):
        path.ask(lambda s3: s3.delete_object(Bucket=path.bucket, Key="key"))
    assert path.server.sizes(path.bucket) == {"large": 9}


def test_a_lost_write_looks_done_and_is_not(path: Path) -> None:
    right = path.put("other", b"body")
    path.proxy.add(Rule(fault="lost", operation="PutObject"))
    assert path.put("key", b"body") == right
    assert path.server.sizes(path.bucket) == {"other": 4}


def test_a_lost_upload_looks_done_and_is_not(path: Path) -> None:
    upload = path.begin("large")
    path.proxy.add(
        Rule(fault="lost", operation="UploadPart"),
        Rule(fault="lost", operation="CompleteMultipartUpload"),
        Rule(fault="lost", operation="AbortMultipartUpload"),
    )
    etag = path.put_part("large", upload, 1, b"part")
    assert path.complete("large", upload, [etag])
    path.ask(lambda s3: s3.abort_multipart_upload(Bucket=path.bucket, Key="large", UploadId=upload))
    assert path.server.sizes(path.bucket) == {}
    assert [each.id for each in path.server.uploads(path.bucket)] == [upload]
    assert path.parts("large", upload) == []


def test_a_lost_delete_looks_done_and_is_not(path: Path) -> None:
    keys = ["key", "<other> & more"]
    for key in keys:
        path.put(key, b"")
    path.proxy.add(
        Rule(fault="lost", operation="DeleteObject"), Rule(fault="lost", operation="DeleteObjects")
    )
    path.ask(lambda s3: s3.delete_object(Bucket=path.bucket, Key="key"))
    answer = path.ask(
        lambda s3: s3.delete_objects(
            Bucket=path.bucket, Delete={"Objects": [{"Key": key} for key in keys]}
        )
    )
    assert [each["Key"] for each in answer["Deleted"]] == keys
    assert sorted(path.server.sizes(path.bucket)) == sorted(keys)


def test_no_success_is_made_up_where_the_answer_is_content() -> None:
    with pytest.raises(ValueError, match="GetObject"):
        Rule(fault="lost", operation="GetObject")


def test_a_slow_answer_takes_its_time_and_is_whole(path: Path) -> None:
    body = secrets.token_bytes(200_000)
    path.put("key", body)
    path.proxy.add(
        Rule(fault="slow", operation="GetObject", seconds=0.4),
        Rule(fault="slow", operation="HeadObject", seconds=0.4),
    )
    before = time.monotonic()
    assert path.get("key") == body
    between = time.monotonic()
    path.ask(lambda s3: s3.head_object(Bucket=path.bucket, Key="key"))
    assert min(between - before, time.monotonic() - between) >= 0.4


def test_an_outage_ends_what_is_open_refuses_what_is_new_and_ends(path: Path) -> None:
    path.put("key", b"body")
    path.proxy.add(Rule(fault="slow", operation="GetObject", seconds=60))

    async def read_while_it_begins(s3: S3Client) -> None:
        answer = await s3.get_object(Bucket=path.bucket, Key="key")
        await asyncio.to_thread(path.proxy.refuse)
        async with answer["Body"] as body:
            await body.read()

    with pytest.raises(_ENDS):
        path.ask(read_while_it_begins)
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio.open_connection("127.0.0.1", path.proxy.port))
    path.proxy.reset()
    with pytest.raises(_ENDS):
        path.get("key")
    assert not path.proxy.requests
    path.proxy.accept()
    assert path.get("key") == b"body"


def test_a_server_that_is_away_ends_the_connection(versitygw: S3Server) -> None:
    with FaultyProxy(0) as proxy, pytest.raises(_ENDS):
        Path(versitygw, proxy).put("key", b"body")

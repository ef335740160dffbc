"""S3 as the blob store needs it: one long-lived client, our rules for each call, errors translated.

A body carries its sha256 (a server that loses the end of a connection must notice), what may exist
is written on condition, and what a lost answer leaves in doubt is settled by asking for the object
itself: its size, and metadata that only we could have written. Decision 9 has the reasons.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from ociserver.bucket import Bucket
from ociserver.errors import BlobDamaged, StorageFull, Unavailable, UploadLost

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody
    from types_aiobotocore_s3 import S3Client  # types alone, which the product does not install

_CONNECTIONS = 64
# A pull holds one for as long as its client takes: calls must not have to wait for those.
_STREAMS = 1_000
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
# A call with all its attempts; parts and Complete have longer, as they move or may copy bytes.
_CALL_SECONDS = 30
# Some servers copy every byte at Complete; S3 itself may take minutes, says its manual.
_COMPLETE_SECONDS = 600
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.2
# How long an object may take to appear after a Complete that said it is there.
_APPEAR_SECONDS = 20.0
_AT_ONCE = 16
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity"})
# Answers to Complete, UploadPart and Abort after which the parts are not what we believe they are.
_PARTS_LOST = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
_NO_OBJECT = "NoSuchKey"
_CONTENT = "lading-content"
_UPLOAD = "lading-upload"


@dataclass(frozen=True, slots=True)
class Part:
    """An uploaded part, as the answer to its upload described it."""

    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """A multipart upload of ours; `nonce` is in the metadata of the object it becomes."""

    id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Lying:
    """What a listing shows: an object, or a multipart upload, which has an id and no size."""

    name: str
    since: datetime
    size: int | None = None
    id: str | None = None


class S3:
    """The calls. Made anywhere, used inside one event loop."""

    def __init__(
        self, bucket: Bucket, *, public_endpoint: str | None = None, presigned: int = 300
    ) -> None:
        self._bucket = bucket
        self._public = public_endpoint or bucket.endpoint
        self._presigned = presigned
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._clients: dict[str, S3Client] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        self._clients.clear()
        await self._stack.aclose()

    # -- whole objects

    async def put_new(self, key: str, data: bytes) -> bool:
        """Write an object that is not there yet; False where other bytes are there."""
        content = hashlib.sha256(data)
        client = await self._client("calls")
        try:
            async with _translated():
                await client.put_object(
                    **self._at(key),
                    Body=data,
                    IfNoneMatch="*",
                    ChecksumSHA256=_base64(content.digest()),
                    Metadata={_CONTENT: content.hexdigest()},
                    ContentType="application/octet-stream",
                )
        except Unavailable as error:
            # Put by another request, or by an attempt of ours whose answer was lost.
            ours = await self._is(key, len(data), _CONTENT, content.hexdigest())
            if not ours and not isinstance(error, _ThereError):
                raise
            return ours
        return True

    async def put(self, key: str, data: bytes) -> str:
        """Write an object, over what may be there; return its checksum."""
        client, checksum = await self._client("calls"), checksum_of(data)
        async with _translated():
            await client.put_object(**self._at(key), Body=data, ChecksumSHA256=checksum)
        return checksum

    async def get(self, key: str, span: tuple[int, int] | None) -> tuple[StreamingBody, int]:
        """Return the body of the object, or of its `span` (first and last byte), and its size.

        Raises BlobDamaged where the object is not there, Unavailable where nobody can tell.
        """
        client = await self._client("streams")
        wanted = {"Range": f"bytes={span[0]}-{span[1]}"} if span else {}
        try:
            async with _translated():
                found = await client.get_object(**self._at(key), **wanted)  # type: ignore[arg-type]
        except _AbsentError as error:
            # A lost bucket, or a proxy that knows no such path, is no proof.
            if error.message != _NO_OBJECT:
                raise Unavailable(f"the blob store answered {error.message}") from error
            raise BlobDamaged(f"blob object {key} is not there") from error
        if span is None:
            return found["Body"], found["ContentLength"]
        return found["Body"], int(found.get("ContentRange", "/-1").rpartition("/")[2])

    async def size(self, key: str) -> int | None:
        """Return the object's size, None where there is none."""
        found = await self._head(key)
        return found["ContentLength"] if found else None

    async def remove(self, keys: Sequence[str]) -> None:
        """Delete objects and see that they are gone. Raises Unavailable, the others deleted."""
        left = list(keys)
        for attempt in range(_ATTEMPTS):
            await _pause(attempt)
            await self._delete(left)
            left = await self._still_there(left)
            if not left:
                return
        raise Unavailable(f"{len(left)} objects would not go, such as {left[0]}")

    async def check(self) -> None:
        """Raise Unavailable unless the bucket answers."""
        client = await self._client("calls")
        try:
            async with _translated():
                await client.head_bucket(Bucket=self._bucket.name)
        except _AbsentError as error:
            raise Unavailable(f"there is no bucket {self._bucket.name}") from error

    async def presign(
        self, key: str, *, seconds: int | None = None, disposition: str | None = None
    ) -> str:
        """`ports.Presign`."""
        client = await self._client("public")
        named = {"ResponseContentDisposition": disposition} if disposition else {}
        url: str = await client.generate_presigned_url(
            "get_object",
            Params={**self._at(key), **named},
            ExpiresIn=self._presigned if seconds is None else seconds,
        )
        return url

    # -- objects in parts

    async def begin_parts(self, key: str, nonce: str) -> tuple[Multipart, bool]:
        """Begin a multipart upload; tell whether it is surely the only one that was begun."""
        client = await self._client("calls")
        async with _translated():
            begun = await client.create_multipart_upload(
                **self._at(key),
                ChecksumAlgorithm="SHA256",
                Metadata={_UPLOAD: nonce},
                ContentType="application/octet-stream",
            )
        upload = Multipart(id=begun["UploadId"], nonce=nonce)
        return upload, begun["ResponseMetadata"]["RetryAttempts"] == 0

    async def put_part(self, key: str, upload: Multipart, number: int, data: bytearray) -> Part:
        """Upload a part. Raises UploadLost where the upload is gone."""
        client = await self._client("calls")
        checksum = _base64((await asyncio.to_thread(hashlib.sha256, data)).digest())
        async with _translated(None):
            done = await client.upload_part(
                **self._at(key),
                UploadId=upload.id,
                PartNumber=number,
                Body=data,  # type: ignore[arg-type] # botocore takes it, the stubs do not
                ChecksumSHA256=checksum,
            )
        return Part(len(data), done["ETag"], checksum)

    async def complete_parts(self, key: str, upload: Multipart, parts: Sequence[Part]) -> None:
        """Make the parts an object, and see that it is there, whole and ours. May be repeated.

        Raises UploadLost where that cannot come to be.
        """
        size = sum(part.size for part in parts)
        for attempt in range(_ATTEMPTS):
            await _pause(attempt)
            trouble = await self._complete(key, upload, parts)
            if isinstance(trouble, UploadLost) and not attempt:
                # Not by us, then: another request may have completed it with other bytes.
                raise trouble
            if await self.is_complete(key, upload, size):
                return
            if trouble is None and await self._appears(key, size, upload):
                return
            if isinstance(trouble, UploadLost):
                raise trouble
        if trouble is None and not await self._is_known(key, upload.id):
            raise UploadLost("the store took the parts and gave no object for them")
        raise Unavailable("the store does not complete the object") from trouble

    async def is_complete(self, key: str, upload: Multipart, size: int) -> bool:
        """Tell whether this upload is an object now. Raises UploadLost where another's is there."""
        return await self._is(key, size, _UPLOAD, upload.nonce)

    async def abort(self, key: str, upload_id: str) -> None:
        """Give a multipart upload up and see that it is gone. Raises Unavailable."""
        client = await self._client("calls")
        for attempt in range(_ATTEMPTS):
            await _pause(attempt)
            try:
                async with _translated():
                    await client.abort_multipart_upload(**self._at(key), UploadId=upload_id)
            except (UploadLost, _AbsentError):
                return
            if not await self._is_known(key, upload_id):
                return
        raise Unavailable("a multipart upload would not go")

    async def abort_all(self, key: str) -> None:
        """Give up every multipart upload of the key, known to us or not."""
        client = await self._client("calls")
        at = self._at(key)
        async with _translated():
            listed = await client.list_multipart_uploads(Bucket=at["Bucket"], Prefix=at["Key"])
        for each in listed.get("Uploads", []):
            if each["Key"] == at["Key"]:
                await self.abort(key, each["UploadId"])

    # -- what lies there

    async def objects(self, token: str | None) -> tuple[list[Lying], str | None]:
        """Return a page of the objects of this prefix, by name, and the token of the next page."""
        bucket = self._bucket
        client = await self._client("calls")
        # With a delimiter: what others keep in folders of their own is none of ours.
        asked: Any = {"Bucket": bucket.name, "Prefix": bucket.prefix, "Delimiter": "/"}
        if token is not None:
            asked["ContinuationToken"] = token
        async with _listed(bucket.name):
            page = await client.list_objects_v2(**asked)
        found = [
            Lying(each["Key"].removeprefix(bucket.prefix), each["LastModified"], each["Size"])
            for each in page.get("Contents", [])
        ]
        return found, page.get("NextContinuationToken")

    async def uploads(self, after: str | None) -> tuple[list[Lying], str | None]:
        """Return a page of the multipart uploads of this prefix, and after what the next begins.

        The whole bucket is asked for, as MinIO finds nothing by a true prefix; pages go by key, as
        versitygw refuses to go on within one. A key's uploads beyond a page's end are left out.
        """
        bucket = self._bucket
        client = await self._client("calls")
        async with _listed(bucket.name):
            page = await client.list_multipart_uploads(Bucket=bucket.name, KeyMarker=after or "")
        found = [
            Lying(each["Key"].removeprefix(bucket.prefix), each["Initiated"], id=each["UploadId"])
            for each in page.get("Uploads", [])
            if each["Key"].startswith(bucket.prefix)
        ]
        return found, page.get("NextKeyMarker") if page.get("IsTruncated") else None

    # -- the rest is how

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.prefix + key}

    async def _complete(
        self, key: str, upload: Multipart, parts: Sequence[Part]
    ) -> UploadLost | Unavailable | None:
        """Ask once: whether an answer was lost is for the object to tell, not for a repetition."""
        client = await self._client("once")
        listed: list[Any] = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumSHA256": part.checksum}
            for number, part in enumerate(parts, start=1)
        ]
        try:
            async with _translated(None):
                await client.complete_multipart_upload(
                    **self._at(key),
                    UploadId=upload.id,
                    MultipartUpload={"Parts": listed},
                    IfNoneMatch="*",
                )
        except (_ThereError, _AbsentError) as error:
            return UploadLost(f"the store has something else there: {error.message}")
        except (UploadLost, Unavailable) as error:
            return error
        return None

    async def _appears(self, key: str, size: int, upload: Multipart) -> bool:
        """Tell whether the object comes to be: a second Complete may answer before the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _APPEAR_SECONDS
        while loop.time() < deadline:
            await asyncio.sleep(_PAUSE_SECONDS)
            if await self.is_complete(key, upload, size):
                return True
            if not await self._is_known(key, upload.id):
                return await self.is_complete(key, upload, size)
        return False

    async def _is_known(self, key: str, upload_id: str) -> bool:
        client = await self._client("calls")
        try:
            async with _translated():
                await client.list_parts(**self._at(key), UploadId=upload_id, MaxParts=1)
        except (UploadLost, _AbsentError):
            return False
        return True

    async def _is(self, key: str, size: int, mark: str, value: str) -> bool:
        """Tell whether the object is there and ours. Raises UploadLost where it is another's."""
        found = await self._head(key)
        if found is None:
            return False
        ours: bool = found["Metadata"].get(mark) == value and found["ContentLength"] == size
        if mark == _UPLOAD and not ours:
            raise UploadLost("the upload was finished with other bytes")
        return ours

    async def _head(self, key: str) -> Any:
        client = await self._client("calls")
        try:
            async with _translated():
                return await client.head_object(**self._at(key))
        except _AbsentError:
            return None

    async def _delete(self, keys: Sequence[str]) -> None:
        client = await self._client("calls")
        named: list[Any] = [{"Key": self._bucket.prefix + key} for key in keys]
        async with _translated():
            await client.delete_objects(
                Bucket=self._bucket.name, Delete={"Objects": named, "Quiet": True}
            )

    async def _still_there(self, keys: Sequence[str]) -> list[str]:
        """Return those that are there: what the deletion said of each is not taken for it."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def size(key: str) -> int | None:
            async with gate:
                return await self.size(key)

        sizes = await asyncio.gather(*(size(key) for key in keys))
        return [key for key, each in zip(keys, sizes, strict=True) if each is not None]

    async def _client(self, kind: str) -> S3Client:
        """Return the client for calls, for bodies, for what is never repeated, or to sign URLs."""
        found = self._clients.get(kind)
        if found is None:
            async with self._opening:
                found = self._clients.get(kind) or await self._open_client(kind)
                self._clients[kind] = found
        return found

    async def _open_client(self, kind: str) -> S3Client:
        bucket = self._bucket
        config = AioConfig(
            signature_version="s3v4",
            # Bodies have a checksum of their own; signing them would hash each again, on the loop.
            s3={"addressing_style": bucket.addressing, "payload_signing_enabled": False},
            retries={"mode": "standard", "total_max_attempts": 1 if kind == "once" else _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_COMPLETE_SECONDS if kind == "once" else _READ_SECONDS,
            max_pool_connections=_STREAMS if kind == "streams" else _CONNECTIONS,
            # Other servers than Amazon's refuse checksums they were not asked to take.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        async with _translated():
            client: S3Client = await self._stack.enter_async_context(
                AioSession(profile=bucket.profile).create_client(
                    "s3",
                    config=config,
                    # Every AWS tool reads this variable but botocore, which reads the older one.
                    region_name=bucket.region or os.environ.get("AWS_REGION"),
                    endpoint_url=self._public if kind == "public" else bucket.endpoint,
                    aws_access_key_id=bucket.access_key,
                    aws_secret_access_key=bucket.secret_key,
                )
            )
        return client


class _AbsentError(Unavailable):
    """The store has no such thing."""


class _ThereError(Unavailable):
    """The store has something there already."""


@asynccontextmanager
async def _translated(seconds: float | None = _CALL_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except ClientError as error:
        raise _meaning(error) from error
    except NoCredentialsError as error:
        raise Unavailable("no credentials for the blob store were found") from error
    except (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unavailable("the blob store is out of reach") from error


@asynccontextmanager
async def _listed(bucket: str) -> AsyncIterator[None]:
    try:
        async with _translated():
            yield
    except _AbsentError as error:
        raise Unavailable(f"there is no bucket {bucket}") from error


def _meaning(error: ClientError) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _PARTS_LOST:
        return UploadLost(f"the store no longer has what it had of this upload: {code}")
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull("the blob store is full")
    if code in {"NoSuchKey", "NoSuchBucket", "404"} or (
        status == HTTPStatus.NOT_FOUND and not code.startswith("XAdmin")
    ):
        return _AbsentError(code)
    if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT):
        return _ThereError(code)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Unavailable(f"the blob store refuses our credentials: {status} {code}")
    return Unavailable(f"the blob store answered {status} {code}")


def checksum_of(data: bytes) -> str:
    """Return the checksum that S3 knows these bytes by."""
    return _base64(hashlib.sha256(data).digest())


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


async def _pause(attempt: int) -> None:
    """Wait before the attempt, the longer the more there were; full jitter."""
    if attempt:
        await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))  # noqa: S311

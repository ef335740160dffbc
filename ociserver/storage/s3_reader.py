"""A whole object of S3: one request for each stretch that is read, another where one breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aiohttp
from botocore.exceptions import BotoCoreError

from ociserver.errors import BlobDamaged, Unavailable
from ociserver.storage.s3_client import S3

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody

_PIECE_BYTES = 1024 * 1024
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.2


class S3Reader:
    """`ports.BlobReader`. The first stretch is asked for on opening: what fails, fails early."""

    def __init__(self, s3: S3, key: str, size: int) -> None:
        self._s3 = s3
        self._key = key
        self._size = size
        self._first: tuple[int, int, StreamingBody] | None = None
        self._bodies: set[StreamingBody] = set()

    @classmethod
    async def open(
        cls, s3: S3, key: str, size: int, first: tuple[int, int] | None = None
    ) -> S3Reader:
        """Open an object of that size; `first` is (offset, count) of the first stretch, if not all.

        Raises BlobDamaged where it is not there, or of another size.
        """
        reader = cls(s3, key, size)
        offset, count = first or (0, size)
        whole = first is None or not count
        body = await reader._ask(None if whole else (offset, offset + count - 1))
        reader._first = (offset, offset + count, body)
        return reader

    async def read(self, offset: int, count: int) -> bytes:
        return b"".join([piece async for piece in self.stream(offset, count)])

    async def stream(self, offset: int, count: int) -> AsyncIterator[bytes]:
        end = min(offset + count, self._size)
        body, failures = self._taken(offset, end), 0
        while offset < end:
            try:
                if body is None:
                    body = await self._ask((offset, end - 1))
                piece = await body.read(min(_PIECE_BYTES, end - offset))
                if not piece:
                    raise aiohttp.ClientPayloadError("the body ended early")
            except (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError) as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise Unavailable(f"blob object {self._key} breaks off") from error
                self._drop(body)
                body = None
                await asyncio.sleep(_PAUSE_SECONDS * failures)
                continue
            offset += len(piece)
            failures = 0
            yield piece
        self._drop(body)

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        while self._bodies:
            self._bodies.pop().close()

    def _taken(self, offset: int, end: int) -> StreamingBody | None:
        """Return the body asked for on opening, if it is what is wanted now."""
        if self._first is None or self._first[:2] != (offset, end):
            return None
        (_, _, body), self._first = self._first, None
        return body

    async def _ask(self, span: tuple[int, int] | None) -> StreamingBody:
        body, size = await self._s3.get(self._key, span)
        if size != self._size:
            body.close()
            raise BlobDamaged(
                f"blob object {self._key} has {size} bytes, the catalog says {self._size}"
            )
        self._bodies.add(body)
        return body

    def _drop(self, body: StreamingBody | None) -> None:
        if body is not None:
            self._bodies.discard(body)
            body.close()

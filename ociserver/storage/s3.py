"""Blobs in an S3 bucket: `<prefix><key>`, written once under their final name, in parts if large.

No blob is copied or renamed when it is committed; the catalog's row is the commit. Who may write to
an object is told by a lease in the catalog, since all replicas share the bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ociserver.errors import LeaseTaken, UploadBusy
from ociserver.leases import LEASE_SECONDS, Leases
from ociserver.ports import BESIDE, Keep, ListedObject, StoredObject
from ociserver.storage.s3_client import S3, Lying, Multipart
from ociserver.storage.s3_reader import S3Reader
from ociserver.storage.s3_writer import TAILS, Room, S3Writer, State
from ociserver.upload import is_session_id

# A client that goes on at once may meet its own last request, or that of a replica that died.
_PATIENCE_SECONDS = LEASE_SECONDS + 1
_SETTLED_SECONDS = 1.0
# S3 API, DeleteObjects.
_DELETED_AT_ONCE = 1_000
_ABORTED_AT_ONCE = 16


class S3Blobs:
    """`ports.ListedStore` in one bucket, shared by replicas. Used inside one event loop."""

    def __init__(
        self, s3: S3, leases: Leases, *, memory: int, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._s3 = s3
        self._leases = leases
        self._room = Room(memory)
        self._patience = patience

    @asynccontextmanager
    async def writer(self, key: str, keep: Keep) -> AsyncIterator[S3Writer]:
        async with self._held(key):
            writer = S3Writer(self._s3, key, keep, self._room)
            try:
                yield writer
            finally:
                await writer.close()

    @asynccontextmanager
    async def put(self, key: str, data: bytes | memoryview) -> AsyncIterator[bool]:
        # No lease: the store takes the object only where there is none, and nothing replaces it.
        yield await self._s3.put_new(key, bytes(data))

    async def settled(self, key: str) -> None:
        await self._leases.free(_lease(key), _SETTLED_SECONDS)

    async def open(self, key: str, size: int, first: tuple[int, int] | None = None) -> S3Reader:
        return await S3Reader.open(self._s3, key, size, first)

    async def delete(self, objects: Sequence[StoredObject]) -> None:
        await self._abort([(_key(each), State.read(each.state)) for each in objects])
        await self._remove([key for each in objects for key in _keys(each)])

    async def objects(self) -> AsyncIterator[ListedObject]:
        for pages in (self._s3.objects, self._s3.uploads):
            following = None
            while True:
                page, following = await pages(following)
                for each in page:
                    if (ours := _as_ours(each)) is not None:
                        yield ours
                if following is None:
                    break

    async def remove(self, listed: Sequence[ListedObject]) -> None:
        marked = [(each.key, each.mark) for each in listed]
        uploads = [(key, Multipart(id=mark.decode(), nonce="")) for key, mark in marked if mark]
        await self._abort([(key, State(upload=upload)) for key, upload in uploads])
        await self._remove([each.name for each in listed if not each.mark])

    async def _remove(self, keys: Sequence[str]) -> None:
        starts = range(0, len(keys), _DELETED_AT_ONCE)
        done = await asyncio.gather(
            *(self._s3.remove(keys[start : start + _DELETED_AT_ONCE]) for start in starts),
            return_exceptions=True,
        )
        for outcome in done:
            if outcome is not None:
                raise outcome

    async def check(self) -> None:
        await self._s3.check()

    async def aclose(self) -> None:
        await self._s3.aclose()

    async def _abort(self, uploads: Sequence[tuple[str, State]]) -> None:
        gate = asyncio.Semaphore(_ABORTED_AT_ONCE)

        async def abort(key: str, state: State) -> None:
            async with gate:
                # First the one we know: a listing need not show it.
                if state.upload:
                    await self._s3.abort(key, state.upload.id)
                if state.in_doubt:
                    await self._s3.abort_all(key)

        await asyncio.gather(*(abort(key, state) for key, state in uploads))

    @asynccontextmanager
    async def _held(self, key: str) -> AsyncIterator[None]:
        try:
            async with self._leases.hold(_lease(key), self._patience):
                yield
        except LeaseTaken as error:
            raise UploadBusy("another request is writing to this upload") from error


def _lease(key: str) -> str:
    return f"upload/{key}"


def _key(stored: StoredObject) -> str:
    return stored.key.removesuffix(BESIDE)


def _keys(stored: StoredObject) -> list[str]:
    """Return every key that the object may have left something under."""
    key = _key(stored)
    tails = [key + tail for tail in TAILS] if State.read(stored.state).tails else []
    return tails if key != stored.key else [key, *tails]


def _as_ours(lying: Lying) -> ListedObject | None:
    """Return what the name says, None where we give no such name."""
    tail = lying.name.endswith(TAILS)
    key = lying.name.rpartition(".")[0] if tail else lying.name
    if not is_session_id(key) or (tail and lying.id):
        return None
    mark = b"" if tail else None
    if lying.id:
        mark = lying.id.encode()
    return ListedObject(
        key=key, name=lying.name, size=lying.size, modified_at=lying.since.timestamp(), mark=mark
    )

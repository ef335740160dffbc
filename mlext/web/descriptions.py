"""What is in an artifact, as its bytes tell: the handler, and how it reads them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlext import versions
from mlext.formats import describe
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.web.answers import Holding, held
from mlext.web.asked import model_of, version_of
from ociserver.errors import ManifestUnknown, Unavailable
from ociserver.extension import House
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName

# Most are some kilobytes; one of very many files, which anyone may push, is tens of megabytes.
_KEPT_BYTES = 32 * 1024 * 1024
_THREADS = 2
# What reads of a repository, by digest, offset and count, what `formats.BlobRange` reads of it.
Read = Callable[[RepositoryName, Digest, int, int], Coroutine[Any, Any, bytes]]


class Kept:
    """Answers by the digest that they describe, which are the same for good: those asked for last,
    as many as take up `capacity` bytes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._bodies: OrderedDict[Digest, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, digest: Digest) -> bytes | None:
        """Return the answer, if it is kept."""
        body = self._bodies.get(digest)
        if body is not None:
            self._bodies.move_to_end(digest)
        return body

    def keep(self, digest: Digest, body: bytes) -> None:
        """Keep the answer, if it fits."""
        if len(body) > self._capacity:
            return
        self._bytes += len(body) - len(self._bodies.pop(digest, b""))
        self._bodies[digest] = body
        while self._bytes > self._capacity:
            self._bytes -= len(self._bodies.popitem(last=False)[1])


class Describing:
    """Makes descriptions: of those who ask for the same one at once, all get the one that is made.

    Headers may be hostile: taking them apart takes up to seconds, so it is done in a thread, which
    asks this loop for the bytes it reads. To be closed.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="describe")
        self._making: dict[tuple[RepositoryName, Digest], asyncio.Task[bytes]] = {}
        self._reading: set[asyncio.Task[bytes]] = set()
        self._kept = Kept(_KEPT_BYTES)
        self._closed = False

    async def made(self, name: RepositoryName, stored: StoredManifest) -> bytes:
        """Return, as JSON, what the manifest and its headers say. Raises Unavailable."""
        if (kept := self._kept.get(stored.digest)) is not None:
            return kept
        key = (name, stored.digest)
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._make(name, stored))
            making.add_done_callback(partial(self._forget, key))
        # Whoever leaves leaves it to the others.
        return await asyncio.shield(making)

    def _forget(self, key: tuple[RepositoryName, Digest], made: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if not made.cancelled():
            made.exception()  # looked at, for it may be that nobody waits any more

    async def _make(self, name: RepositoryName, stored: StoredManifest) -> bytes:
        loop = asyncio.get_running_loop()
        ranges = _Ranges(lambda *part: self._read_here(name, *part), loop)

        def work() -> tuple[bytes, bool]:
            found = asyncio.run(describe(stored.body, stored.media_type, ranges))
            return json.dumps(found.to_json(), ensure_ascii=False).encode(), not found.warnings

        body, is_whole = await loop.run_in_executor(self._pool, work)
        if is_whole:
            # What could not be read today may be read tomorrow.
            self._kept.keep(stored.digest, body)
        return body

    async def _read_here(
        self, name: RepositoryName, digest: Digest, offset: int, count: int
    ) -> bytes:
        if self._closed:
            raise Unavailable("the registry is ending")
        reading = asyncio.ensure_future(self._read(name, digest, offset, count))
        self._reading.add(reading)
        try:
            return await reading
        except asyncio.CancelledError as error:
            raise Unavailable("the registry is ending") from error
        finally:
            self._reading.discard(reading)

    async def aclose(self) -> None:
        """End what is under way where it reads next, and release the threads."""
        self._closed = True
        for each in self._reading:
            each.cancel()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.gather(*self._making.values(), return_exceptions=True)


class DescriptionDoors:
    """The handler of descriptions."""

    def __init__(self, house: House, catalog: ModelsCatalog, holding: Holding) -> None:
        self._reader = house.reader
        self._catalog = catalog
        self._holding = holding
        self._describing = Describing(self._read)

    async def description(self, request: Request) -> Response:
        """Return what a version's manifest and headers say of it."""
        name = model_of(request)
        number = version_of(request)

        def read(tx: ModelsTx) -> StoredManifest:
            version = versions.the_version(tx, name, number)
            stored = tx.manifest(name, version.digest)
            if stored is None:
                raise ManifestUnknown(f"version {number} of {name} was deleted")
            return stored

        stored = await self._catalog.read(read)
        body = await self._describing.made(name, stored)
        # Another release may know more of the same bytes, and what could not be read is told so.
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return held(request, body, self._holding.moment(name), etag)

    async def _read(self, name: RepositoryName, digest: Digest, offset: int, count: int) -> bytes:
        stored = await self._reader.blob(name, digest)
        blob = await self._reader.open_blob(stored, (offset, count))
        try:
            return await blob.read(offset, count)
        finally:
            blob.close()

    async def aclose(self) -> None:
        """Release the threads."""
        await self._describing.aclose()


class _Ranges:
    """`formats.BlobRange` for another thread's loop, read by this one."""

    def __init__(
        self,
        read: Callable[[Digest, int, int], Coroutine[Any, Any, bytes]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._read = read
        self._loop = loop

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """Return these bytes of the blob. Raises BlobUnknown, Unavailable."""
        reading = asyncio.run_coroutine_threadsafe(self._read(digest, offset, count), self._loop)
        return await asyncio.wrap_future(reading)

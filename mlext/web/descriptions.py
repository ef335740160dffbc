"""What is in an artifact, as its bytes tell: the handler, and how it reads them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from mlext import versions
from mlext.formats import describe
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.web.answers import Holding, held
from mlext.web.asked import model_of, version_of
from ociserver.errors import ManifestUnknown
from ociserver.extension import House
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName
from ociserver.registry import RegistryReader

# Most are some kilobytes; one of very many files, which anyone may push, is tens of megabytes.
_KEPT_BYTES = 32 * 1024 * 1024
_THREADS = 2


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


class DescriptionDoors:
    """The handler of descriptions.

    Headers may be hostile: taking them apart takes up to seconds, so it is done in a thread, which
    asks this loop for the bytes it reads.
    """

    def __init__(self, house: House, catalog: ModelsCatalog, holding: Holding) -> None:
        self._reader = house.reader
        self._catalog = catalog
        self._holding = holding
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="describe")
        self._kept = Kept(_KEPT_BYTES)

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
        body = self._kept.get(stored.digest)
        if body is None:
            body = await self._described(name, stored)
        # Another release may know more of the same bytes, and what could not be read is told so.
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return held(request, body, self._holding.moment(name), etag)

    async def _described(self, name: RepositoryName, stored: StoredManifest) -> bytes:
        loop = asyncio.get_running_loop()
        ranges = _Ranges(self._reader, name, loop)
        work = partial(asyncio.run, describe(stored.body, stored.media_type, ranges))
        found = await loop.run_in_executor(self._pool, work)
        body = json.dumps(found.to_json(), ensure_ascii=False).encode()
        if not found.warnings:
            # What could not be read today may be read tomorrow.
            self._kept.keep(stored.digest, body)
        return body


class _Ranges:
    """`formats.BlobRange` for another thread's loop, read by this one."""

    def __init__(
        self, reader: RegistryReader, name: RepositoryName, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._reader = reader
        self._name = name
        self._loop = loop

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """Return these bytes of the blob. Raises BlobUnknown, Unavailable."""
        reading = asyncio.run_coroutine_threadsafe(self._read(digest, offset, count), self._loop)
        return await asyncio.wrap_future(reading)

    async def _read(self, digest: Digest, offset: int, count: int) -> bytes:
        stored = await self._reader.blob(self._name, digest)
        blob = await self._reader.open_blob(stored, (offset, count))
        try:
            return await blob.read(offset, count)
        finally:
            blob.close()

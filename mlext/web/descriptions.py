"""What is in an artifact, as its bytes tell: the handler, and how it reads them."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from mlext import versions
from mlext.formats import describe
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import ModelVersion
from mlext.web.answers import Holding, held
from mlext.web.asked import model_of, version_of
from ociserver.errors import ManifestUnknown
from ociserver.extension import House
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName
from ociserver.registry import RegistryReader

# Some kilobytes each; a description is the same for good.
_KEPT = 256
_THREADS = 2


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
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()

    async def description(self, request: Request) -> Response:
        """Return what a version's manifest and headers say of it."""
        name = model_of(request)
        number = version_of(request)

        def read(tx: ModelsTx) -> tuple[ModelVersion, StoredManifest]:
            version = versions.the_version(tx, name, number)
            stored = tx.manifest(name, version.digest)
            if stored is None:
                raise ManifestUnknown(f"version {number} of {name} was deleted")
            return version, stored

        version, stored = await self._catalog.read(read)
        body = self._kept.get(stored.digest)
        if body is None:
            body = await self._described(name, stored)
        # Another release may know more of the same bytes.
        return held(request, body, self._holding.moment(name), f'"{version.id}-{len(body)}"')

    async def _described(self, name: RepositoryName, stored: StoredManifest) -> bytes:
        loop = asyncio.get_running_loop()
        ranges = _Ranges(self._reader, name, loop)
        work = partial(asyncio.run, describe(stored.body, stored.media_type, ranges))
        found = await loop.run_in_executor(self._pool, work)
        body = json.dumps(found.to_json(), ensure_ascii=False).encode()
        if not found.warnings:
            # What could not be read today may be read tomorrow.
            self._kept[stored.digest] = body
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
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

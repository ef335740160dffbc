"""The stores behind a registry, opened by URL: here, and only here, adapters are named.

Those of production are imported where they are opened: each takes a quarter of a second, which a
start on the embedded default need not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ociserver import hashing
from ociserver.bucket import Bucket
from ociserver.errors import Unavailable
from ociserver.leases import Leases
from ociserver.ports import Catalog, ListedStore, Presign
from ociserver.settings import Settings
from ociserver.storage.catalog import SqlCatalogTx
from ociserver.storage.files import FileBlobs
from ociserver.storage.sqlite import SqliteCatalog, prepare_catalog

if TYPE_CHECKING:
    from types import ModuleType

    from ociserver.storage.s3_client import S3

_POSTGRES = "postgresql://"
_S3 = "s3"
_LOCAL = ("sqlite", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """A catalog and the blobs it names. `presign` signs URLs of blobs, where their store can."""

    catalog: Catalog
    blobs: ListedStore
    presign: Presign | None

    async def aclose(self) -> None:
        """Finish what was accepted and release everything."""
        await self.blobs.aclose()
        await self.catalog.aclose()


def open_stores(settings: Settings, rows: Sequence[type] = ()) -> Stores:
    """Return the stores, inside a running event loop; the catalog's transactions have `rows` too.

    Raises Unavailable.
    """
    catalog = _catalog(settings.catalog, rows)
    if not settings.blobs.startswith(_S3):
        return Stores(catalog=catalog, blobs=FileBlobs(path_of(settings.blobs)), presign=None)
    from ociserver.storage.s3 import S3Blobs  # noqa: PLC0415

    s3 = _s3(settings)
    blobs = S3Blobs(s3, Leases(catalog), memory=settings.upload_memory)
    return Stores(catalog=catalog, blobs=blobs, presign=s3.presign)


def prepare_stores(settings: Settings) -> None:
    """Make the stores, or check that they are ours, once and before any worker starts.

    The embedded catalog is brought to this release's schema here; a shared one is only checked.
    Raises Unavailable.
    """
    if settings.catalog.startswith(_POSTGRES):
        asyncio.run(_postgres().check(settings.catalog))
    else:
        prepare_catalog(path_of(settings.catalog))
    asyncio.run(_check_blobs(settings))


def migrate_catalog(url: str) -> None:
    """Bring the catalog's schema to this release. Raises Unavailable."""
    if url.startswith(_POSTGRES):
        asyncio.run(_postgres().migrate(url))
    else:
        prepare_catalog(path_of(url))


@asynccontextmanager
async def existing_catalog(settings: Settings, *, make: bool = True) -> AsyncIterator[Catalog]:
    """Open the catalog of a registry, which may be serving; a missing one of files is made.

    Raises Unavailable, also where there is none to read and none is to be made.
    """
    if not make:
        _require(settings.catalog)
    if settings.catalog.startswith(_POSTGRES):
        await _postgres().check(settings.catalog)
    catalog = _catalog(settings.catalog)
    try:
        yield catalog
    finally:
        await catalog.aclose()


@asynccontextmanager
async def existing_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open the stores of a registry, which may be serving. Raises Unavailable.

    Nothing is made: beside an empty store, everything in the other one would pass for lost.
    """
    for url in (settings.catalog, settings.blobs):
        _require(url)
    if settings.catalog.startswith(_POSTGRES):
        await _postgres().check(settings.catalog)
    await _check_blobs(settings)
    stores = open_stores(settings)
    try:
        yield stores
    finally:
        await stores.aclose()


def place(url: str) -> str:
    """Return where a store lies, in words that may be shown: an absolute path, or no password."""
    parts = urlsplit(url)
    if parts.scheme == _S3:
        bucket = Bucket.parse(url)
        return f"s3://{bucket.name}/{bucket.prefix}" + (
            f" at {bucket.endpoint}" if bucket.endpoint else ""
        )
    if parts.scheme in _LOCAL:
        return str(path_of(url).absolute())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def path_of(url: str) -> Path:
    """Return the path of a `scheme:///PATH`; `settings.py` has checked its form."""
    return Path(url.partition(":///")[2])


def _require(url: str) -> None:
    if urlsplit(url).scheme in _LOCAL and not path_of(url).exists():
        raise Unavailable(f"there is nothing at {place(url)}")


def _catalog(url: str, rows: Sequence[type] = ()) -> Catalog:
    transaction = type("CatalogTx", (SqlCatalogTx, *rows), {}) if rows else SqlCatalogTx
    if url.startswith(_POSTGRES):
        catalog: Catalog = _postgres().PostgresCatalog(url, transaction)
        return catalog
    return SqliteCatalog(path_of(url), transaction)


def _postgres() -> ModuleType:
    from ociserver.storage import postgres  # noqa: PLC0415

    return postgres


def _s3(settings: Settings) -> S3:
    from ociserver.storage.s3_client import S3  # noqa: PLC0415

    return S3(
        Bucket.parse(settings.blobs),
        public_endpoint=settings.redirect_endpoint,
        presigned=int(settings.redirect_seconds),
    )


async def _check_blobs(settings: Settings) -> None:
    if not settings.blobs.startswith(_S3):
        files = FileBlobs(path_of(settings.blobs))
        try:
            await files.check()
        finally:
            await files.aclose()
        return
    if not hashing.states_can_be_saved():
        raise Unavailable(
            "on S3 an upload resumes only where the state of a hash can be saved, which takes "
            "OpenSSL 3's libcrypto: it is not to be found here"
        )
    s3 = _s3(settings)
    try:
        await s3.check()
    finally:
        await s3.aclose()

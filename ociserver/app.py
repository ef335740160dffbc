"""The composition root: Settings -> adapters -> use cases -> routes. Reading it is reading the
system; nothing else names an adapter.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.routing import Router

from ociserver.bucket import Bucket
from ociserver.collector import Collector
from ociserver.discards import Discards, Swept
from ociserver.errors import Unavailable
from ociserver.fresh import FreshCache
from ociserver.leases import Leases
from ociserver.ports import Catalog, ListedStore, Presign
from ociserver.registry import RegistryReader, RegistryWriter
from ociserver.retention import Retention
from ociserver.sessions import Uploads
from ociserver.settings import NONE, Settings, networks
from ociserver.storage import postgres
from ociserver.storage.files import FileBlobs
from ociserver.storage.postgres import PostgresCatalog
from ociserver.storage.sqlite import SqliteCatalog, prepare_catalog
from ociserver.web.body import Pace
from ociserver.web.front import FrontDoor, every
from ociserver.web.observe import AccessLog, Metrics, configure_logging
from ociserver.web.protocol import HeadLimits, LadingProtocol
from ociserver.web.pull import ManifestAnswer, Pull
from ociserver.web.push import Push
from ociserver.web.redirect import Redirects
from ociserver.web.routes import nothing_here, routes
from ociserver.web.service import Service

if TYPE_CHECKING:
    from ociserver.storage.s3_client import S3

log = logging.getLogger("lading")

_POSTGRES = "postgresql://"
_S3 = "s3"
_LOCAL = ("sqlite", "file")
_SWEEP_SECONDS = 60.0
_OVERDUE_SECONDS = 2.0
# What a push was told is there stays for the other half of its grace.
_RENEWED_SHARE = 0.5


def create_app(settings: Settings) -> FrontDoor:
    """Return the registry as an ASGI application. Raises Unavailable where a store is not there."""
    configure_logging(settings.log_level)
    catalog = _catalog(settings.catalog)
    blobs, presign = _blobs(settings, catalog)
    uploads = Uploads(catalog, blobs)
    discards = Discards(catalog, blobs)
    reader = RegistryReader(
        catalog,
        blobs,
        cache_bytes=settings.cache // 4,
        renew_links_after=settings.gc_grace * _RENEWED_SHARE,
        renew_manifests_after=(settings.gc_untagged or math.inf) * _RENEWED_SHARE,
    )
    answers: FreshCache[bytes, ManifestAnswer] = FreshCache(
        catalog.generation, settings.cache * 3 // 4
    )
    writer = RegistryWriter(catalog, accept_sparse=settings.sparse == "accept")
    metrics = Metrics()
    access_log = AccessLog() if settings.access_log == "on" else None

    pull = Pull(
        reader,
        answers,
        page_limit=settings.page_limit,
        referrers_limit=settings.referrers_limit,
        redirects=_redirects(settings, presign),
    )
    push = Push(
        writer,
        uploads,
        metrics,
        manifest_bytes=settings.manifest_limit,
        pace=Pace(seconds=settings.body_seconds, bytes=settings.body_bytes),
    )
    service = Service(catalog, blobs, metrics)

    async def close() -> None:
        uploads.close()
        await catalog.aclose()
        await blobs.aclose()
        if access_log is not None:
            access_log.flush()

    router = Router(
        routes=routes(pull, push, service),
        redirect_slashes=False,
        default=nothing_here,
        lifespan=_lifespan(
            [
                _sweeper(uploads, discards, metrics, settings),
                *_scheduled(Collector(catalog, discards, _retention(settings)), metrics, settings),
                _overdue(metrics),
            ],
            close,
        ),
    )
    return FrontDoor(
        router,
        hot_manifest=pull.hot_manifest,
        metrics=metrics,
        access_log=access_log,
        limits=HeadLimits(header_bytes=settings.header_limit, idle_seconds=settings.idle),
    )


def prepare_stores(settings: Settings) -> None:
    """Make the stores, or check that they are ours, once and before any worker starts.

    The embedded catalog is brought to this release's schema here; a shared one is only checked.
    Raises Unavailable.
    """
    if settings.catalog.startswith(_POSTGRES):
        asyncio.run(postgres.check(settings.catalog))
    else:
        prepare_catalog(path_of(settings.catalog))
    asyncio.run(_check_blobs(settings))


def migrate_catalog(url: str) -> None:
    """Bring the catalog's schema to this release. Raises Unavailable."""
    if url.startswith(_POSTGRES):
        asyncio.run(postgres.migrate(url))
    else:
        prepare_catalog(path_of(url))


@asynccontextmanager
async def existing_stores(settings: Settings) -> AsyncIterator[tuple[Catalog, ListedStore]]:
    """Open the stores of a registry, which may be serving. Raises Unavailable.

    Nothing is made: beside an empty store, everything in the other one would pass for lost.
    """
    for url in (settings.catalog, settings.blobs):
        if urlsplit(url).scheme in _LOCAL and not path_of(url).exists():
            raise Unavailable(f"there is nothing at {place(url)}")
    if settings.catalog.startswith(_POSTGRES):
        await postgres.check(settings.catalog)
    await _check_blobs(settings)
    catalog = _catalog(settings.catalog)
    blobs, _ = _blobs(settings, catalog)
    try:
        yield catalog, blobs
    finally:
        await catalog.aclose()
        await blobs.aclose()


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


def _catalog(url: str) -> Catalog:
    if url.startswith(_POSTGRES):
        return PostgresCatalog(url)
    return SqliteCatalog(path_of(url))


def _blobs(settings: Settings, catalog: Catalog) -> tuple[ListedStore, Presign | None]:
    """Return the blob store, and its way to sign URLs if it has one."""
    if not settings.blobs.startswith(_S3):
        return FileBlobs(path_of(settings.blobs)), None
    from ociserver.storage.s3 import S3Blobs  # noqa: PLC0415 - see _s3

    s3 = _s3(settings)
    return S3Blobs(s3, Leases(catalog), memory=settings.upload_memory), s3.presign


def _s3(settings: Settings) -> S3:
    # Not at the top: it takes a quarter of a second that a registry on files need not wait.
    from ociserver.storage.s3_client import S3  # noqa: PLC0415

    public = settings.redirect_endpoint
    return S3(
        Bucket.parse(settings.blobs),
        public_endpoint=None if public == NONE else public,
        presigned=int(settings.redirect_seconds),
    )


async def _check_blobs(settings: Settings) -> None:
    if not settings.blobs.startswith(_S3):
        await FileBlobs(path_of(settings.blobs)).aclose()
        return
    s3 = _s3(settings)
    try:
        await s3.check()
    finally:
        await s3.aclose()


def _redirects(settings: Settings, presign: Presign | None) -> Redirects | None:
    if presign is None or settings.redirect == "off":
        return None
    return Redirects(
        presign,
        least_bytes=settings.redirect_from,
        streamed=networks(settings.redirect_except),
        proxies=networks(settings.trusted_proxies),
    )


def _retention(settings: Settings) -> Retention:
    return Retention(
        grace=settings.gc_grace, delay=settings.gc_delay, untagged=settings.gc_untagged
    )


# -- what goes on beside the requests

_Work = Callable[[], Coroutine[Any, Any, None]]


def _sweeper(uploads: Uploads, discards: Discards, metrics: Metrics, settings: Settings) -> _Work:
    async def sweep() -> None:
        ended = await uploads.sweep(settings.upload_idle)
        metrics.expired.inc(ended)
        if ended:
            log.info("idle uploads ended", extra={"fields": {"uploads": ended}})
        _count(metrics, await discards.sweep())

    return lambda: every(min(_SWEEP_SECONDS, settings.upload_idle / 2, settings.gc_delay), sweep)


def _scheduled(collector: Collector, metrics: Metrics, settings: Settings) -> list[_Work]:
    interval = settings.gc_interval
    if interval is None:
        return []

    async def collect() -> None:
        done = await collector.run_in_turn(interval)
        if done is not None:
            metrics.collected(done.manifests, done.links, done.blobs, done.bytes)
            _count(metrics, done.swept)

    return [lambda: every(interval, collect)]


def _count(metrics: Metrics, swept: Swept) -> None:
    metrics.deleted.inc(swept.deleted)
    metrics.undeleted.inc(len(swept.failed))


def _overdue(metrics: Metrics) -> _Work:
    async def close_overdue() -> None:
        metrics.overdue.inc(LadingProtocol.close_overdue())
        metrics.fold()

    return lambda: every(_OVERDUE_SECONDS, close_overdue)


def _lifespan(
    background: Sequence[_Work], close: Callable[[], Any]
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work()) for work in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await close()

    return lifespan

"""The composition root: settings, stores, use cases, routes. Reading it is reading the system."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing import parent_process
from typing import Any

from starlette.routing import Router

from ociserver.collector import Collector
from ociserver.discards import Discards, Swept
from ociserver.fresh import FreshCache
from ociserver.ports import Presign
from ociserver.registry import RegistryReader, RegistryWriter
from ociserver.retention import Retention
from ociserver.sessions import Uploads
from ociserver.settings import Settings
from ociserver.stores import Stores, open_stores
from ociserver.web.body import Pace
from ociserver.web.front import FrontDoor, every
from ociserver.web.observe import AccessLog, Metrics, configure_logging
from ociserver.web.protocol import HeadLimits, LadingProtocol
from ociserver.web.pull import ManifestAnswer, Pull
from ociserver.web.push import Push
from ociserver.web.redirect import Redirects
from ociserver.web.routes import nothing_here, routes
from ociserver.web.service import Service

log = logging.getLogger("lading")

_SWEEP_SECONDS = 60.0
_OVERDUE_SECONDS = 2.0
_ORPHAN_SECONDS = 1.0
# What a push was told is there stays for the other half of its grace.
_RENEWED_SHARE = 0.5


def create_app(settings: Settings) -> FrontDoor:
    """Return the registry as an ASGI application. Raises Unavailable where a store is not there."""
    configure_logging(settings.log_level)
    stores = open_stores(settings)
    catalog, blobs = stores.catalog, stores.blobs
    uploads, discards = Uploads(catalog, blobs), Discards(catalog, blobs)
    kept = Retention(
        grace=settings.gc_grace, delay=settings.gc_delay, untagged=settings.gc_untagged
    )
    collector = Collector(catalog, discards, kept)
    metrics = Metrics()
    access_log = AccessLog() if settings.access_log == "on" else None
    pull = _pull(settings, stores)
    push = Push(
        RegistryWriter(catalog, accept_sparse=settings.sparse == "accept"),
        uploads,
        metrics,
        manifest_bytes=settings.manifest_limit,
        pace=Pace(seconds=settings.body_seconds, bytes=settings.body_bytes),
    )

    async def close() -> None:
        uploads.close()
        await stores.aclose()
        if access_log is not None:
            access_log.flush()

    background = [
        _sweeper(uploads, discards, metrics, settings),
        *_scheduled(collector, metrics, settings),
        _overdue(metrics),
        *_orphaned(),
    ]
    router = Router(
        routes=routes(pull, push, Service(catalog, blobs, metrics)),
        redirect_slashes=False,
        default=nothing_here,
        lifespan=_lifespan(background, close),
    )
    return FrontDoor(
        router,
        hot_manifest=pull.hot_manifest,
        metrics=metrics,
        access_log=access_log,
        limits=HeadLimits(header_bytes=settings.header_limit, idle_seconds=settings.idle),
    )


def _pull(settings: Settings, stores: Stores) -> Pull:
    reader = RegistryReader(
        stores.catalog,
        stores.blobs,
        cache_bytes=settings.cache // 4,
        renew_links_after=settings.gc_grace * _RENEWED_SHARE,
        renew_manifests_after=(settings.gc_untagged or math.inf) * _RENEWED_SHARE,
    )
    answers: FreshCache[bytes, ManifestAnswer] = FreshCache(
        stores.catalog.generation, settings.cache * 3 // 4
    )
    return Pull(
        reader,
        answers,
        page_limit=settings.page_limit,
        referrers_limit=settings.referrers_limit,
        redirects=_redirects(settings, stores.presign),
    )


def _redirects(settings: Settings, presign: Presign | None) -> Redirects | None:
    if presign is None or settings.redirect == "off":
        return None
    return Redirects(
        presign,
        least_bytes=settings.redirect_from,
        streamed=settings.redirect_except or (),
        proxies=settings.trusted_proxies or (),
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


def _orphaned() -> list[_Work]:
    """End a worker in order when its supervisor was killed: it would hold the port for good."""
    supervisor = parent_process()
    if supervisor is None:
        return []

    async def look() -> None:
        if not supervisor.is_alive():
            log.error("the supervising process is gone: this worker ends")
            signal.raise_signal(signal.SIGTERM)

    return [lambda: every(_ORPHAN_SECONDS, look)]


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

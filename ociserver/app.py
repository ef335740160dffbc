"""The composition root: settings, stores, use cases, routes. Reading it is reading the system."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.routing import Router

from ociserver.admission import Admission
from ociserver.auth.attempts import Patience
from ociserver.auth.audit import Audit
from ociserver.auth.callers import Callers
from ociserver.auth.issuing import Issuing
from ociserver.auth.logins import Logins
from ociserver.auth.principals import ANYONE
from ociserver.auth.rulebook import RuleBook
from ociserver.auth.rules import Action
from ociserver.auth.trust import Lifetimes, Trust, looking
from ociserver.auth.workloads import Workloads
from ociserver.collector import Collector
from ociserver.discards import Discards, Swept
from ociserver.extension import House, StoreUrl
from ociserver.extension import load as load_extension
from ociserver.fresh import FreshCache
from ociserver.ports import Catalog, Presign, StoredBlob
from ociserver.registry import RegistryReader, RegistryWriter
from ociserver.retention import Retention
from ociserver.sessions import Uploads
from ociserver.settings import Settings
from ociserver.stores import Stores, open_stores
from ociserver.web.body import BodyLimits, Pace, RequestBody
from ociserver.web.docs import Docs
from ociserver.web.front import FrontDoor, every
from ociserver.web.guard import Guard, Realm
from ociserver.web.limits import Limits
from ociserver.web.observe import AccessLog, Metrics, configure_logging
from ociserver.web.protocol import HeadLimits, LadingProtocol
from ociserver.web.pull import ManifestAnswer, Pull
from ociserver.web.push import Push
from ociserver.web.redirect import Redirects, sender_of
from ociserver.web.routes import nothing_here, routes
from ociserver.web.service import Service
from ociserver.web.tokens import TokenDoor

log = logging.getLogger("lading")

_Work = Callable[[], Coroutine[Any, Any, None]]

_SWEEP_SECONDS = 60.0
_OVERDUE_SECONDS = 2.0
_ORPHAN_SECONDS = 1.0
# What a push was told is there stays for the other half of its grace.
_RENEWED_SHARE = 0.5
# News of principals, keys and rules: nobody cut off gets in for longer.
_NEWS_SECONDS = 0.1
_AUDIT_SECONDS = 1.0
_KEYS_SECONDS = 60.0
_REFRESH_SECONDS = 3600.0


def create_app(settings: Settings) -> FrontDoor:
    """Return the registry as an ASGI application. Raises Unavailable where a store is not there."""
    configure_logging(settings.log_level)
    extension = load_extension()
    stores = open_stores(settings, extension.rows)
    uploads = Uploads(stores.catalog, stores.blobs)
    metrics = Metrics()
    access_log = AccessLog() if settings.access_log == "on" else None
    access = _access(settings, stores.catalog, uploads, metrics)
    reader = _reader(settings, stores)
    pull = _pull(settings, stores, reader)
    opened = extension.open(
        House(
            catalog=stores.catalog,
            reader=reader,
            store_url=_store_url(_redirects(settings, stores.presign)),
            alias_history=settings.alias_history or math.inf,
            body=_documents(settings, metrics),
            is_public=access.is_public,
            names_alias=access.names_alias,
            origin=lambda request: access.guard.realm.origin(request.scope),
            blob=pull.streaming().blob,
            manifest=pull.manifest,
        )
    )
    push = _push(settings, stores, uploads, metrics, opened.admission)
    service = Service(stores.catalog, stores.blobs, metrics, offers=opened.offers)
    docs = Docs(opened.documents, access.guard.realm.origin)

    async def close() -> None:
        uploads.close()
        if opened.close is not None:
            await opened.close()
        await access.close()
        await stores.aclose()
        if access_log is not None:
            access_log.flush()

    background: list[_Work] = [
        *_chores(settings, stores, uploads, metrics),
        *access.background,
        *(partial(every, seconds, work) for seconds, work in opened.background),
    ]
    router = Router(
        routes=routes(
            access.guard,
            pull,
            push,
            service,
            docs,
            tokens=access.tokens,
            extended=opened.places,
        ),
        redirect_slashes=False,
        default=nothing_here,
        lifespan=_lifespan(access.begin, background, close),
    )
    return FrontDoor(
        router,
        at_hand=(pull.hot_manifest, *opened.at_hand),
        guard=access.guard,
        metrics=metrics,
        access_log=access_log,
        limits=HeadLimits(
            target_bytes=settings.target_limit,
            header_bytes=settings.header_limit,
            header_count=settings.header_count,
            idle_seconds=settings.idle,
        ),
    )


def _reader(settings: Settings, stores: Stores) -> RegistryReader:
    return RegistryReader(
        stores.catalog,
        stores.blobs,
        cache_bytes=settings.cache // 4,
        renew_links_after=settings.gc_grace * _RENEWED_SHARE,
        renew_manifests_after=(settings.gc_untagged or math.inf) * _RENEWED_SHARE,
    )


def _pull(settings: Settings, stores: Stores, reader: RegistryReader) -> Pull:
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


def _push(
    settings: Settings, stores: Stores, uploads: Uploads, metrics: Metrics, admission: Admission
) -> Push:
    accept_sparse = settings.sparse == "accept"
    return Push(
        RegistryWriter(stores.catalog, accept_sparse=accept_sparse, admission=admission),
        uploads,
        metrics,
        limits=BodyLimits(
            blob_bytes=settings.blob_limit or math.inf,
            manifest_bytes=settings.manifest_limit,
            pace=_pace(settings),
        ),
    )


def _pace(settings: Settings) -> Pace:
    return Pace(seconds=settings.body_seconds, bytes=settings.body_bytes)


def _documents(settings: Settings, metrics: Metrics) -> Callable[[Request], Awaitable[bytes]]:
    """Return what reads a body that is a document, whole."""

    async def read(request: Request) -> bytes:
        body = RequestBody(request.scope, _pace(settings), metrics.received.inc)
        return await body.whole(declared=None, limit=settings.manifest_limit)

    return read


def _redirects(settings: Settings, presign: Presign | None) -> Redirects | None:
    if presign is None or settings.redirect == "off":
        return None
    return Redirects(
        presign,
        least_bytes=settings.redirect_from,
        streamed=settings.redirect_except or (),
        proxies=settings.trusted_proxies or (),
    )


def _store_url(redirects: Redirects | None) -> StoreUrl:
    """Return what signs URLs of the store, where there is something that does."""

    async def url(
        request: Request, stored: StoredBlob, seconds: int, disposition: str
    ) -> str | None:
        if redirects is None:
            return None
        return await redirects.location(
            *sender_of(request), stored, seconds=seconds, disposition=disposition
        )

    return url


# -- who may do what


@dataclass(frozen=True, slots=True, kw_only=True)
class _Access:
    """The guard, and what there is beside it where rules are in force."""

    guard: Guard
    tokens: TokenDoor | None = None
    background: Sequence[_Work] = ()
    begin: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
    is_public: Callable[[str], bool] = lambda _: True
    names_alias: Callable[[str, str], bool] = lambda *_: False


def _access(settings: Settings, catalog: Catalog, uploads: Uploads, metrics: Metrics) -> _Access:
    proxies = settings.trusted_proxies or ()
    audit = Audit(catalog, metrics.folded.inc)
    realm = Realm(
        scheme=settings.challenge,
        service=settings.service,
        address=settings.public_address,
        proxies=proxies,
    )
    limits = Limits(
        rate=settings.request_rate, uploads=settings.uploads_at_once, refused=metrics.refused
    )
    guarding = partial(Guard, audit=audit, realm=realm, owner=uploads.owner, limits=limits)
    if settings.rules is None:
        return _Access(guard=guarding(None), begin=_nothing, close=_nothing)
    judges = _Judges(settings, Path(settings.rules), catalog, audit, metrics)
    return _Access(
        guard=guarding(judges.callers),
        tokens=TokenDoor(
            judges.logins, judges.issuing, judges.trust, proxies=proxies, pace=_pace(settings)
        ),
        background=judges.background(),
        begin=judges.begin,
        close=judges.close,
        is_public=judges.is_public,
        names_alias=judges.names_alias,
    )


class _Judges:
    """What callers are judged by where rules are in force, and what keeps that up to date."""

    def __init__(
        self, settings: Settings, rules: Path, catalog: Catalog, audit: Audit, metrics: Metrics
    ) -> None:
        self._audit = audit
        book = self._book = RuleBook(rules, audit)
        self.trust = Trust(
            catalog,
            service=settings.service,
            lifetimes=Lifetimes(
                token=settings.token_seconds, key=settings.key_seconds, upload=settings.upload_idle
            ),
        )
        self._workloads = Workloads(lambda: book.rules.issuers)
        self.logins = Logins(
            catalog,
            audit,
            self._workloads,
            patience=Patience(failures=settings.login_failures, seconds=settings.login_window),
            refused=metrics.refused,
        )
        self.issuing = Issuing(
            catalog,
            self.trust,
            book.in_force,
            token_seconds=settings.token_seconds,
            refresh_seconds=settings.refresh_seconds,
        )
        self.callers = Callers(
            self.trust, self.logins, book.in_force, upload_seconds=settings.upload_idle
        )

    def is_public(self, repository: str) -> bool:
        """Tell whether anyone at all may pull from there."""
        return self._book.rules.of(ANYONE).allow(Action.PULL, repository)

    def names_alias(self, repository: str, tag: str) -> bool:
        """Tell whether a rule in force is about an alias of just this name there."""
        return self._book.rules.names_alias(repository, tag)

    def background(self) -> list[_Work]:
        """Return what is to be done again and again while the registry serves."""
        return [
            lambda: every(_NEWS_SECONDS, self._look),
            lambda: every(_AUDIT_SECONDS, self._audit.flush),
            lambda: every(_KEYS_SECONDS, self.trust.keep_keys),
            lambda: every(_REFRESH_SECONDS, self.issuing.sweep),
        ]

    async def begin(self) -> None:
        """Have a key to sign with before the first request. Raises Unavailable."""
        await self.trust.look()
        await self.trust.keep_keys()

    async def close(self) -> None:
        """Release the threads, and record what happened last."""
        self.logins.close()
        self._workloads.close()
        await self._audit.flush(at_the_end=True)

    async def _look(self) -> None:
        self._book.look()
        await looking(self.trust)


async def _nothing() -> None:
    """Do nothing: an open registry holds nothing to begin or end with."""


# -- what goes on beside the requests


def _chores(
    settings: Settings, stores: Stores, uploads: Uploads, metrics: Metrics
) -> Sequence[_Work]:
    discards = Discards(stores.catalog, stores.blobs)
    kept = Retention(
        grace=settings.gc_grace, delay=settings.gc_delay, untagged=settings.gc_untagged
    )
    return [
        _sweeper(uploads, discards, metrics, settings),
        *_scheduled(Collector(stores.catalog, discards, kept), metrics, settings),
        _overdue(metrics),
        *_orphaned(),
    ]


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
    begin: Callable[[], Awaitable[None]],
    background: Sequence[_Work],
    close: Callable[[], Awaitable[None]],
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        await begin()
        tasks = [asyncio.create_task(work()) for work in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await close()

    return lifespan

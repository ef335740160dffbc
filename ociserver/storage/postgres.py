"""The production catalog: PostgreSQL, shared by replicas, through SQLAlchemy on asyncpg.

Every write is SERIALIZABLE (PostgreSQL manual, 13.2.3), so it runs as if alone; one that lost
against another is run again, and one that keeps losing takes its turn under a lock. Those that
record in the audit would all lose but one, so they take turns from the start. What readers may have
kept is told to every replica by NOTIFY, in the transaction that changes it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from ociserver.errors import StorageFull, Unavailable
from ociserver.ports import CatalogTx
from ociserver.refs import RepositoryName
from ociserver.storage import revisions
from ociserver.storage.catalog import SqlCatalogTx
from ociserver.storage.news import News

T = TypeVar("T")

_CONNECTIONS = 16
_ISOLATION: Final = "SERIALIZABLE"
_CONNECT_SECONDS = 5.0
# A statement that takes longer waits for something that will not come.
_STATEMENT_SECONDS = 30.0
# Who stands still in the middle of a transaction holds up all who want its locks.
_IDLE_SECONDS = 30.0
# Serialization failure, deadlock, and a key taken since the transaction looked, as the next number
# of a version or an event may be: it did nothing and may be run again.
_LOST = ("40001", "40P01", "23505")
_DISK_FULL = "53100"
# A write that goes on losing is tried for so long: a disk that stands still lets others end late.
_LOSING_SECONDS = 20.0
# From this attempt on a write waits for the others that lost as often.
_IN_TURN_FROM = 3
_BACKOFF_SECONDS = 0.004
_BACKOFF_DOUBLINGS = 5
_TURN = 0x1AD1_0001
_MIGRATION = 0x1AD1_0002
_RECORDING = 0x1AD1_0003


class PostgresCatalog:
    """`ports.Catalog` in one PostgreSQL database. Made inside a running event loop."""

    def __init__(self, url: str, transaction: type[SqlCatalogTx] = SqlCatalogTx) -> None:
        self._url = url
        self._transaction = transaction
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_STATEMENT_SECONDS,
            isolation_level=_ISOLATION,
            # The causes of failures are logged, and the parameters of these can be secrets.
            hide_parameters=True,
        )
        self._reading = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._news = News(self._connect)
        # Of the writes of this process one at a time waits for its turn to record, and of the
        # connections one: the others are for those who need no turn.
        self._recording = asyncio.Lock()
        self._closed = False
        self._accepted: set[asyncio.Task[object]] = set()

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        return await _once_more(lambda: self._read(work))

    async def _read(self, work: Callable[[CatalogTx], T]) -> T:
        async with _translated(), self._reading.connect() as db:
            return await db.run_sync(lambda sync: work(self._transaction(sync)))

    async def write(self, work: Callable[[CatalogTx], T], *, in_turn: bool = False) -> T:
        if self._closed:
            raise Unavailable("the catalog is closed")
        # A task of its own: a waiter that leaves must not cut a commit in two.
        writing: asyncio.Task[T] = asyncio.create_task(self._write(work, in_turn))
        self._accepted.add(writing)
        writing.add_done_callback(self._accepted.discard)
        return await asyncio.shield(writing)

    async def _write(self, work: Callable[[CatalogTx], T], in_turn: bool) -> T:  # noqa: FBT001
        once = self._write_in_turn if in_turn else self._write_once
        return await _once_more(lambda: self._until_won(partial(once, work)))

    async def _until_won(self, write: Callable[[int], Awaitable[T]]) -> T:
        deadline = time.monotonic() + _LOSING_SECONDS
        attempt = 0
        while True:
            try:
                return await write(attempt)
            except _LostError as error:
                attempt += 1
                if time.monotonic() > deadline:
                    raise Unavailable(f"the write lost against others {attempt} times") from error
            pause = _BACKOFF_SECONDS * 2 ** min(attempt, _BACKOFF_DOUBLINGS)
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311

    async def _write_once(self, work: Callable[[CatalogTx], T], attempt: int) -> T:
        async with _translated(), self._engine.connect() as db, _turn(db, attempt):
            return await self._commit(db, work)

    async def _write_in_turn(self, work: Callable[[CatalogTx], T], attempt: int) -> T:
        async with (
            self._recording,
            _translated(),
            self._engine.connect() as db,
            _holding(db, _RECORDING),
            _turn(db, attempt),
        ):
            return await self._commit(db, work)

    async def _commit(self, db: AsyncConnection, work: Callable[[CatalogTx], T]) -> T:
        def run(sync: Connection) -> tuple[T, set[RepositoryName]]:
            tx = self._transaction(sync)
            return work(tx), tx.changed

        async with db.begin() as transaction:
            result, changed = await db.run_sync(run)
            await self._news.tell(db, changed)
            try:
                await transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise Unavailable("the catalog was lost in the middle of a commit") from error
                raise
        self._news.hear(changed)
        return result

    def generation(self, repository: RepositoryName) -> int:
        return self._news.generation(repository)

    async def aclose(self) -> None:
        self._closed = True
        while self._accepted:
            await asyncio.wait(self._accepted)
        await self._news.aclose()
        await self._engine.dispose()

    async def _connect(self, *_arguments: object, **_options: object) -> asyncpg.Connection:
        return await connect(self._url)


async def connect(url: str) -> asyncpg.Connection:
    """Return a connection of the driver. Raises OSError, TimeoutError, asyncpg.PostgresError."""
    return await asyncpg.connect(
        url,
        timeout=_CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS,
        server_settings={
            "application_name": "lading",
            "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS * 1000:.0f}",
        },
    )


async def migrate(url: str) -> None:
    """Bring the schema to this release, whoever else does so at once. Raises Unavailable."""
    await _once(url, revisions.upgrade)


async def check(url: str) -> None:
    """Raise Unavailable unless the database is there and of this release's schema."""
    await _once(url, revisions.check)


async def _once(url: str, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda *_, **__: connect(url)
    )

    async def run() -> None:
        async with _translated(), engine.begin() as db:
            await db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION})")
            await db.run_sync(work)

    try:
        await _once_more(run)
    finally:
        await engine.dispose()


class _LostError(Exception):
    """The transaction lost against another and did nothing."""


class _GoneError(Exception):
    """The connection was closed before anything was committed: the database restarted, say."""


async def _once_more(run: Callable[[], Awaitable[T]]) -> T:
    """Run it again where its connection turned out to be closed. Raises Unavailable."""
    try:
        return await run()
    except _GoneError:
        try:
            return await run()
        except _GoneError as error:
            raise Unavailable(str(error)) from error


@asynccontextmanager
async def _turn(db: AsyncConnection, attempt: int) -> AsyncIterator[None]:
    """Hold, for a write that lost too often, the one lock of all such writes."""
    if attempt < _IN_TURN_FROM:
        yield
        return
    async with _holding(db, _TURN):
        yield


@asynccontextmanager
async def _holding(db: AsyncConnection, lock: int) -> AsyncIterator[None]:
    """Hold a lock of ours.

    It is the session's and taken before the transaction begins: a snapshot from before the wait
    would be outdated when the turn comes. Should it not be known to be released, the connection
    is closed, and the lock with it.
    """
    try:
        await _alone(db, f"SELECT pg_advisory_lock({lock})")
        yield
    finally:
        if not db.invalidated:
            try:
                await _alone(db, f"SELECT pg_advisory_unlock({lock})")
            except (DBAPIError, OSError, TimeoutError):
                await db.invalidate()


async def _alone(db: AsyncConnection, statement: str) -> None:
    """Run a statement outside any transaction; the next one begins as those of writes do."""
    # A commit that was refused leaves a transaction behind that nothing can follow.
    await db.rollback()
    await db.execution_options(isolation_level="AUTOCOMMIT")
    try:
        await db.exec_driver_sql(statement)
    finally:
        await db.rollback()
    await db.execution_options(isolation_level=_ISOLATION)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in _LOST:
            raise _LostError from error
        if state == _DISK_FULL:
            raise StorageFull("the catalog's disk is full") from error
        kind = _GoneError if error.connection_invalidated else Unavailable
        raise kind("the catalog failed") from error.orig
    except asyncpg.PostgresError as error:
        raise Unavailable("the catalog failed") from error
    except PoolTimeout as error:
        raise Unavailable("the catalog is too busy") from error
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise Unavailable("the catalog is out of reach") from error

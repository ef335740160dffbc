"""The embedded catalog: SQLite in WAL mode with `synchronous=FULL`, shared by worker processes.

Writes of this process wait in one queue. A single thread takes all that is waiting, runs it in one
transaction, a savepoint each, and commits once: one fsync acknowledges the whole group. Between
processes a file lock orders the groups, for SQLite's own busy handler polls and starves.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from ociserver.errors import LadingError, StorageFull, Unavailable
from ociserver.ports import CatalogTx
from ociserver.refs import RepositoryName
from ociserver.storage import revisions
from ociserver.storage.catalog import SqlCatalogTx

T = TypeVar("T")

# Writes that share one commit at most: bounds how long the first waits for the last.
_GROUP = 64
_READERS = 4
_BUSY_MS = 10_000
# The log is cut back to this after a burst, so that it does not keep its largest size for good.
_WAL_BYTES = 64 * 1024 * 1024


class SqliteCatalog:
    """`ports.Catalog` in one file. Made inside a running event loop."""

    def __init__(self, path: Path, transaction: type[SqlCatalogTx] = SqlCatalogTx) -> None:
        prepare_catalog(path)
        self._transaction = transaction
        self._lock = _open_lock(path)
        self._writer = _engine(path, "BEGIN IMMEDIATE")
        self._reader = _engine(path, "BEGIN")
        # Another connection's commits are what data_version counts, so this one never writes.
        self._watch = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="catalog-read")
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="catalog-write", daemon=True)
        self._thread.start()
        self._closed = False

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[CatalogTx], T]) -> T:
        with _translated(), self._reader.begin() as db:
            return work(self._transaction(db))

    async def write(
        self,
        work: Callable[[CatalogTx], T],
        *,
        in_turn: bool = False,  # noqa: ARG002 - here every write waits for its turn
    ) -> T:
        if self._closed:
            raise Unavailable("the catalog is closed")
        write = _Write(lambda db: work(self._transaction(db)))
        self._queue.put(write)
        return await write.done  # type: ignore[no-any-return] # what `work` returns

    def generation(self, repository: RepositoryName) -> int:  # noqa: ARG002 - any change of the file
        try:
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise Unavailable("the catalog cannot be read") from error

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
        self._watch.close()
        self._reader.dispose()
        self._writer.dispose()
        os.close(self._lock)

    # -- the writing thread

    def _serve(self) -> None:
        with self._writer.connect() as db:
            while (group := self._next_group()) is not None:
                self._settle(db, group)

    def _next_group(self) -> list[_Write] | None:
        """Wait for a write and take what waits behind it; None once closed and drained."""
        first = self._queue.get()
        group: list[_Write] = []
        while first is not None:
            group.append(first)
            if len(group) == _GROUP:
                return group
            try:
                first = self._queue.get_nowait()
            except Empty:
                return group
        if group:
            self._queue.put(None)
            return group
        return None

    def _settle(self, db: Connection, group: list[_Write]) -> None:
        try:
            self._commit(db, group)
        except BaseException as error:  # noqa: BLE001 - each waiter is told, whatever it was
            if len(group) == 1:
                group[0].error = error
            else:
                # SQLite may have rolled the whole back (a full disk does): each alone, then.
                for write in group:
                    self._settle(db, [write])
                return
        _tell(group)

    def _commit(self, db: Connection, group: list[_Write]) -> None:
        with _translated(), _exclusively(self._lock), db.begin():
            for write in group:
                write.run(db)


class _Write:
    """One waiting write and what became of it."""

    __slots__ = ("done", "error", "loop", "result", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, db: Connection) -> None:
        """Run inside the group's transaction. A refusal undoes this write only."""
        self.error = None
        # Past SQLAlchemy, whose nested transactions cost more than a small write.
        driver: Any = db.connection.driver_connection
        driver.execute("SAVEPOINT one")
        try:
            self.result = self.work(db)
        except LadingError as error:
            driver.execute("ROLLBACK TO one")
            self.error = error
        driver.execute("RELEASE one")

    def tell(self) -> None:
        """Wake the waiter, on its own loop."""
        if self.done.cancelled():
            return
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(self.error)


def _tell(group: list[_Write]) -> None:
    def wake() -> None:
        for write in group:
            write.tell()

    group[0].loop.call_soon_threadsafe(wake)


def prepare_catalog(path: Path) -> None:
    """Make the file and its tables, or bring them to this release.

    Any number of processes may do so at once. Raises Unavailable.
    """
    try:
        _make_folder(path.parent)
        # It holds the keys that tokens are signed with. SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        lock = _open_lock(path)
    except OSError as error:
        raise Unavailable(f"the catalog cannot be made at {path}: {error.strerror}") from error
    engine = _engine(path, "BEGIN IMMEDIATE")
    try:
        with _translated(), _exclusively(lock), engine.begin() as db:
            revisions.upgrade(db)
    finally:
        engine.dispose()
        os.close(lock)


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        descriptor = os.open(folder.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT, 0o644)


@contextmanager
def _exclusively(lock: int) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        pool_size=_READERS,
        max_overflow=0,
        # The causes of failures are logged, and the parameters of these can be secrets.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # Transactions are begun by us, below: pysqlite would begin them late and deferred.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"journal_size_limit={_WAL_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StorageFull("the catalog's disk is full") from error
        raise Unavailable("the catalog failed") from error.orig

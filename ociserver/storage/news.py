"""What changed, told between replicas: LISTEN and NOTIFY on a connection of its own.

While the connection stands, each repository has a generation; while it does not, nobody can tell
what others changed, so every answer differs. Both make what caches hold outdated at the right time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ociserver.refs import RepositoryName

log = logging.getLogger("lading.catalog")

_CHANNEL = "lading"
# PostgreSQL refuses 8,000 bytes and more; names are at most 255.
_NAMED = 30
_ALL = "*"
_HEARTBEAT_SECONDS = 2.0
_RETRY_SECONDS = 0.5
# Repositories share generations by hash: a collision costs a read, and memory is bounded.
_SLOTS = 65_536


class News:
    """One replica's ear. Made inside a running event loop, where it listens until closed."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._generations = [0] * _SLOTS
        self._unknown = itertools.count(-1, -1)
        self._listening = False
        self._task = asyncio.create_task(self._listen())

    def generation(self, repository: RepositoryName) -> int:
        """Return the generation of the repository, one never seen before while nobody can tell."""
        if not self._listening:
            return next(self._unknown)
        return self._generations[hash(repository) % _SLOTS]

    async def tell(self, db: AsyncConnection, changed: Iterable[RepositoryName]) -> None:
        """Have the transaction tell every replica, once it commits."""
        names = list(changed)
        if names:
            payload = "\n".join(names) if len(names) <= _NAMED else _ALL
            await db.execute(_NOTIFY, {"channel": _CHANNEL, "payload": payload})

    def hear(self, changed: Iterable[str]) -> None:
        """Count the change; this replica's own needs no message."""
        for name in changed:
            self._generations[hash(name) % _SLOTS] += 1

    async def aclose(self) -> None:
        """Stop listening."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear_until_lost()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("no news from other replicas", extra={"fields": {"reason": str(error)}})
            finally:
                self._listening = False
            await asyncio.sleep(_RETRY_SECONDS)

    async def _hear_until_lost(self) -> None:
        connection = await self._connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: self._stop_hearing(lost))
            await connection.add_listener(_CHANNEL, self._on_news)
            # What was told while we were away is unknown: everything may have changed.
            self._hear_all()
            self._listening = True
            while not lost.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), _HEARTBEAT_SECONDS)
                    break
                await connection.execute("SELECT 1", timeout=_HEARTBEAT_SECONDS)
        finally:
            connection.terminate()

    def _stop_hearing(self, lost: asyncio.Event) -> None:
        self._listening = False
        lost.set()

    def _on_news(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        if payload == _ALL:
            self._hear_all()
        else:
            self.hear(str(payload).split("\n"))

    def _hear_all(self) -> None:
        self._generations = [each + 1 for each in self._generations]


_NOTIFY = text("SELECT pg_notify(:channel, :payload)")

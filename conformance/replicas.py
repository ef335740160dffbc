"""What replicas need beside their blobs: one PostgreSQL, and an address that takes turns."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import threading
from typing import TYPE_CHECKING

from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PIECE = 256 * 1024
# Replicas know within this time what another has deleted (docs/operating.md).
NEWS_SECONDS = 0.1


@contextlib.contextmanager
def postgres_catalog(lading: Path) -> Iterator[str]:
    """The URL of a migrated catalog on a PostgreSQL of our own, until the block is left."""
    database = PostgresServer()
    try:
        database.start()
        url = database.new_database()
        subprocess.run([lading, "migrate", "--catalog", url], check=True, stdout=subprocess.DEVNULL)
        yield url
    finally:
        database.remove()


@contextlib.contextmanager
def round_robin(ports: Sequence[int]) -> Iterator[str]:
    """An address whose requests go to the ports in turn, until the block is left.

    What is read after a deletion waits as long as replicas may take to hear of it: the official
    suite asks at once whether what it deleted is gone. Nothing else waits.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="balancer")
    thread.start()
    try:
        started = asyncio.run_coroutine_threadsafe(_listen(ports), loop)
        listening = started.result()
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(ports: Sequence[int]) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    turns = itertools.cycle(ports)
    known = loop.time()

    def deleted() -> None:
        nonlocal known
        known = loop.time() + NEWS_SECONDS

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            request_line = await reader.readline()
            if request_line.startswith((b"GET ", b"HEAD ")):
                await asyncio.sleep(known - loop.time())
            theirs = await asyncio.open_connection("127.0.0.1", next(turns))
            # The suite would send everything by one connection, and so to one replica.
            theirs[1].write(request_line + b"Connection: close\r\n")
            answered = deleted if request_line.startswith(b"DELETE ") else None
            await asyncio.gather(
                _pass(reader, theirs[1]), _pass(theirs[0], writer, answered=answered)
            )

    return await asyncio.start_server(connect, "127.0.0.1", 0)


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    answered: Callable[[], None] | None = None,
) -> None:
    try:
        while piece := await reader.read(_PIECE):
            if answered is not None:
                answered()
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


async def _end() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

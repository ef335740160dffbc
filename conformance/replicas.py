"""Two registries on one PostgreSQL and one blob folder, behind an address that takes turns."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from typing import TYPE_CHECKING

from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PIECE = 256 * 1024


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
    """An address whose connections go to the ports in turn, until the block is left."""
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
    turn = 0

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        with contextlib.suppress(OSError):
            theirs = await asyncio.open_connection("127.0.0.1", ports[turn % len(ports)])
            await asyncio.gather(_pass(reader, theirs[1]), _pass(theirs[0], writer))

    return await asyncio.start_server(connect, "127.0.0.1", 0)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


async def _end() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

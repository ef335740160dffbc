"""Blocking work on named thread pools, never left behind by the task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(pool: Executor, function: Callable[..., T], *arguments: object) -> T:
    """Run the function on the pool and return what it returns.

    A cancelled caller still waits for the thread: what the thread works on (a descriptor, say) is
    closed by the caller, and its number could already name another file.
    """
    running = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise

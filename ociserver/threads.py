"""Blocking work on named thread pools, never left behind by the task that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(
    pool: Executor,
    function: Callable[..., T],
    *arguments: object,
    release: Callable[[T], None] | None = None,
) -> T:
    """Run the function on the pool and return what it returns.

    A cancelled caller still waits for the thread: what the thread works on (a descriptor, say) is
    closed by the caller, and its number could already name another file. What it returned then is
    given to `release`, for nobody else would.
    """
    running = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if release is not None and running.exception() is None:
            release(running.result())
        raise

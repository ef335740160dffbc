"""A request's body as it arrives, with the deadline that a slow one misses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import Receive

from ociserver.errors import BodySlow, ClientGone, ManifestTooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The slowest body that is waited for: `bytes` in each `seconds`, or its end."""

    seconds: float
    bytes: int


async def body_chunks(receive: Receive, pace: Pace) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises ClientGone, BodySlow."""
    loop = asyncio.get_running_loop()
    deadline, came = loop.time() + pace.seconds, 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise BodySlow(
                f"the body came slower than {pace.bytes} bytes in {pace.seconds:g} seconds"
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return
        came += len(chunk)
        # Counted after the yield: time that our own disk took is not the client's.
        if came >= pace.bytes:
            deadline, came = loop.time() + pace.seconds, 0


async def small_body(receive: Receive, pace: Pace, *, declared: int | None, limit: int) -> bytes:
    """Return the whole body. Raises ManifestTooLarge over `limit` bytes, before reading them."""
    too_large = ManifestTooLarge(f"the manifest is over the limit of {limit} bytes")
    if declared is not None and declared > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for chunk in body_chunks(receive, pace):
        size += len(chunk)
        if size > limit:
            raise too_large
        parts.append(chunk)
    return b"".join(parts)

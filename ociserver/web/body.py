"""A request's body as it arrives, with the deadline that a slow one misses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Scope

from ociserver.errors import BodySlow, BodyTooLarge

Into = Callable[[memoryview], Awaitable[int]]

_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The slowest body that is waited for: `bytes` in each `seconds`, or its end."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bounds on what one request, and one blob, may bring."""

    blob_bytes: float
    manifest_bytes: int
    pace: Pace


class RequestBody:
    """One request's body, taken as it comes, at the client's pace or not below the slowest."""

    def __init__(self, scope: Scope, pace: Pace, counted: Callable[[int], object]) -> None:
        self._next: Into = scope["extensions"]["lading.body"]
        self._pace = pace
        self._counted = counted
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + pace.seconds
        self._came = 0

    async def into(self, memory: memoryview) -> int:
        """Fill the start of the memory; return how many bytes, 0 at the end.

        Raises ClientGone, BodySlow.
        """
        if self._came >= self._pace.bytes:
            # Counted from here on: time that our own disk took is not the client's.
            self._deadline, self._came = self._loop.time() + self._pace.seconds, 0
        try:
            async with asyncio.timeout_at(self._deadline):
                came = await self._next(memory)
        except TimeoutError as error:
            raise BodySlow(
                f"the body came slower than {self._pace.bytes} bytes in "
                f"{self._pace.seconds:g} seconds"
            ) from error
        self._came += came
        self._counted(came)
        return came

    async def whole(self, *, declared: int | None, limit: int) -> bytes:
        """Return all of it. Raises BodyTooLarge over `limit` bytes, before reading them."""
        too_large = BodyTooLarge(f"the body is over the limit of {limit} bytes")
        if declared is not None and declared > limit:
            raise too_large
        taken = bytearray()
        room = memoryview(bytearray(declared or _PIECE))
        while came := await self.into(room):
            taken += room[:came]
            if len(taken) > limit:
                raise too_large
        return bytes(taken)

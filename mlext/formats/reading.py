"""Bytes of a blob, read forward by range. What reads a header asks for the next bytes or skips
some; what is skipped is never fetched. Every byte that is fetched is spent from one budget, so
that no manifest, however made, costs more than `Limits` says.

Nothing here holds more than one step of bytes beyond what was asked for.
"""

from __future__ import annotations

from typing import Protocol

from mlext.formats.description import KIB, MIB, Limits
from ociserver.refs import Digest

# Small headers come with the first step; a large one takes few round trips.
_FIRST_STEP = 64 * KIB
_LARGEST_STEP = 4 * MIB


class Unreadable(Exception):
    """What was read is not what it should be, or over a limit; says which, as a sentence's end."""


class BlobRange(Protocol):
    """The one thing asked of the outside: bytes of blobs that the repository links."""

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """Return `count` bytes of the blob from `offset` on; fewer only at its end.

        Raises Unavailable where the store cannot answer now, and any other LadingError (such as
        BlobUnknown) where these bytes cannot be had: only the first ends a description.
        """


class Budget:
    """What is left of `limits` to one description. Spending more raises Unreadable."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._read = limits.read_bytes
        self._unpacked = limits.unpacked_bytes
        self._parsed = limits.parsed_bytes
        self._entries = limits.entries
        self._opened = limits.opened

    def read(self, count: int) -> int:
        """Return how many of `count` bytes may be read, at least one, and spend them."""
        if not self._read:
            raise Unreadable(f"is beyond the {self.limits.read_bytes} bytes that are read in all")
        granted = min(count, self._read)
        self._read -= granted
        return granted

    def unpack(self, count: int) -> None:
        """Spend bytes that came out of a compressed layer."""
        self._unpacked -= count
        if self._unpacked < 0:
            raise Unreadable(f"unpacks to more than {self.limits.unpacked_bytes} bytes")

    def entry(self, more: int = 0) -> None:
        """Spend one member of a tar layer, and what else is worth as many."""
        self._entries -= 1 + more
        if self._entries < 0:
            raise Unreadable(f"has more than the {self.limits.entries} tar entries that are read")

    def parse(self, count: int) -> None:
        """Spend bytes of headers and documents that are looked at one by one."""
        self._parsed -= count
        if self._parsed < 0:
            raise Unreadable(f"is beyond the {self.limits.parsed_bytes} bytes of headers in all")

    def opened(self) -> None:
        """Spend one file or tar layer that is looked into."""
        self._opened -= 1
        if self._opened < 0:
            raise Unreadable(f"is beyond the {self.limits.opened} files that are looked into")


class Pieces(Protocol):
    """Bytes that come in pieces, forward only."""

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""

    async def skip(self, count: int) -> None:
        """Go on `count` bytes later. Raises Unreadable where the end comes before."""


class BlobPieces:
    """Pieces of `size` bytes of a blob from `start` on, each larger than the one before it."""

    def __init__(
        self, blobs: BlobRange, digest: Digest, size: int, budget: Budget, *, start: int = 0
    ) -> None:
        self._blobs = blobs
        self._digest = digest
        self._at = start
        self._end = start + size
        self._budget = budget
        self._step = _FIRST_STEP

    async def read(self) -> bytes:
        """See `Pieces`."""
        if self._at == self._end:
            return b""
        count = self._budget.read(min(self._step, self._end - self._at))
        piece = await self._blobs.read(self._digest, self._at, count)
        if len(piece) != count:
            raise Unreadable("ends before the size that the manifest gives it")
        self._at += count
        self._step = min(2 * self._step, _LARGEST_STEP)
        return piece

    async def skip(self, count: int) -> None:
        """See `Pieces`."""
        if count > self._end - self._at:
            raise Unreadable("ends early")
        self._at += count
        if count > self._step:
            # Who jumps over weights wants a few bytes behind them.
            self._step = _FIRST_STEP


class Reader:
    """Takes exact counts of bytes from pieces; `position` is how many were taken or skipped.

    `buffer` from `start` on is what was read and not yet taken: a tight loop may look at it and
    then `pass_over` what it has seen.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.buffer = b""
        self.start = 0
        self.position = 0

    async def fill(self, count: int) -> None:
        """Have at least `count` bytes in the buffer. Raises Unreadable where they end before."""
        while len(self.buffer) - self.start < count:
            piece = await self._pieces.read()
            if not piece:
                raise Unreadable("ends early")
            self.buffer = self.buffer[self.start :] + piece
            self.start = 0

    def pass_over(self, count: int) -> None:
        """Take `count` bytes that are in the buffer."""
        self.start += count
        self.position += count

    async def take(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises Unreadable where they end before."""
        await self.fill(count)
        taken = self.buffer[self.start : self.start + count]
        self.pass_over(count)
        return taken

    async def skip(self, count: int) -> None:
        """Go on `count` bytes later, fetching none of them that need not be."""
        buffered = min(count, len(self.buffer) - self.start)
        if count > buffered:
            await self._pieces.skip(count - buffered)
        self.pass_over(count if count == buffered else buffered)
        if count > buffered:
            self.buffer, self.start = b"", 0
            self.position += count - buffered

    async def some(self, most: int) -> bytes:
        """Return the next bytes, at least one and at most `most`; b"" at the end."""
        if self.start == len(self.buffer):
            self.buffer, self.start = await self._pieces.read(), 0
        taken = self.buffer[self.start : self.start + most]
        self.pass_over(len(taken))
        return taken


class Part:
    """The next `size` bytes of a reader, as pieces: a member of a tar layer."""

    def __init__(self, reader: Reader, size: int) -> None:
        self._reader = reader
        self.left = size

    async def read(self) -> bytes:
        """See `Pieces`."""
        if not self.left:
            return b""
        piece = await self._reader.some(min(self.left, _FIRST_STEP))
        if not piece:
            raise Unreadable("ends early")
        self.left -= len(piece)
        return piece

    async def skip(self, count: int) -> None:
        """See `Pieces`."""
        if count > self.left:
            raise Unreadable("ends early")
        await self._reader.skip(count)
        self.left -= count

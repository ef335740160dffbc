"""gzip and zstd layers, unpacked as a stream. A layer says nothing true about what it unpacks to: a
kilobyte can be gigabytes. So output is asked for in small pieces, each is spent from the budget
before the next, and between two of them other tasks get their turn.

gzip: RFC 1952. zstd: RFC 8878.
"""

from __future__ import annotations

import types
import zlib
from collections.abc import Generator
from typing import IO, Literal, Protocol, cast

import zstandard

from mlext.formats.description import KIB, MIB
from mlext.formats.reading import Budget, Pieces, Unreadable

Compression = Literal["gzip", "zstd"]

_PIECE = 64 * KIB
# zlib hands back what it has not yet used, a copy for each piece: so it gets little at a time.
_FED = 16 * KIB
_GZIP = 31
_GZIP_MAGIC = b"\x1f\x8b"
# Packers write one member, seekable layouts (eStargz, bgzip) one for some tens of KiB. A flood of
# empty ones costs work and unpacks to nothing.
_MEMBERS = 20_000
# The window is memory that the sender chooses. RFC 8878 asks for 8 MiB; Go's best level takes 32.
_WINDOW = 32 * MIB


class Unpacked:
    """Pieces of what compressed pieces unpack to. Raises Unreadable on what is no such stream."""

    def __init__(self, packed: Pieces, compression: Compression, budget: Budget) -> None:
        self._packed = packed
        self._decoder: _Decoder = _Gunzip() if compression == "gzip" else _Unzstd()
        self._budget = budget
        self._waiting = memoryview(b"")
        self._ended = False
        # What `skip` has unpacked beyond what it skipped.
        self._over = b""

    async def read(self) -> bytes:
        """See `Pieces`."""
        if self._over:
            piece, self._over = self._over, b""
            return piece
        await _turn()
        while not (piece := self._output()):
            if self._ended:
                return b""
            if not self._waiting:
                self._waiting = memoryview(await self._packed.read())
                self._ended = not self._waiting
            self._decoder.feed(bytes(self._waiting[:_FED]))
            self._waiting = self._waiting[_FED:]
        self._budget.unpack(len(piece))
        return piece

    async def skip(self, count: int) -> None:
        """See `Pieces`. What is skipped is unpacked all the same."""
        while count:
            piece = await self.read()
            if not piece:
                raise Unreadable("ends early")
            self._over = piece[count:]
            count -= min(count, len(piece))

    def _output(self) -> bytes:
        try:
            return self._decoder.output()
        except (zlib.error, zstandard.ZstdError) as error:
            raise Unreadable(f"does not unpack: {error}") from error


class _Decoder(Protocol):
    """Packed bytes in; at most `_PIECE` bytes out at a time, b"" where more is needed first."""

    def feed(self, packed: bytes) -> None: ...

    def output(self) -> bytes: ...


class _Gunzip:
    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1
        self._packed = b""
        self._padding = False

    def feed(self, packed: bytes) -> None:
        if not self._padding:
            self._packed += packed

    def output(self) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            piece = self._member.decompress(self._packed, _PIECE)
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            if piece or not self._member.eof:
                return piece

    def _next_member(self) -> bool:
        if not self._packed.startswith(_GZIP_MAGIC):
            # What stands behind the last member is padding, as gunzip has it.
            self._padding = self._padding or len(self._packed) >= len(_GZIP_MAGIC)
            return False
        self._members += 1
        if self._members > _MEMBERS:
            raise Unreadable(f"has more than {_MEMBERS} gzip members")
        self._member = zlib.decompressobj(_GZIP)
        return True


class _Starved(Exception):
    """No error: more bytes are needed first."""


class _Source:
    """What the zstd decoder pulls from, as from a file."""

    def __init__(self) -> None:
        self.packed = b""
        self.ended = False

    def read(self, _size: int) -> bytes:
        """Answer the decoder. All that is there is less than it asks for."""
        if not self.packed and not self.ended:
            raise _Starved
        packed, self.packed = self.packed, b""
        return packed


class _Unzstd:
    """`stream_reader` is the one decoder of `zstandard` that bounds its output. It pulls: where it
    finds nothing it is stopped by an exception, which costs it nothing, for `read1` reads only
    while it has no output.
    """

    def __init__(self) -> None:
        decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        # Apart from the decoder's owner: a decoder in a cycle would never be freed.
        self._source = _Source()
        source = cast("IO[bytes]", self._source)
        self._reader = decoder.stream_reader(source, read_across_frames=True, closefd=False)

    def feed(self, packed: bytes) -> None:
        self._source.packed = packed
        self._source.ended = not packed

    def output(self) -> bytes:
        try:
            return self._reader.read1(_PIECE)
        except _Starved:
            return b""


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let other tasks run: any event loop takes a bare yield for that."""
    yield

"""Compressed layers: what they unpack to, however it was packed and read, and that a bomb is cut
short before it costs anything.
"""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlext.formats.description import KIB, MIB, Limits
from mlext.formats.reading import BlobPieces, Budget, Reader, Unreadable
from mlext.formats.unpacking import Compression, Unpacked
from ociserver.refs import Digest
from tests.mlext.formats.packing import Blobs

quick = settings(derandomize=True, deadline=None, max_examples=60)

PACKERS: dict[Compression, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
compressions = pytest.mark.parametrize("compression", list(PACKERS))


def opened(packed: bytes, compression: Compression, limits: Limits | None = None) -> Reader:
    blobs, budget = Blobs(), Budget(limits or Limits())
    digest = Digest(blobs.add(packed)["digest"])
    return Reader(Unpacked(BlobPieces(blobs, digest, len(packed), budget), compression, budget))


async def everything(reader: Reader) -> bytes:
    pieces = []
    while piece := await reader.some(MIB):
        pieces.append(piece)
    return b"".join(pieces)


def unpacked(packed: bytes, compression: Compression) -> bytes:
    return asyncio.run(everything(opened(packed, compression)))


@compressions
@quick
@given(members=st.lists(st.binary(max_size=3 * KIB), min_size=1, max_size=4))
def test_all_members_and_frames_are_one_stream(
    compression: Compression, members: list[bytes]
) -> None:
    packed = b"".join(PACKERS[compression](member) for member in members)

    assert unpacked(packed, compression) == b"".join(members)


@compressions
def test_a_large_layer_is_unpacked_whole(compression: Compression) -> None:
    body = b"".join(
        zlib.crc32(bytes([n % 251, n % 13])).to_bytes(4, "big") * 99 for n in range(9_000)
    )

    assert unpacked(PACKERS[compression](body), compression) == body


@compressions
@quick
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 100_000)), max_size=8))
def test_skipping_and_taking_agree_with_the_bytes(
    compression: Compression, steps: list[tuple[bool, int]]
) -> None:
    body = bytes(range(256)) * 4_000

    async def main() -> None:
        reader, at = opened(PACKERS[compression](body), compression), 0
        for is_taken, count in steps:
            if is_taken:
                assert await reader.take(count) == body[at : at + count]
            else:
                await reader.skip(count)
            at += count
            assert reader.position == at

    asyncio.run(main())


def test_padding_behind_a_gzip_stream_is_no_part_of_it() -> None:
    assert unpacked(gzip.compress(b"body") + bytes(100_000), "gzip") == b"body"


@compressions
@quick
@given(packed=st.binary(max_size=200))
def test_what_is_no_stream_is_unreadable_or_empty(compression: Compression, packed: bytes) -> None:
    try:
        unpacked(packed, compression)
    except Unreadable as error:
        assert "does not unpack" in str(error)  # noqa: PT017 - it may also unpack, to little


def bomb(compression: Compression, size: int) -> bytes:
    if compression == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        return b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    inner = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(inner.compress(bytes(MIB)) for _ in range(size // MIB)) + inner.flush()


@compressions
def test_a_bomb_is_cut_short_in_little_memory(compression: Compression) -> None:
    packed = bomb(compression, 512 * MIB)
    assert len(packed) < MIB
    limits = Limits(unpacked_bytes=32 * MIB)
    reader = opened(packed, compression, limits)

    tracemalloc.start()
    with pytest.raises(Unreadable, match="unpacks to more than 33554432 bytes"):
        asyncio.run(reader.skip(512 * MIB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 * MIB


def test_a_zstd_window_that_wants_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(b"a") + packer.flush()

    with pytest.raises(Unreadable, match="too much memory"):
        unpacked(packed, "zstd")


def test_a_flood_of_empty_gzip_members_is_refused() -> None:
    with pytest.raises(Unreadable, match="more than 20000 gzip members"):
        unpacked(gzip.compress(b"") * 30_000, "gzip")


def test_other_tasks_run_while_a_layer_is_unpacked() -> None:
    async def main() -> int:
        turns, done = 0, False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(other())
            await opened(bomb("gzip", 8 * MIB), "gzip").skip(8 * MIB)
            done = True
        return turns

    assert asyncio.run(main()) >= 8 * MIB // (64 * KIB)


@compressions
def test_skipping_beyond_the_end_is_unreadable(compression: Compression) -> None:
    with pytest.raises(Unreadable, match="ends early"):
        asyncio.run(opened(PACKERS[compression](b"abc"), compression).skip(4))


def test_no_more_is_fetched_than_the_limit() -> None:
    blobs, budget = Blobs(), Budget(Limits(read_bytes=100 * KIB))
    body = bytes(MIB)
    digest = Digest(blobs.add(body)["digest"])
    reader = Reader(BlobPieces(blobs, digest, len(body), budget))

    with pytest.raises(Unreadable, match="beyond the 102400 bytes"):
        asyncio.run(reader.take(MIB))

    assert blobs.bytes_read == 100 * KIB


def test_a_blob_shorter_than_its_descriptor_is_unreadable() -> None:
    blobs = Blobs()
    digest = Digest(blobs.add(b"short")["digest"])
    reader = Reader(BlobPieces(blobs, digest, 50, Budget(Limits())))

    with pytest.raises(Unreadable, match="ends before the size"):
        asyncio.run(reader.take(3))


def test_what_is_skipped_is_not_fetched() -> None:
    blobs = Blobs()
    reader = blobs.reader(bytes(10 * MIB) + b"end")

    async def main() -> bytes:
        await reader.take(1)
        await reader.skip(10 * MIB - 1)
        return await reader.take(3)

    assert asyncio.run(main()) == b"end"
    assert blobs.bytes_read == 64 * KIB + 3

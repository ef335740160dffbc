"""What `ports.BlobStore` promises, run against every store. A suite gives `make`: each call opens
the same store once more, as another worker process would.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar
from uuid import UUID

import pytest

from ociserver.errors import Unavailable, UploadBusy, UploadUnknown
from ociserver.ports import BlobStore

T = TypeVar("T")
Make = Callable[[], BlobStore]

KEY = UUID(int=1).hex
OTHER = UUID(int=2).hex


def told(story: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await story()

    return asyncio.run(main())


async def written(store: BlobStore, body: bytes, key: str = KEY) -> None:
    async with store.writer(key) as writer:
        await writer.write(0, body)
        await writer.sync(len(body))


async def content(store: BlobStore, key: str = KEY) -> bytes:
    reader = await store.open(key)
    try:
        return await reader.read(0, reader.size + 1)
    finally:
        reader.close()


class BlobStoreContract:
    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    def test_what_was_written_is_read_by_another_worker(self, make: Make) -> None:
        async def story() -> None:
            await written(make(), b"cargo")
            assert await content(make()) == b"cargo"

        told(story)

    def test_pieces_follow_each_other_from_the_offset(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, b"abcd")
                await writer.write(4, b"")
                await writer.write(4, b"ef")
                await writer.write(1, b"BC")
                await writer.sync(6)
            assert await content(store) == b"aBCdef"

        told(story)

    def test_memory_is_the_caller_s_again_once_it_is_written(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            memory = memoryview(mmap.mmap(-1, 2**20))
            async with store.writer(KEY) as writer:
                for number in range(4):
                    memory[:] = bytes([number]) * len(memory)
                    await writer.write(number * len(memory), memory)
                await writer.write(4 * len(memory), memory[:5])
                await writer.sync(4 * len(memory) + 5)
            whole = b"".join(bytes([number]) * 2**20 for number in range(4)) + b"\3" * 5
            assert await content(store) == whole

        told(story)

    @pytest.mark.parametrize("start", [0, 1, 4095, 4096, 2**20 - 1])
    def test_pieces_of_any_size_and_place_are_written_whole(self, make: Make, start: int) -> None:
        random = Random(start)
        body = random.randbytes(6 * 2**20)
        memory = memoryview(mmap.mmap(-1, 2**20))

        async def story() -> None:
            store = make()
            await written(store, body[:start])
            async with store.writer(KEY) as writer:
                offset = start
                while offset < len(body):
                    place = offset % len(memory)
                    size = min(len(memory) - place, random.choice([1, 5000, 2**19, 2**20]))
                    piece = memory[place : place + min(size, len(body) - offset)]
                    piece[:] = body[offset : offset + len(piece)]
                    await writer.write(offset, piece)
                    offset += len(piece)
                await writer.sync(len(body))
            assert await content(store) == body

        told(story)

    def test_many_megabytes_are_written_whole(self, make: Make) -> None:
        batch = Random(7).randbytes(3_000_001)

        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                for index in range(6):
                    await writer.write(index * len(batch), batch)
                await writer.sync(6 * len(batch))
            assert await content(store) == batch * 6

        told(story)

    def test_a_later_writer_goes_on_where_the_first_stopped(self, make: Make) -> None:
        async def story() -> None:
            await written(make(), b"first,")
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(6, b"second")
                await writer.sync(12)
            assert await content(store) == b"first,second"

        told(story)

    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_sync_drops_what_lies_beyond(self, make: Make, size: int) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, b"cargo and more")
                await writer.sync(size)
            assert await content(store) == b"cargo"[:size]

        told(story)

    def test_sync_of_more_than_is_there_says_the_upload_is_lost(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, b"cargo")
                with pytest.raises(UploadUnknown):
                    await writer.sync(6)
                await writer.sync(5)
            assert await content(store) == b"cargo"

        told(story)

    def test_a_small_object_is_put_whole_and_held_until_its_request_is_done(
        self, make: Make
    ) -> None:
        async def story() -> None:
            first, second = make(), make()
            async with first.put(KEY, b"cargo") as fresh:
                assert fresh
                assert await content(second) == b"cargo"
                with pytest.raises(UploadBusy):
                    async with second.writer(KEY):
                        pass
                async with second.put(KEY, b"other") as again:
                    assert not again
            async with second.writer(KEY) as writer:
                await writer.write(5, memoryview(bytearray(b" more")))
                await writer.sync(10)
            assert await content(first) == b"cargo more"

        told(story)

    def test_nothing_is_put_over_bytes_that_are_there(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            async with store.put(KEY, b"other cargo") as fresh:
                assert not fresh
            async with store.writer(KEY):
                pass
            assert await content(store) == b"cargo"
            for expected in (True, False):
                async with store.put(OTHER, b"") as fresh:
                    assert fresh is expected
                async with store.put(OTHER, b"cargo") as fresh:
                    assert not fresh
            assert await content(store, OTHER) == b""

        told(story)

    def test_an_object_without_bytes_is_an_object(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.sync(0)
            assert await content(store) == b""

        told(story)

    def test_a_second_writer_is_refused_until_the_first_is_done(self, make: Make) -> None:
        async def story() -> None:
            first, second = make(), make()
            async with first.writer(KEY) as writer:
                await writer.write(0, b"first")
                for store in (first, second):
                    with pytest.raises(UploadBusy):
                        async with store.writer(KEY):
                            pass
                async with second.writer(OTHER):
                    pass
                await writer.sync(5)
            async with second.writer(KEY) as writer:
                await writer.sync(5)
            assert await content(first) == b"first"

        told(story)

    def test_a_writer_whose_request_failed_lets_the_next_one_in(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            with pytest.raises(LookupError):
                async with store.writer(KEY):
                    raise LookupError
            async with store.writer(KEY):
                pass

        told(story)

    def test_a_request_cancelled_while_its_writer_opens_lets_the_next_one_in(
        self, make: Make
    ) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")

            async def write() -> None:
                async with store.writer(KEY):
                    await asyncio.Event().wait()

            for turns in range(4):  # cancelled at each turn of the loop that opening may take
                request = asyncio.create_task(write())
                for _ in range(turns):
                    await asyncio.sleep(0)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                async with store.writer(KEY) as writer:
                    await writer.sync(5)

        told(story)

    def test_a_reader_gives_any_part_and_less_only_at_the_end(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"0123456789")
            reader = await store.open(KEY)
            assert reader.size == 10
            assert await reader.read(0, 10) == b"0123456789"
            assert await reader.read(3, 4) == b"3456"
            assert await reader.read(8, 100) == b"89"
            assert await reader.read(10, 1) == b""
            assert await reader.read(5, 0) == b""
            reader.close()

        told(story)

    def test_many_read_one_object_at_once(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            body = Random(7).randbytes(100_000)
            await written(store, body)
            reader = await store.open(KEY)
            parts = await asyncio.gather(
                *(reader.read(offset, 1000) for offset in range(0, 100_000, 1000))
            )
            reader.close()
            assert b"".join(parts) == body

        told(story)

    def test_a_reader_is_closed_twice_without_harm_to_another(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            first = await store.open(KEY)
            first.close()
            second = await store.open(KEY)
            first.close()
            assert await second.read(0, 5) == b"cargo"
            second.close()

        told(story)

    def test_what_is_not_there_cannot_be_opened(self, make: Make) -> None:
        async def story() -> None:
            with pytest.raises(Unavailable):
                await make().open(KEY)

        told(story)

    def test_deleting_is_for_good_and_may_be_repeated(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"one")
            await written(store, b"two", OTHER)
            await store.delete([KEY, UUID(int=3).hex, "ff" * 16])
            await make().delete([KEY])
            await store.delete([])
            with pytest.raises(Unavailable):
                await store.open(KEY)
            assert await content(store, OTHER) == b"two"

        told(story)

    def test_a_pull_in_progress_ends_whole_after_a_delete(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            reader = await store.open(KEY)
            await make().delete([KEY])
            assert await reader.read(0, 5) == b"cargo"
            reader.close()

        told(story)

    def test_a_deleted_key_may_be_written_anew(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"a long first")
            await store.delete([KEY])
            await written(store, b"second")
            assert await content(store) == b"second"

        told(story)

    def test_a_store_that_can_be_written_to_is_ready(self, make: Make) -> None:
        async def story() -> None:
            await make().check()

        told(story)

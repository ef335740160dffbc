"""What `ports.BlobStore` promises, run against every store. A suite gives `make`: each call opens
the same store once more, as another worker process would.
"""

from __future__ import annotations

import asyncio
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
        await writer.write(0, [body])
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

    def test_chunks_follow_each_other_from_the_offset(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, [b"ab", b"", b"cd"])
                await writer.write(4, [])
                await writer.write(4, [b""])
                await writer.write(4, [b"ef"])
                await writer.write(1, [b"B", b"C"])
                await writer.sync(6)
            assert await content(store) == b"aBCdef"

        told(story)

    def test_thousands_of_small_chunks_are_written_in_order(self, make: Make) -> None:
        random = Random(7)
        chunks = [random.randbytes(random.randrange(40)) for _ in range(5000)]

        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, [b"head"])
                await writer.write(4, chunks)
                await writer.sync(4 + sum(map(len, chunks)))
            assert await content(store) == b"head" + b"".join(chunks)

        told(story)

    def test_many_megabytes_are_written_whole(self, make: Make) -> None:
        batch = Random(7).randbytes(3_000_001)

        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                for index in range(6):
                    await writer.write(index * len(batch), [batch[:1_000_000], batch[1_000_000:]])
                await writer.sync(6 * len(batch))
            assert await content(store) == batch * 6

        told(story)

    def test_a_later_writer_goes_on_where_the_first_stopped(self, make: Make) -> None:
        async def story() -> None:
            await written(make(), b"first,")
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(6, [b"second"])
                await writer.sync(12)
            assert await content(store) == b"first,second"

        told(story)

    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_sync_drops_what_lies_beyond(self, make: Make, size: int) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, [b"cargo and more"])
                await writer.sync(size)
            assert await content(store) == b"cargo"[:size]

        told(story)

    def test_sync_of_more_than_is_there_says_the_upload_is_lost(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with store.writer(KEY) as writer:
                await writer.write(0, [b"cargo"])
                with pytest.raises(UploadUnknown):
                    await writer.sync(6)
                await writer.sync(5)
            assert await content(store) == b"cargo"

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
                await writer.write(0, [b"first"])
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

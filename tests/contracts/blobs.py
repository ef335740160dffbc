"""What `ports.BlobStore` promises, run against every store. A suite gives `make`: each call opens
the same store once more, as another worker process would.
"""

from __future__ import annotations

import asyncio
import mmap
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import TypeVar
from uuid import UUID

import pytest

from ociserver.errors import Unavailable, UploadBusy
from ociserver.ports import BlobStore, BlobWriter, ListedStore, StoredObject

T = TypeVar("T")
Make = Callable[[], ListedStore]

KEY = UUID(int=1).hex
OTHER = UUID(int=2).hex
MIB = 2**20

# What the sessions' rows would hold: the state of each object. And the stores a story opened.
STATES: dict[str, bytes | None] = {}
OPENED: list[BlobStore] = []


def told(story: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        try:
            return await story()
        finally:
            while OPENED:
                await OPENED.pop().aclose()

    return asyncio.run(main())


@asynccontextmanager
async def writing(store: BlobStore, key: str = KEY) -> AsyncIterator[BlobWriter]:
    """A writer that goes on from what the last one synced."""

    async def keep(state: bytes) -> None:
        STATES[key] = state

    async with store.writer(key, keep) as writer:
        writer.resume(STATES.get(key))
        yield writer


async def synced(writer: BlobWriter, size: int, key: str = KEY) -> None:
    STATES[key] = await writer.sync(size)


async def written(store: BlobStore, body: bytes, key: str = KEY) -> None:
    async with writing(store, key) as writer:
        await writer.write(0, body)
        await writer.complete(len(body))


async def content(store: BlobStore, size: int, key: str = KEY) -> bytes:
    reader = await store.open(key, size)
    try:
        return await reader.read(0, size + 1)
    finally:
        reader.close()


def stored(*keys: str) -> list[StoredObject]:
    return [StoredObject(key=key, state=STATES.get(key)) for key in keys]


class BlobStoreContract(ABC):
    """A suite has a fixture `make` of its own."""

    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        yield
        STATES.clear()

    def test_what_was_written_is_read_by_another_worker(self, make: Make) -> None:
        async def story() -> None:
            await written(make(), b"cargo")
            assert await content(make(), 5) == b"cargo"

        told(story)

    def test_pieces_follow_each_other_from_the_offset(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                await writer.write(0, b"abcd")
                await writer.write(4, b"")
                await writer.write(4, b"ef")
                await writer.complete(6)
            assert await content(store, 6) == b"abcdef"

        told(story)

    def test_memory_is_the_caller_s_again_once_it_is_written(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            memory = memoryview(mmap.mmap(-1, MIB))
            async with writing(store) as writer:
                for number in range(4):
                    memory[:] = bytes([number]) * len(memory)
                    await writer.write(number * len(memory), memory)
                await writer.write(4 * len(memory), memory[:5])
                await writer.complete(4 * len(memory) + 5)
            whole = b"".join(bytes([number]) * MIB for number in range(4)) + b"\3" * 5
            assert await content(store, len(whole)) == whole

        told(story)

    @pytest.mark.parametrize("start", [0, 4095, MIB - 1])
    def test_pieces_of_any_size_and_place_are_written_whole(self, make: Make, start: int) -> None:
        random = Random(start)
        body = random.randbytes(13 * MIB + 5)
        memory = memoryview(mmap.mmap(-1, MIB))

        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                await writer.write(0, body[:start])
                await synced(writer, start)
            async with writing(make()) as writer:
                offset = start
                while offset < len(body):
                    place = offset % len(memory)
                    size = min(len(memory) - place, random.choice([1, 5000, 2**19, MIB]))
                    piece = memory[place : place + min(size, len(body) - offset)]
                    piece[:] = body[offset : offset + len(piece)]
                    await writer.write(offset, piece)
                    offset += len(piece)
                await writer.complete(len(body))
            assert await content(store, len(body)) == body

        told(story)

    def test_many_megabytes_are_written_whole(self, make: Make) -> None:
        batch = Random(7).randbytes(3_000_001)

        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                for index in range(6):
                    await writer.write(index * len(batch), batch)
                await writer.complete(6 * len(batch))
            assert await content(store, 6 * len(batch)) == batch * 6

        told(story)

    def test_a_later_writer_goes_on_where_the_first_stopped(self, make: Make) -> None:
        async def story() -> None:
            async with writing(make()) as writer:
                await writer.write(0, b"first,")
                await synced(writer, 6)
            async with writing(make()) as writer:
                await synced(writer, 6)
            store = make()
            async with writing(store) as writer:
                await writer.write(6, b"second")
                await writer.complete(12)
            assert await content(store, 12) == b"first,second"

        told(story)

    def test_many_syncs_in_pieces_of_any_size_make_one_object(self, make: Make) -> None:
        body, cuts = Random(3).randbytes(15 * MIB), Random(4)

        async def story() -> None:
            offset = 0
            while offset < len(body):
                async with writing(make()) as writer:
                    for _ in range(cuts.randrange(1, 4)):
                        piece = body[offset : offset + cuts.choice([1, 7, 70_000, 3 * MIB, MIB])]
                        await writer.write(offset, piece)
                        offset += len(piece)
                        if cuts.random() < 0.5:
                            await synced(writer, offset)
                    await synced(writer, offset)
            async with writing(make()) as writer:
                await writer.complete(len(body))
            assert await content(make(), len(body)) == body

        told(story)

    @pytest.mark.parametrize("before", [b"", b"cargo", b"c" * (9 * MIB)])
    @pytest.mark.parametrize("beyond", [b" and more", b"m" * (10 * MIB)])
    def test_sync_drops_what_lies_beyond(self, make: Make, before: bytes, beyond: bytes) -> None:
        async def story() -> None:
            async with writing(make()) as writer:
                await writer.write(0, before)
                await synced(writer, len(before))
            async with writing(make()) as writer:
                await writer.write(len(before), beyond)
                await synced(writer, len(before))
            async with writing(make()) as writer:
                await writer.write(len(before), b" other")
                await synced(writer, len(before) + 6)
                await writer.write(len(before) + 6, beyond)
                await synced(writer, len(before) + 6)
                await writer.complete(len(before) + 6)
            whole = before + b" other"
            assert await content(make(), len(whole)) == whole

        told(story)

    def test_a_complete_object_is_complete_again_and_can_be_read_by_its_writer(
        self, make: Make
    ) -> None:
        body = Random(5).randbytes(9 * MIB)

        async def story() -> None:
            async def failing() -> None:
                async with writing(make()) as writer:
                    await writer.write(0, body)
                    await synced(writer, len(body))
                    await writer.complete(len(body))
                    await writer.complete(len(body))
                    reader = await writer.open(len(body))
                    read = [piece async for piece in reader.stream(0, len(body))]
                    reader.close()
                    assert b"".join(read) == body
                    raise LookupError

            with pytest.raises(LookupError):
                await failing()
            # The next request finds it as it was recorded.
            async with writing(make()) as writer:
                await writer.complete(len(body))
            assert await content(make(), len(body)) == body

        told(story)

    def test_a_small_object_is_put_whole_and_by_one_request_only(self, make: Make) -> None:
        async def story() -> None:
            first, second = make(), make()
            async with first.put(KEY, b"cargo") as fresh:
                assert fresh
                assert await content(second, 5) == b"cargo"
                async with second.put(KEY, b"other") as again:
                    assert not again
            assert await content(second, 5) == b"cargo"

        told(story)

    def test_nothing_is_put_over_bytes_that_are_there(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            async with store.put(KEY, b"other cargo") as fresh:
                assert not fresh
            async with writing(store):
                pass
            assert await content(store, 5) == b"cargo"
            async with store.put(OTHER, b"") as fresh:
                assert fresh
            async with store.put(OTHER, b"cargo") as fresh:
                assert not fresh
            assert await content(store, 0, OTHER) == b""

        told(story)

    def test_an_object_without_bytes_is_an_object(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                await synced(writer, 0)
                await writer.complete(0)
            assert await content(store, 0) == b""

        told(story)

    def test_a_second_writer_is_refused_until_the_first_is_done(self, make: Make) -> None:
        async def story() -> None:
            first, second = make(), make()
            async with writing(first) as writer:
                await writer.write(0, b"first")
                for store in (first, second):
                    with pytest.raises(UploadBusy):
                        async with writing(store):
                            pass
                async with writing(second, OTHER):
                    pass
                await synced(writer, 5)
            async with writing(second) as writer:
                await writer.complete(5)
            assert await content(first, 5) == b"first"

        told(story)

    def test_a_writer_whose_request_failed_lets_the_next_one_in(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            with pytest.raises(LookupError):
                async with writing(store):
                    raise LookupError
            async with writing(store):
                pass

        told(story)

    def test_a_request_cancelled_while_its_writer_opens_lets_the_next_one_in(
        self, make: Make
    ) -> None:
        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                await writer.write(0, b"cargo")
                await synced(writer, 5)

            async def write() -> None:
                async with writing(store):
                    await asyncio.Event().wait()

            for turns in range(4):  # cancelled at each turn of the loop that opening may take
                request = asyncio.create_task(write())
                for _ in range(turns):
                    await asyncio.sleep(0)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                async with writing(store) as writer:
                    await synced(writer, 5)

        told(story)

    def test_a_reader_gives_any_part_and_less_only_at_the_end(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"0123456789")
            reader = await store.open(KEY, 10, (3, 4))
            assert await reader.read(3, 4) == b"3456"
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
            reader = await store.open(KEY, len(body))
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
            first = await store.open(KEY, 5)
            first.close()
            second = await store.open(KEY, 5)
            first.close()
            assert await second.read(0, 5) == b"cargo"
            second.close()

        told(story)

    def test_what_is_not_there_cannot_be_opened(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            with pytest.raises(Unavailable):
                await store.open(KEY, 5)
            await written(store, b"cargo")
            for first in (None, (0, 2)):
                with pytest.raises(Unavailable, match="5 bytes"):
                    await store.open(KEY, 6, first)

        told(story)

    def test_deleting_is_for_good_and_may_be_repeated(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"one")
            await written(store, b"two", OTHER)
            await store.delete(stored(KEY, UUID(int=3).hex, "ff" * 16))
            await make().delete(stored(KEY))
            await store.delete([])
            with pytest.raises(Unavailable):
                await store.open(KEY, 3)
            assert await content(store, 3, OTHER) == b"two"

        told(story)

    def test_a_pull_in_progress_ends_whole_after_a_delete(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            reader = await store.open(KEY, 5)
            await make().delete(stored(KEY))
            assert await reader.read(0, 5) == b"cargo"
            reader.close()

        told(story)

    def test_a_deleted_key_may_be_written_anew(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"a long first")
            await store.delete(stored(KEY))
            await written(store, b"second")
            assert await content(store, 6) == b"second"

        told(story)

    @pytest.mark.parametrize("size", [5, 9 * MIB])
    def test_an_upload_that_is_given_up_leaves_nothing(self, make: Make, size: int) -> None:
        async def story() -> None:
            async with writing(make()) as writer:
                await writer.write(0, b"x" * size)
                await synced(writer, size)
                await writer.write(size, b"x" * size)
            await make().delete(stored(KEY))

        told(story)
        assert self.left_behind() == []

    @abstractmethod
    def left_behind(self) -> list[str]:
        """Everything that is in the store."""

    def test_settled_waits_for_a_writer_that_is_about_to_end(self, make: Make) -> None:
        async def story() -> None:
            first, second = make(), make()
            await second.settled(KEY)
            async with writing(first) as writer:
                await writer.write(0, b"cargo")
                waiting = asyncio.create_task(second.settled(KEY))
                await asyncio.sleep(0.2)
                assert not waiting.done()
                await synced(writer, 5)
            async with asyncio.timeout(5):
                await waiting

        told(story)

    def test_to_ask_whether_a_writer_is_there_creates_nothing(self, make: Make) -> None:
        async def story() -> None:
            await make().settled(KEY)

        told(story)
        assert self.left_behind() == []

    def test_a_store_that_can_be_written_to_is_ready(self, make: Make) -> None:
        async def story() -> None:
            await make().check()

        told(story)

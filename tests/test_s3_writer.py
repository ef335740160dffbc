"""What the writer of S3 objects decides by itself: sizes of parts, memory for them, its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociserver.bucket import Bucket
from ociserver.errors import SizeInvalid, Unavailable, UploadLost
from ociserver.leases import Leases
from ociserver.ports import StoredObject
from ociserver.storage import s3_client, s3_writer
from ociserver.storage.s3 import S3Blobs
from ociserver.storage.s3_client import S3, Multipart, Part
from ociserver.storage.s3_writer import Room, S3Writer, State, _Layout, _Tail, part_size
from ociserver.storage.sqlite import SqliteCatalog
from tests.faulty import FaultyProxy, Rule
from tests.s3 import S3Server
from tests.s3_wire import Operation

MIB = 2**20
_KEY = "0" * 32


class TestPartSize:
    def test_ten_thousand_parts_hold_the_largest_blob_even_half_filled(self) -> None:
        whole = sum(part_size(number) for number in range(1, 10_001))
        assert whole >= 472 * 2**30
        assert whole // 2 >= 200 * 10**9

    @given(st.integers(1, 9_999))
    def test_a_part_is_one_of_s3_at_least_and_never_smaller_than_the_one_before(
        self, number: int
    ) -> None:
        assert 5 * MIB <= part_size(number) <= part_size(number + 1) <= 64 * MIB

    def test_there_is_no_part_after_the_last(self) -> None:
        with pytest.raises(SizeInvalid):
            part_size(10_001)


# -- room


class TestRoom:
    def test_who_comes_first_is_served_first(self) -> None:
        async def story() -> None:
            room, order = Room(10), list[int]()

            async def take(size: int) -> None:
                await room.take(size)
                order.append(size)

            held = await room.take(10)
            async with asyncio.TaskGroup() as group:
                for size in (8, 1, 7):  # the second would fit before the first does
                    group.create_task(take(size))
                    await asyncio.sleep(0)
                room.give(5)
                await asyncio.sleep(0)
                assert order == []
                room.give(held - 5)
                await asyncio.sleep(0.01)
                assert order == [8, 1]
                room.give(8)

        asyncio.run(story())

    def test_one_that_wants_more_than_there_is_gets_all(self) -> None:
        async def story() -> None:
            room = Room(10)
            assert await room.take(64) == 10
            room.give(10)
            assert await room.take(10) == 10

        asyncio.run(story())

    def test_who_waits_too_long_is_told_and_holds_up_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3_writer, "_ROOM_SECONDS", 0.05)

        async def story() -> None:
            room = Room(10)
            await room.take(6)
            with pytest.raises(Unavailable):
                await room.take(5)
            assert await room.take(4) == 4

        asyncio.run(story())

    @given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), max_size=12))
    def test_it_is_never_overdrawn_and_all_of_it_comes_back(
        self, wishes: list[tuple[int, int]]
    ) -> None:
        async def story() -> None:
            room, held = Room(10), [0]

            async def client(size: int, turns: int) -> None:
                got = await room.take(size)
                held[0] += got
                assert held[0] <= 10
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    held[0] -= got
                    room.give(got)

            clients = [asyncio.create_task(client(*each)) for each in wishes]
            # Some are cancelled: before they begin, while they wait, or while they hold some.
            for place, each in enumerate(clients):
                if place % 3 == 1:
                    await asyncio.sleep(0)
                    each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            async with asyncio.timeout(1):
                assert await room.take(10) == 10

        asyncio.run(story())


# -- state

_words = st.text('0123456789abcdef-"', min_size=1, max_size=12)
_parts = st.builds(Part, st.integers(1, 64 * MIB), _words, _words)
_tails = st.builds(_Tail, st.integers(0, 2), st.integers(1, 32 * MIB), _words, st.just("") | _words)
_states = st.builds(
    State,
    upload=st.none() | st.builds(Multipart, id=_words, nonce=_words),
    layout=st.builds(_Layout, st.lists(_parts, max_size=5).map(tuple), st.none() | _tails),
    tails=st.booleans(),
    in_doubt=st.booleans(),
)


@given(_states)
def test_a_state_that_is_written_is_read_again(state: State) -> None:
    written = state.written()
    if written is None:
        assert (state.upload, state.tails, state.in_doubt) == (None, False, False)
        assert state.layout.tail is None
    else:
        assert State.read(written) == state


def test_no_state_says_that_nothing_is_there() -> None:
    assert State.read(None) == State()
    assert State().written() is None


# -- the writer, on a server


class Desk:
    """A place for one object, with a writer for it as a request has one."""

    def __init__(self, server: S3Server, proxy: FaultyProxy, folder: Path) -> None:
        self.server, self.proxy, self.bucket = server, proxy, server.new_bucket()
        place = Bucket.parse(server.url(self.bucket, "at", endpoint=proxy.endpoint))
        self.s3, self.room, self.state = S3(place), Room(32 * MIB), None
        self.kept: list[bytes] = []
        self._catalog = SqliteCatalog(folder / "catalog.db")
        self.blobs = S3Blobs(self.s3, Leases(self._catalog), memory=32 * MIB)

    state: bytes | None

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[S3Writer]:
        async def keep(state: bytes) -> None:
            self.state = state
            self.kept.append(state)

        writer = S3Writer(self.s3, _KEY, keep, self.room)
        writer.resume(self.state)
        try:
            yield writer
        finally:
            await writer.close()

    def read(self) -> bytes:
        return self.server.read(self.bucket, f"at/{_KEY}")

    async def close(self) -> None:
        await self.blobs.aclose()
        await self._catalog.aclose()


Story = Callable[[Desk], Awaitable[None]]
Told = Callable[[Story], Desk]


@pytest.fixture
def told(versitygw: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    for name, value in versitygw.environment.items():
        monkeypatch.setenv(name, value)

    def tell(story: Story) -> Desk:
        with FaultyProxy(versitygw.port) as proxy:
            desk = Desk(versitygw, proxy, tmp_path)

            async def main() -> None:
                try:
                    await story(desk)
                finally:
                    await desk.close()

            asyncio.run(main())
        return desk

    return tell


def test_the_bytes_a_request_found_outlive_every_later_tail_of_it(told: Told) -> None:
    async def story(desk: Desk) -> None:
        async with desk.writer() as writer:
            await writer.write(0, b"a" * MIB)
            desk.state = await writer.sync(MIB)
        async with desk.writer() as writer:
            await writer.write(MIB, b"b" * MIB)
            await writer.sync(2 * MIB)
            # A second tail of the same size as the one found, made of other bytes.
            await writer.write(2 * MIB, b"c" * (7 * MIB))
            await writer.sync(9 * MIB)
            desk.state = await writer.sync(MIB)
        async with desk.writer() as writer:
            await writer.complete(MIB)

    assert told(story).read() == b"a" * MIB


def test_a_tail_that_another_request_replaced_is_not_taken_for_ours(told: Told) -> None:
    async def story(desk: Desk) -> None:
        async with desk.writer() as writer:
            await writer.write(0, b"ours" * MIB)
            desk.state = await writer.sync(4 * MIB)
        for other in (b"them" * MIB, b"theirs" * MIB):
            await desk.s3.put(f"{_KEY}.tail0", other)
            async with desk.writer() as writer:
                with pytest.raises(UploadLost):
                    await writer.complete(4 * MIB)
        await desk.s3.remove([f"{_KEY}.tail0"])
        async with desk.writer() as writer:
            with pytest.raises(UploadLost):
                await writer.complete(4 * MIB)

    told(story)


def test_a_tail_of_few_bytes_needs_nothing_of_the_store(told: Told) -> None:
    async def story(desk: Desk) -> None:
        for number in range(8):
            async with desk.writer() as writer:
                await writer.write(number * 8192, bytes([number]) * 8192)
                desk.state = await writer.sync((number + 1) * 8192)
        assert not desk.proxy.requests
        async with desk.writer() as writer:
            await writer.complete(8 * 8192)
        assert dict(desk.proxy.requests) == {"PutObject": 1}

    assert told(story).read() == b"".join(bytes([number]) * 8192 for number in range(8))


def test_memory_of_a_part_comes_back_though_the_part_was_never_begun(told: Told) -> None:
    async def story(desk: Desk) -> None:
        async with desk.writer() as writer:
            await writer.write(0, bytes(5 * MIB + 10))
            desk.state = await writer.sync(5 * MIB + 10)
        for _ in range(4):
            async with desk.writer() as writer:
                await writer.write(5 * MIB + 10, bytes(8 * MIB))
                # At once, before the loop runs anything else.
                await writer.sync(5 * MIB + 10)
        async with asyncio.timeout(5):
            assert await desk.room.take(32 * MIB) == 32 * MIB

    told(story)


def test_what_may_come_to_be_in_the_store_is_on_record_before_it_is(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_ATTEMPTS", 1)
    losses: tuple[tuple[Operation, int], ...] = (
        ("PutObject", MIB),
        ("CreateMultipartUpload", 6 * MIB),
    )

    async def story(desk: Desk) -> None:
        for operation, size in losses:
            desk.proxy.reset()
            desk.proxy.add(Rule(fault="lost_answer", operation=operation, times=None))
            async with desk.writer() as writer:
                await writer.write(0, bytes(size))
                with pytest.raises(Unavailable):
                    await writer.sync(size)
        assert State.read(desk.state) == State(tails=True, in_doubt=True)
        desk.proxy.reset()
        await desk.blobs.delete([StoredObject(key=_KEY, state=desk.state)])

    desk = told(story)
    assert desk.server.sizes(desk.bucket) == {}
    assert desk.server.uploads(desk.bucket) == []


def test_a_completion_that_the_store_forgot_is_asked_for_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_APPEAR_SECONDS", 0.5)

    async def story(desk: Desk) -> None:
        desk.proxy.add(Rule(fault="lost", operation="CompleteMultipartUpload"))
        async with desk.writer() as writer:
            await writer.write(0, b"x" * (9 * MIB))
            await writer.complete(9 * MIB)
        assert desk.proxy.requests["CompleteMultipartUpload"] == 2

    assert told(story).read() == b"x" * (9 * MIB)


def test_an_upload_that_lost_a_part_is_lost_and_never_an_object(told: Told) -> None:
    async def story(desk: Desk) -> None:
        desk.proxy.add(Rule(fault="lost", operation="UploadPart"))
        async with desk.writer() as writer:
            await writer.write(0, b"x" * (9 * MIB))
            with pytest.raises(UploadLost):
                await writer.complete(9 * MIB)
        await desk.blobs.delete([StoredObject(key=_KEY, state=desk.state)])

    desk = told(story)
    assert desk.server.sizes(desk.bucket) == {}
    assert desk.server.uploads(desk.bucket) == []

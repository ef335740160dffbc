"""One object in the making: bytes come in order, leave in parts, and are one object at the end.

What is durable between requests is a list of parts and a tail too short to be one. The tail lies in
an object beside it, in one of three slots: a new one overwrites neither the recorded one nor that
which the request found. All of that is the state that `sync` returns. Small objects never become
parts at all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass

from ociserver.errors import LadingError, SizeInvalid, Unavailable, UploadLost
from ociserver.ports import Keep
from ociserver.storage.s3_client import S3, Multipart, Part, checksum_of
from ociserver.storage.s3_reader import S3Reader

_MIB = 1024 * 1024
# S3 user guide, "Multipart upload limits".
_LEAST_PART = 5 * _MIB
_MOST_PARTS = 10_000
# A part is held in memory until it is there. They grow so that 10,000 of them make 473 GiB, and at
# least half of that however short the requests are that bring them.
_PART_SIZES = ((1_000, 8 * _MIB), (2_000, 16 * _MIB), (3_600, 32 * _MIB), (_MOST_PARTS, 64 * _MIB))
_SENT_AT_ONCE = 3
# A part this short is not counted: every request holds as much on its way here.
_FREE_BYTES = _MIB
_ROOM_SECONDS = 30.0
# A tail up to this is kept in the state: five requests to the store less.
_HELD_TAIL = 64 * 1024
TAILS = (".tail0", ".tail1", ".tail2")


def part_size(number: int) -> int:
    """Return the bytes of the part with that number, counted from 1. Raises SizeInvalid."""
    for last, size in _PART_SIZES:
        if number <= last:
            return size
    raise SizeInvalid(f"the blob has more than {_MOST_PARTS} parts")


class Room:
    """Memory for parts, shared by all writers of a worker; who comes first is served first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, wanted: int) -> int:
        """Wait for that many bytes and return how many to give back. Raises Unavailable."""
        wanted = min(wanted, self._size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._serve()
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                await asyncio.shield(turn)
        except BaseException as error:
            if turn.done():
                self.give(wanted)
            else:
                turn.cancel()
                self._serve()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    "too many uploads at once for the memory they may take"
                ) from error
            raise
        return wanted

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class _Tail:
    """Bytes too few for a part: in the object of that slot, or, if very few, here in base64."""

    slot: int
    size: int
    checksum: str
    data: str = ""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the bytes up to some offset lie."""

    parts: tuple[Part, ...] = ()
    tail: _Tail | None = None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts) + (self.tail.size if self.tail else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is on record of an object in the making.

    `tails`: something may lie in the slots. `in_doubt`: there may be multipart uploads whose ids
    we never learned, since the answer was lost.
    """

    upload: Multipart | None = None
    layout: _Layout = _Layout()
    tails: bool = False
    in_doubt: bool = False

    @classmethod
    def read(cls, state: bytes | None) -> State:
        """Return what `written` wrote down."""
        if state is None:
            return cls()
        document = json.loads(state)
        upload, tail = document["upload"], document["tail"]
        parts = tuple(Part(*each) for each in document["parts"])
        return cls(
            upload=Multipart(**upload) if upload else None,
            layout=_Layout(parts, _Tail(*tail) if tail else None),
            tails=document["tails"],
            in_doubt=document["in_doubt"],
        )

    def written(self) -> bytes | None:
        """Return it as bytes, None where there is nothing in the store to be found again."""
        tail = self.layout.tail
        if self.upload is None and not self.tails and not self.in_doubt and tail is None:
            return None
        document = {
            "upload": asdict(self.upload) if self.upload else None,
            "parts": [[part.size, part.etag, part.checksum] for part in self.layout.parts],
            "tail": [tail.slot, tail.size, tail.checksum, tail.data] if tail else None,
            "tails": self.tails,
            "in_doubt": self.in_doubt,
        }
        return json.dumps(document, separators=(",", ":")).encode()


class S3Writer:
    """`ports.BlobWriter`. Whoever made it holds the object's lease and closes it."""

    def __init__(self, s3: S3, key: str, keep: Keep, room: Room) -> None:
        self._s3 = s3
        self._key = key
        self._keep = keep
        self._room = room
        self._upload: Multipart | None = None
        self._resumed_at = 0
        self._parts: list[Part | asyncio.Task[Part]] = []
        # The tail that is recorded, until its bytes are wanted.
        self._tail: _Tail | None = None
        self._buffer = bytearray()
        self._filled = 0
        self._taken = 0
        self._position = 0
        self._layouts: dict[int, _Layout] = {0: _Layout()}
        self._had_tails = False
        self._in_doubt = False
        self._complete = False

    def resume(self, state: bytes | None) -> None:
        found = State.read(state)
        self._upload, self._had_tails = found.upload, found.tails
        self._in_doubt = found.in_doubt
        self._resumed_at = found.layout.size
        self._stand_at(found.layout)

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        if offset != self._position:
            raise UploadLost(f"bytes for {offset} came where {self._position} bytes are")
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                await self._make_room()
                count = min(len(view) - written, len(self._buffer) - self._filled)
                end = self._filled + count
                self._buffer[self._filled : end] = view[written : written + count]
                self._filled = end
                written += count
                if self._filled == part_size(len(self._parts) + 1):
                    await self._send()
        self._position += len(data)

    async def sync(self, size: int) -> bytes | None:
        if size != self._position:
            await self._go_back(size)
        elif size not in self._layouts:
            if self._filled >= max(_LEAST_PART, part_size(len(self._parts) + 1) // 2):
                await self._send()
            parts = await self._sent()
            self._layouts[size] = _Layout(parts, await self._put_tail())
        return self._state(self._layouts[size])

    async def complete(self, size: int) -> None:
        if size != self._position:
            raise UploadLost(f"{self._position} of {size} bytes are left of this upload")
        if not self._complete:
            try:
                await self._make_whole()
            except UploadLost:
                if not await self._was_completed():
                    raise
        self._complete = True

    async def _make_whole(self) -> None:
        await self._load_tail()
        if self._parts:
            if self._filled:
                await self._send()
            parts = await self._sent()
            await self._s3.complete_parts(self._key, await self._begun(), parts)
            return
        whole = bytes(memoryview(self._buffer)[: self._filled])
        if not await self._s3.put_new(self._key, whole):
            raise UploadLost("the upload was finished with other bytes")

    async def _was_completed(self) -> bool:
        """Tell whether an earlier request got this far with just these bytes, and no further."""
        if self._upload is None or not self._parts or self._position != self._resumed_at:
            return False
        return await self._s3.is_complete(self._key, self._upload, self._position)

    async def open(self, size: int) -> S3Reader:
        if not self._complete:
            raise UploadLost("the store shows an object only once it is whole")
        return await S3Reader.open(self._s3, self._key, size)

    async def close(self) -> None:
        """End what is under way."""
        tasks = [part for part in self._parts if isinstance(part, asyncio.Task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop_buffer()

    # -- parts

    async def _make_room(self) -> None:
        await self._load_tail()
        if self._filled < len(self._buffer):
            return
        whole = part_size(len(self._parts) + 1)
        if not self._buffer:
            self._buffer = bytearray(min(whole, _FREE_BYTES))
            return
        if not self._taken:
            self._taken = await self._room.take(whole)
        self._buffer.extend(bytes(whole - len(self._buffer)))

    async def _send(self) -> None:
        """Let the buffer go as the next part, while the one after it fills."""
        under_way = [part for part in self._parts if isinstance(part, asyncio.Task)]
        if len(under_way) >= _SENT_AT_ONCE:
            await self._settle(under_way[0])
        upload = await self._begun()
        number = len(self._parts) + 1
        if self._filled < len(self._buffer):
            del self._buffer[self._filled :]
        data, taken = self._buffer, self._taken
        self._buffer, self._filled, self._taken = bytearray(), 0, 0
        part = asyncio.create_task(self._s3.put_part(self._key, upload, number, data))
        # Not within the task: one that is cancelled before its first step never gets there.
        part.add_done_callback(lambda _: self._room.give(taken))
        self._parts.append(part)

    async def _settle(self, part: asyncio.Task[Part]) -> None:
        self._parts[self._parts.index(part)] = await part

    async def _sent(self) -> tuple[Part, ...]:
        """Return all parts once they are there."""
        parts = [await part if isinstance(part, asyncio.Task) else part for part in self._parts]
        self._parts[:] = parts
        return tuple(parts)

    async def _begun(self) -> Multipart:
        if self._upload is None:
            # Its answer may be lost, and then only a listing finds what was begun.
            was_in_doubt, self._in_doubt = self._in_doubt, True
            await self._keep_state()
            begun, sure = await self._s3.begin_parts(self._key, secrets.token_hex(16))
            try:
                self._upload, self._in_doubt = begun, was_in_doubt or not sure
                await self._keep_state()
            except BaseException:
                self._upload = None
                with suppress(LadingError):
                    await self._s3.abort(self._key, begun.id)
                raise
        return self._upload

    # -- the tail

    async def _put_tail(self) -> _Tail | None:
        if self._tail is not None or not self._filled:
            return self._tail
        layouts = self._layouts[max(self._layouts)], self._layouts[self._resumed_at]
        taken = {layout.tail.slot for layout in layouts if layout.tail}
        slot = min({*range(len(TAILS))} - taken)
        data = bytes(memoryview(self._buffer)[: self._filled])
        if len(data) <= _HELD_TAIL:
            held = base64.b64encode(data).decode()
            return _Tail(slot, len(data), checksum_of(data), held)
        # Each time, for an upload that was cancelled meanwhile must not leave a tail behind.
        self._had_tails = True
        await self._keep_state()
        return _Tail(slot, self._filled, await self._s3.put(self._key + TAILS[slot], data))

    async def _load_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is None:
            return
        if tail.size > _FREE_BYTES:
            self._taken = await self._room.take(part_size(len(self._parts) + 1))
        if tail.data:
            data = base64.b64decode(tail.data)
        else:
            data = await self._read_tail(tail)
        # A request that lost its turn may have put other bytes there.
        if checksum_of(data) != tail.checksum:
            raise UploadLost("the end of what was there of this upload is damaged")
        self._buffer, self._filled = bytearray(data), tail.size

    async def _read_tail(self, tail: _Tail) -> bytes:
        key = self._key + TAILS[tail.slot]
        try:
            reader = await S3Reader.open(self._s3, key, tail.size)
        except Unavailable:
            if await self._s3.size(key) != tail.size:
                raise UploadLost("the end of what was there of this upload is gone") from None
            raise
        try:
            return await reader.read(0, tail.size)
        finally:
            reader.close()

    # -- where it stands

    def _stand_at(self, layout: _Layout) -> None:
        self._parts = list(layout.parts)
        self._tail = layout.tail
        self._position = layout.size
        self._layouts[layout.size] = layout

    async def _go_back(self, size: int) -> None:
        layout = self._layouts.get(size)
        if layout is None:
            raise UploadLost(f"the store cannot go back to {size} bytes")
        for part in self._parts:
            if isinstance(part, asyncio.Task):
                part.cancel()
                with suppress(asyncio.CancelledError, LadingError):
                    await part
        self._drop_buffer()
        self._layouts = {each: self._layouts[each] for each in self._layouts if each <= size}
        self._stand_at(layout)

    def _drop_buffer(self) -> None:
        self._room.give(self._taken)
        self._buffer, self._filled, self._taken = bytearray(), 0, 0

    def _state(self, layout: _Layout) -> bytes | None:
        return State(
            upload=self._upload, layout=layout, tails=self._had_tails, in_doubt=self._in_doubt
        ).written()

    async def _keep_state(self) -> None:
        """Put on record what is about to come to be; the offset on record stays."""
        state = self._state(self._layouts[max(self._layouts)])
        assert state is not None  # noqa: S101 - an upload, a tail or a doubt is on record
        await self._keep(state)

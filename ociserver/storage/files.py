"""Blobs as files: `<root>/<first two of the key>/<key>`, written once under their final name.

No blob is copied or renamed when it is committed; the catalog's row is the commit. A writer holds
an exclusive lock on its file, which the kernel drops with the process, so `kill -9` frees it.
Nothing here blocks the event loop: all of it runs in one named thread pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ociserver.errors import StorageFull, Unavailable, UploadBusy, UploadUnknown
from ociserver.threads import in_thread

T = TypeVar("T")

# Bytes that are gathered before they go to the disk, past the page cache (open(2), O_DIRECT). Of a
# push the cache would copy each byte, evict what is being pulled, and leave the last sync with all
# of it to do; so finishing takes the same time for 1 MiB and for 20 GiB.
_STAGE = 1024 * 1024
# The largest logical block of a disk: what O_DIRECT wants offsets, lengths and memory aligned to.
_BLOCK = 4096
_IOV_MAX = 1024
_LOCK_SECONDS = 1.0
_LOCK_POLL_SECONDS = 0.02
_THREADS = 16


class FileBlobs:
    """`ports.BlobStore` in one folder, shared by worker processes."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        _sync_folder(root.parent)
        self._root = root
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[_FileWriter]:
        descriptor = await self._opened_exclusively(key)
        try:
            yield _FileWriter(self._run, descriptor, self._folder(key))
        finally:
            os.close(descriptor)

    async def _opened_exclusively(self, key: str) -> int:
        # A client that goes on at once may meet its own last request, not quite over: a moment's
        # patience spares it a refusal.
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return await in_thread(self._pool, self._open_exclusively, key, release=os.close)
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    async def open(self, key: str) -> _FileReader:
        return await in_thread(self._pool, self._open_reader, key, release=_FileReader.close)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, keys)

    async def check(self) -> None:
        await self._run(self._check)

    def close(self) -> None:
        """Wait for what runs and release the threads."""
        self._pool.shutdown()

    # -- on the pool's threads

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await in_thread(self._pool, function, *arguments)

    def _folder(self, key: str) -> Path:
        return self._root / key[:2]

    def _open_exclusively(self, key: str) -> int:
        folder = self._folder(key)
        with _translated():
            try:
                descriptor = os.open(folder / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                folder.mkdir(exist_ok=True)
                _sync_folder(self._root)
                descriptor = os.open(folder / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UploadBusy("another request is writing to this upload") from error
        return descriptor

    def _open_reader(self, key: str) -> _FileReader:
        try:
            descriptor = os.open(self._folder(key) / key, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"blob object {key} cannot be opened: {error.strerror}") from error
        return _FileReader(self._run, descriptor)

    def _delete(self, keys: Sequence[str]) -> None:
        with _translated():
            for key in keys:
                (self._folder(key) / key).unlink(missing_ok=True)
            for folder in {self._folder(key) for key in keys}:
                if folder.exists():
                    _sync_folder(folder)

    def _check(self) -> None:
        try:
            room = os.statvfs(self._root)
        except OSError as error:
            raise Unavailable(f"the blob folder is not there: {error.strerror}") from error
        if room.f_flag & os.ST_RDONLY or not os.access(self._root, os.W_OK):
            raise Unavailable("the blob folder is read-only")
        if room.f_bavail == 0:
            raise Unavailable("the blob folder's disk is full")


class _FileWriter:
    """`ports.BlobWriter` on an open, locked descriptor."""

    def __init__(self, run: Callable[..., Awaitable[None]], descriptor: int, folder: Path) -> None:
        self._run = run
        self._descriptor = descriptor
        self._folder = folder
        self._stage: _Stage | None = None

    async def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        await self._run(self._write, offset, chunks)

    async def sync(self, size: int) -> None:
        await self._run(self._sync, size)

    def _write(self, offset: int, chunks: Sequence[bytes]) -> None:
        with _translated():
            if self._stage is None and sum(map(len, chunks)) < _STAGE:
                _write_at(self._descriptor, offset, chunks)
                return
            if self._stage is None:
                self._stage = _Stage(self._descriptor)
            self._stage.write(offset, chunks)

    def _sync(self, size: int) -> None:
        with _translated():
            if self._stage is not None and size > self._stage.start:
                self._stage.flush()
            elif self._stage is not None:
                self._stage = None  # what it holds is not wanted, and may be what did not fit
            there = os.fstat(self._descriptor).st_size
            if there < size:
                raise UploadUnknown(f"{there} of {size} bytes are left of this upload")
            if there > size:
                os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
            _sync_folder(self._folder)


class _Stage:
    """Aligned memory through which a large write goes straight to the disk.

    It holds the file's bytes from `start`, a multiple of the block, for `_filled` bytes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(-1, _STAGE)
        self.start = 0
        self._filled = 0
        # Where the filesystem cannot (tmpfs, some network ones), the same writes go by its cache.
        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)

    def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        if offset != self.start + self._filled:
            self._begin(offset)
        for chunk in chunks:
            taken = 0
            while taken < len(chunk):
                room = min(_STAGE - self._filled, len(chunk) - taken)
                self._memory[self._filled : self._filled + room] = chunk[taken : taken + room]
                self._filled += room
                taken += room
                if self._filled == _STAGE:
                    self._put(_STAGE)
                    self.start += _STAGE
                    self._filled = 0

    def flush(self) -> None:
        """Write what is held, padded to whole blocks; the caller cuts the file to its size."""
        self._put(-(-self._filled // _BLOCK) * _BLOCK)

    def _begin(self, offset: int) -> None:
        """Take up at `offset`: the block it lies in is there already, up to it."""
        self.start = offset - offset % _BLOCK
        self._filled = offset - self.start
        if self._filled:
            with memoryview(self._memory) as memory:
                os.preadv(self._descriptor, [memory[:_BLOCK]], self.start)

    def _put(self, size: int) -> None:
        with memoryview(self._memory) as memory:
            written = 0
            while written < size:
                piece = memory[written:size]
                written += os.pwritev(self._descriptor, [piece], self.start + written)


class _FileReader:
    """`ports.BlobReader` on an open descriptor."""

    def __init__(self, run: Callable[..., Awaitable[bytes]], descriptor: int) -> None:
        self._run = run
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    async def read(self, offset: int, count: int) -> bytes:
        return await self._run(os.pread, self._descriptor, count, offset)

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_at(descriptor: int, offset: int, chunks: Sequence[bytes]) -> int:
    """Write all of the chunks; return the offset behind the last byte."""
    waiting = iter(chunks)
    while batch := list(islice(waiting, _IOV_MAX)):
        while batch:
            written = os.pwritev(descriptor, batch, offset)
            offset += written
            while batch and written >= len(batch[0]):
                written -= len(batch.pop(0))
            if written:
                batch[0] = batch[0][written:]
    return offset


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk of the blob folder is full") from error
        raise Unavailable(f"the blob folder failed: {error.strerror}") from error

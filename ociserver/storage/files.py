"""Blobs as files: `<root>/<first two of the key>/<key>`, written once under their final name.

No blob is copied or renamed when it is committed; the catalog's row is the commit. A writer holds
an exclusive lock on its file, which the kernel drops with the process, so `kill -9` frees it.
Nothing here blocks the event loop: all of it runs in one named thread pool.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ociserver.errors import BlobDamaged, StorageFull, Unavailable, UploadBusy, UploadLost
from ociserver.ports import Keep, ListedObject, StoredObject
from ociserver.threads import in_thread
from ociserver.upload import is_session_id

T = TypeVar("T")
_Opened = TypeVar("_Opened", "_FileWriter", "_FileWriter | None")

# From here on a write goes past the page cache (open(2), O_DIRECT). Of a push the cache would copy
# each byte, evict what is being pulled, and leave the last sync with all of it to do; so finishing
# takes the same time for 1 MiB and for 20 GiB.
_PAST_CACHE_FROM = 512 * 1024
# The largest logical block of a disk: what O_DIRECT wants offsets, lengths and memory aligned to.
_BLOCK = 4096
_LOCK_SECONDS = 1.0
_LOCK_POLL_SECONDS = 0.02
_THREADS = 16
_READ_BYTES = 1024 * 1024


class FileBlobs:
    """`ports.ListedStore` in one folder, shared by worker processes."""

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sync_folder(root.parent)
        except OSError as error:
            raise Unavailable(f"blobs cannot be kept in {root}") from error
        self._root = root
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    @asynccontextmanager
    async def writer(self, key: str, _keep: Keep) -> AsyncIterator[_FileWriter]:
        writer = await self._patiently(self._open_writer, key)
        try:
            yield writer
        finally:
            writer.close()

    @asynccontextmanager
    async def put(self, key: str, data: bytes | memoryview) -> AsyncIterator[bool]:
        writer = await self._patiently(self._put, key, data)
        try:
            yield writer is not None
        finally:
            if writer is not None:
                writer.close()

    async def _patiently(self, opening: Callable[..., _Opened], *arguments: object) -> _Opened:
        # A client that goes on at once may meet its own last request, not quite over: a moment's
        # patience spares it a refusal.
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return await in_thread(self._pool, opening, *arguments, release=_release)
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    async def settled(self, key: str) -> None:
        with suppress(UploadBusy):
            await self._patiently(self._check_free, key)

    async def open(self, key: str, size: int, _first: tuple[int, int] | None = None) -> _FileReader:
        return await in_thread(self._pool, self._open_reader, key, size, release=_FileReader.close)

    async def delete(self, objects: Sequence[StoredObject]) -> None:
        await self._run(self._delete, [each.key for each in objects])

    async def objects(self) -> AsyncIterator[ListedObject]:
        for folder in await self._run(self._folders):
            for each in await self._run(_listed, folder):
                yield each

    async def remove(self, listed: Sequence[ListedObject]) -> None:
        await self._run(self._delete, [each.key for each in listed])

    async def check(self) -> None:
        await self._run(self._check)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    # -- on the pool's threads

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await in_thread(self._pool, function, *arguments)

    def _folder(self, key: str) -> Path:
        return self._root / key[:2]

    def _open_writer(self, key: str, more_flags: int = 0) -> _FileWriter:
        folder = self._folder(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | more_flags
        with _translated():
            try:
                descriptor = os.open(folder / key, flags, 0o644)
            except FileNotFoundError:
                folder.mkdir(exist_ok=True)
                _sync_folder(self._root)
                descriptor = os.open(folder / key, flags, 0o644)
        try:
            _lock(descriptor)
        except UploadBusy:
            os.close(descriptor)
            raise
        return _FileWriter(self._run, descriptor, folder)

    def _check_free(self, key: str) -> None:
        # Never creates it: the upload may have ended since the caller looked.
        with suppress(OSError), (self._folder(key) / key).open("rb") as file:
            _lock(file.fileno())

    def _put(self, key: str, data: bytes | memoryview) -> _FileWriter | None:
        if (self._folder(key) / key).exists():
            return None
        try:
            writer = self._open_writer(key, os.O_EXCL)
        except Unavailable as error:
            if isinstance(error.__cause__, FileExistsError):
                return None
            raise
        try:
            writer.put(data)
        except BaseException:
            writer.close()
            raise
        return writer

    def _open_reader(self, key: str, size: int) -> _FileReader:
        try:
            descriptor = os.open(self._folder(key) / key, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if self._folders():
                raise BlobDamaged(f"blob object {key} is not there") from error
            # Not a proof: a disk that is not mounted leaves an empty folder, too.
            raise Unavailable(f"blob object {key} is not there, nor is any other") from error
        except OSError as error:
            raise Unavailable(f"blob object {key} cannot be opened: {error.strerror}") from error
        there = os.fstat(descriptor).st_size
        if there != size:
            os.close(descriptor)
            raise BlobDamaged(f"blob object {key} has {there} bytes, the catalog says {size}")
        return _FileReader(self._run, descriptor)

    def _delete(self, keys: Sequence[str]) -> None:
        with _translated():
            for key in keys:
                (self._folder(key) / key).unlink(missing_ok=True)
            for folder in {self._folder(key) for key in keys}:
                if folder.exists():
                    _sync_folder(folder)

    def _folders(self) -> list[Path]:
        with _translated():
            return sorted(each for each in self._root.iterdir() if each.is_dir())

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

    def __init__(self, run: Callable[..., Awaitable[Any]], descriptor: int, folder: Path) -> None:
        self._run = run
        self._descriptor = descriptor
        self._folder = folder

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        await self._run(self._write, offset, data)

    def resume(self, state: bytes | None) -> None:
        """Do nothing: the file itself is all there is to know."""

    async def sync(self, size: int) -> None:
        await self._run(self._sync, size)

    async def complete(self, size: int) -> None:
        await self.sync(size)

    async def open(self, _size: int) -> _FileReader:
        return _FileReader(self._run, os.dup(self._descriptor))

    def put(self, data: bytes | memoryview) -> None:
        """Write all of a new object, durably. Blocks."""
        try:
            self._write(0, data)
            self._sync(len(data))
        except BaseException:
            os.ftruncate(self._descriptor, 0)
            raise

    def close(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        with _translated(), memoryview(data) as view:
            past = _write_past_cache(self._descriptor, offset, view)
            _write_at(self._descriptor, offset + past, view[past:])

    def _sync(self, size: int) -> None:
        with _translated():
            there = os.fstat(self._descriptor).st_size
            if there < size:
                raise UploadLost(f"{there} of {size} bytes are left of this upload")
            if there > size:
                os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
            _sync_folder(self._folder)


class _FileReader:
    """`ports.BlobReader` on an open descriptor."""

    def __init__(self, run: Callable[..., Awaitable[Any]], descriptor: int) -> None:
        self._run = run
        self._descriptor = descriptor

    async def read(self, offset: int, count: int) -> bytes:
        piece: bytes = await self._run(self._read, offset, count)
        return piece

    def _read(self, offset: int, count: int) -> bytes:
        with _translated():
            return os.pread(self._descriptor, count, offset)

    async def stream(self, offset: int, count: int) -> AsyncIterator[bytes]:
        for start in range(offset, offset + count, _READ_BYTES):
            yield await self.read(start, min(_READ_BYTES, offset + count - start))

    def fileno(self) -> int | None:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _release(opened: _FileWriter | None) -> None:
    if opened is not None:
        opened.close()


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UploadBusy("another request is writing to this upload") from error


def _write_at(descriptor: int, offset: int, view: memoryview) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


def _write_past_cache(descriptor: int, offset: int, view: memoryview) -> int:
    """Write the whole blocks of a large piece with O_DIRECT; return how many bytes that were.

    Where file, offset or memory do not allow it (tmpfs, some network filesystems), that is none.
    """
    size = len(view) - len(view) % _BLOCK
    if offset % _BLOCK or size < _PAST_CACHE_FROM:
        return 0
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    written = 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while written < size:
            written += os.pwrite(descriptor, view[written:size], offset + written)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return written


def _listed(folder: Path) -> list[ListedObject]:
    """Return the objects of one folder; other files that may lie there are none of ours."""
    found = []
    with _translated():
        for path in sorted(folder.iterdir()):
            key = path.name
            if is_session_id(key) and key[:2] == folder.name:
                with suppress(FileNotFoundError):
                    about = path.stat()
                    found.append(
                        ListedObject(
                            key=key, name=key, size=about.st_size, modified_at=about.st_mtime
                        )
                    )
    return found


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

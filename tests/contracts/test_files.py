"""The blob store on files: the contract, and what only files have."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociserver.errors import BlobDamaged, Unavailable, UploadBusy, UploadLost
from ociserver.storage.files import FileBlobs
from tests.contracts.blobs import (
    KEY,
    OPENED,
    OTHER,
    Make,
    content,
    stored,
    told,
    writing,
    written,
)
from tests.contracts.listing import ListingContract, listed

# Another worker that has the object open until it is told to end, or is killed.
HOLDER = """
import asyncio, sys
from pathlib import Path
from ociserver.storage.files import FileBlobs

async def hold():
    async with FileBlobs(Path(sys.argv[1])).writer(sys.argv[2], None) as writer:
        await writer.write(0, b"theirs")
        await writer.sync(6)
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


def open_files() -> set[str]:
    """What this process has open, by path."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except FileNotFoundError:  # the descriptor that lists them
            continue
    return found


class TestFiles(ListingContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        self.root = tmp_path / "blobs"

        def make() -> FileBlobs:
            store = FileBlobs(self.root)
            OPENED.append(store)
            return store

        yield make
        leaked = [path for path in open_files() if path.startswith(str(tmp_path))]
        assert not leaked, "files left open"

    def left_behind(self) -> list[str]:
        return [str(path) for path in self.root.rglob("*") if path.is_file()]

    def test_a_file_that_lost_bytes_makes_its_upload_lost(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            async with writing(store) as writer:
                await writer.write(0, b"cargo")
                with pytest.raises(UploadLost):
                    await writer.sync(6)
                await writer.complete(5)
            assert await content(store, 5) == b"cargo"

        told(story)

    def test_a_small_object_is_held_until_its_request_is_done(self, make: Make) -> None:
        async def story() -> None:
            first, second = make(), make()
            async with first.put(KEY, b"cargo") as fresh:
                assert fresh
                with pytest.raises(UploadBusy):
                    async with writing(second):
                        pass
            async with writing(second) as writer:
                await writer.write(5, memoryview(bytearray(b" more")))
                await writer.complete(10)
            assert await content(first, 10) == b"cargo more"

        told(story)

    def test_a_writer_of_another_process_is_waited_for_and_a_killed_one_is_not(
        self, make: Make, tmp_path: Path
    ) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "blobs"), KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"

            async def busy() -> None:
                with pytest.raises(UploadBusy):
                    async with writing(make()):
                        pass

            told(busy)
            holder.kill()
            holder.wait()

        async def free() -> None:
            store = make()
            async with writing(store) as writer:
                await writer.write(6, b" and ours")
                await writer.complete(15)
            assert await content(store, 15) == b"theirs and ours"

        told(free)

    def test_a_reader_has_a_descriptor_that_the_kernel_can_send_from(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            reader = await store.open(KEY, 5)
            descriptor = reader.fileno()
            assert descriptor is not None
            assert os.pread(descriptor, 10, 1) == b"argo"
            reader.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)

        told(story)

    @pytest.mark.parametrize("cancels", [1, 2])
    def test_a_cancelled_read_does_not_end_while_a_thread_still_has_its_descriptor(
        self, tmp_path: Path, cancels: int
    ) -> None:
        async def story() -> None:
            store = FileBlobs(tmp_path)
            await written(store, b"cargo")
            reader = await store.open(KEY, 5)
            go_on = threading.Event()
            busy = [store._pool.submit(go_on.wait, 10) for _ in range(store._pool._max_workers)]

            async def pull() -> None:
                try:
                    await reader.read(0, 5)
                finally:
                    reader.close()

            pulling = asyncio.create_task(pull())
            for _ in range(cancels):
                for _ in range(3):
                    await asyncio.sleep(0)
                pulling.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            ended_early = pulling.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await pulling
            await store.aclose()
            assert not ended_early
            assert all(one.result() for one in busy)

        told(story)

    def test_a_request_cancelled_while_it_opens_leaves_no_file_open(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            for turns in range(4):

                async def pull() -> None:
                    (await store.open(KEY, 5)).close()

                request = asyncio.create_task(pull())
                for _ in range(turns):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
            assert not [path for path in open_files() if path.endswith(KEY)]

        told(story)

    def test_each_object_is_one_file_under_its_own_key_from_the_first_byte(
        self, make: Make, tmp_path: Path
    ) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"one")
            await written(store, b"two", OTHER)
            await store.delete(stored(OTHER))

        told(story)
        files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert files == [tmp_path / "blobs" / KEY[:2] / KEY]
        assert files[0].read_bytes() == b"one"

    def test_a_folder_that_is_gone_is_unavailable_whatever_is_asked(
        self, make: Make, tmp_path: Path
    ) -> None:
        async def story() -> None:
            store = make()
            shutil.rmtree(tmp_path / "blobs")
            with pytest.raises(Unavailable):
                await store.check()
            with pytest.raises(Unavailable):
                await written(store, b"cargo")
            with pytest.raises(Unavailable):
                await store.open(KEY, 5)
            await store.delete(stored(KEY))

        told(story)

    def test_a_lost_file_is_damage_but_not_where_all_are_gone(
        self, make: Make, tmp_path: Path
    ) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            (tmp_path / "blobs" / KEY[:2] / KEY).unlink()
            with pytest.raises(BlobDamaged):
                await store.open(KEY, 5)
            # As it is where the disk is not mounted.
            (tmp_path / "blobs" / KEY[:2]).rmdir()
            with pytest.raises(Unavailable) as raised:
                await store.open(KEY, 5)
            assert not isinstance(raised.value, BlobDamaged)

        told(story)

    def test_files_that_are_none_of_ours_are_not_listed(self, make: Make, tmp_path: Path) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            folder = tmp_path / "blobs" / KEY[:2]
            for name in (f"{KEY}.copy", ".nfs01", OTHER.replace("0", "f")):
                (folder / name).write_bytes(b"theirs")
            (tmp_path / "blobs" / "lost+found").mkdir()
            (tmp_path / "blobs" / KEY).write_bytes(b"theirs")
            assert [each.key for each in await listed(store)] == [KEY]

        told(story)

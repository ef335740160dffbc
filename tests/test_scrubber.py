"""Scrub as a use case, over a catalog and a blob store of this process: what no process of another
could bring about at the right moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from ociserver import scrubber
from ociserver.errors import LeaseTaken, Unavailable
from ociserver.leases import Leases
from ociserver.ports import BlobReader, Catalog, CatalogTx
from ociserver.refs import Digest, parse_name
from ociserver.scrubber import LEASE, Finding, Plan, Scrubber, Tally
from ociserver.storage.files import FileBlobs
from ociserver.storage.sqlite import SqliteCatalog
from ociserver.upload import UploadSession

REPO = parse_name("team/a")
PLAN = Plan(rate=2**40, older_than=1.0, orphan_age=1.0, repair=False)

Opening = Callable[[str, int], Awaitable[BlobReader]]


class Store(FileBlobs):
    """Files, with a word before and after one is opened."""

    before_opening: Callable[[str], Awaitable[None]] | None = None
    after_opening: Callable[[], object] | None = None
    opened = 0

    async def open(self, key: str, size: int, first: tuple[int, int] | None = None):  # type: ignore[no-untyped-def] # noqa: ANN201 - what the parent returns
        self.opened += 1
        if self.before_opening is not None:
            await self.before_opening(key)
        reader = await super().open(key, size, first)
        if self.after_opening is not None:
            self.after_opening()
        return reader


class Stores:
    """A registry's two stores, and what scrubs of them found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "blobs"
        self.catalog: Catalog = SqliteCatalog(folder / "catalog.db")
        self.blobs = Store(self.folder)
        self.found: list[Finding] = []

    async def push(self, number: int, body: bytes) -> Digest:
        """Make the bytes a blob, under the key of that number."""
        session = UploadSession(id=UUID(int=number).hex, repository=REPO, algorithm="sha256")
        digest = Digest(f"sha256:{sha256(body).hexdigest()}")

        def work(tx: CatalogTx) -> None:
            tx.begin_upload(session, 1.0)
            tx.commit_upload(replace(session, offset=len(body)), [digest], 1.0)

        async with self.blobs.put(session.id, body) as fresh:
            assert fresh
            await self.catalog.write(work)
        return digest

    async def scrub(self, plan: Plan = PLAN) -> Tally:
        run = Scrubber(self.catalog, self.blobs, Leases(self.catalog), plan, self.found.append)
        await run.run()
        return run.tally

    def path(self, number: int) -> Path:
        key = UUID(int=number).hex
        return self.folder / key[:2] / key

    @property
    def kinds(self) -> list[str]:
        return [each.kind for each in self.found]


def told(folder: Path, story: Callable[[Stores], Awaitable[None]]) -> None:
    async def main() -> None:
        stores = Stores(folder)
        try:
            await story(stores)
        finally:
            await stores.catalog.aclose()
            await stores.blobs.aclose()

    asyncio.run(main())


def test_bytes_that_are_right_when_read_again_are_no_damage(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        await stores.push(1, b"cargo")
        stores.path(1).write_bytes(b"carGo")

        async def restore_at_second(_key: str) -> None:
            if stores.blobs.opened == 2:
                stores.path(1).write_bytes(b"cargo")

        stores.blobs.before_opening = restore_at_second
        assert (await stores.scrub()).all_well
        assert stores.blobs.opened == 2

    told(tmp_path, story)


def test_a_blob_that_is_replaced_while_it_is_looked_at_is_nobody_s_damage(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        digest = await stores.push(1, b"cargo")
        stores.path(1).write_bytes(b"carGo")

        async def heal(_key: str) -> None:
            if stores.blobs.opened == 2:
                key = UUID(int=1).hex
                await stores.catalog.write(lambda tx: tx.quarantine(key, 1.0))
                await stores.push(2, b"cargo")

        stores.blobs.before_opening = heal
        assert (await stores.scrub()).all_well
        found = await stores.catalog.read(lambda tx: tx.blob(REPO, digest))
        assert found is not None
        assert found.key == UUID(int=2).hex

    told(tmp_path, story)


def test_a_blob_that_came_after_the_listing_is_not_lost(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        await stores.push(5, b"cargo")
        listing = stores.blobs.objects

        async def objects():  # type: ignore[no-untyped-def] # noqa: ANN202 - as the listing
            async for each in listing():
                yield each
            await stores.push(1, b"more")

        stores.blobs.objects = objects  # type: ignore[method-assign]
        assert (await stores.scrub()).all_well

    told(tmp_path, story)


def test_what_a_row_names_by_the_time_it_would_be_deleted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "_BATCH", 1)

    async def story(stores: Stores) -> None:
        await stores.push(1, b"cargo")
        listing = stores.blobs.objects
        orphans = [
            UploadSession(id=UUID(int=number).hex, repository=REPO, algorithm="sha256")
            for number in (8, 9)
        ]
        for number in (8, 9):
            stores.path(number).write_bytes(b"of nobody")

        async def objects():  # type: ignore[no-untyped-def] # noqa: ANN202 - as the listing
            async for each in listing():
                yield each
            await stores.catalog.write(lambda tx: tx.begin_upload(orphans[0], 1.0))

        stores.blobs.objects = objects  # type: ignore[method-assign]
        await stores.scrub(replace(PLAN, orphan_age=-1.0, repair=True))
        assert [each.name for each in stores.found] == [orphans[1].id]
        assert [stores.path(number).exists() for number in (8, 9)] == [True, False]

    told(tmp_path, story)


@pytest.mark.parametrize("count", [3, 25])
def test_objects_that_cannot_be_read_are_left_out_and_too_many_of_them_end_the_run(
    tmp_path: Path, count: int
) -> None:
    async def story(stores: Stores) -> None:
        for number in range(1, 31):
            await stores.push(number, b"%d" % number)

        async def fail(key: str) -> None:
            if UUID(key).int <= count:
                raise Unavailable("a bad sector")

        stores.blobs.before_opening = fail
        if count == 3:
            assert (await stores.scrub()).blobs == 27
        else:
            with pytest.raises(Unavailable, match="a bad sector"):
                await stores.scrub()
        assert set(stores.kinds) == {"unreadable"}
        quarantined = await stores.catalog.read(lambda tx: tx.quarantined(9e9, 9, []))
        assert not quarantined

    told(tmp_path, story)


def test_a_folder_that_is_not_mounted_is_no_damage(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        for number in (1, 2):
            await stores.push(number, b"%d" % number)
        stores.folder.rename(tmp_path / "elsewhere")
        stores.folder.mkdir()
        tally = await stores.scrub()
        assert not tally.all_well
        assert set(stores.kinds) == {"unreadable"}

    told(tmp_path, story)


def test_a_second_run_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        async with Leases(stores.catalog).hold(LEASE):
            with pytest.raises(LeaseTaken):
                await stores.scrub()
        await stores.scrub()

    told(tmp_path, story)


@pytest.mark.parametrize(("batch", "most"), [(1, 10_000), (2, 10_000), (3, 2)])
def test_batches_of_any_size_find_the_same_and_what_is_too_much_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, most: int
) -> None:
    monkeypatch.setattr(scrubber, "_BATCH", batch)
    monkeypatch.setattr(scrubber, "_MOST", most)

    async def story(stores: Stores) -> None:
        for number in range(1, 10):
            await stores.push(number, b"%d" % number)
        for number in (1, 4, 5, 9):
            stores.path(number).unlink()
        for number in (20, 21, 22):
            stores.path(number).write_bytes(b"of nobody")
        tally = await stores.scrub(replace(PLAN, orphan_age=-1.0))
        assert stores.kinds.count("orphan") == min(3, most)
        # What was not found by the listing is found when it is read.
        assert stores.kinds.count("damaged") == 4
        assert bool(tally.left) == (most == 2)

    told(tmp_path, story)


def test_a_blob_is_damaged_if_any_of_its_digests_is_not_its_own(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        session = UploadSession(id=UUID(int=1).hex, repository=REPO, algorithm="sha256")
        names = [Digest(f"sha256:{sha256(b'cargo').hexdigest()}"), Digest("sha512:" + "0" * 128)]

        def work(tx: CatalogTx) -> None:
            tx.begin_upload(session, 1.0)
            tx.commit_upload(replace(session, offset=5), names, 1.0)

        async with stores.blobs.put(session.id, b"cargo"):
            await stores.catalog.write(work)
        await stores.scrub()
        assert stores.kinds == ["damaged"]

    told(tmp_path, story)


def test_a_file_that_is_cut_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        await stores.push(1, b"x" * 3 * 2**20)

        stores.blobs.after_opening = lambda: stores.path(1).write_bytes(b"x" * 5)
        await stores.scrub()
        assert [(each.kind, each.what) for each in stores.found] == [
            ("damaged", f"blob object {UUID(int=1).hex} has 5 bytes, the catalog says {3 * 2**20}")
        ]

    told(tmp_path, story)

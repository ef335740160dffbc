"""The blob store on S3: the contract, on both servers, and what only a bucket has."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from ociserver.bucket import Bucket
from ociserver.errors import BlobDamaged, Unavailable
from ociserver.leases import Leases
from ociserver.ports import Catalog
from ociserver.storage.s3 import S3Blobs
from ociserver.storage.s3_client import S3
from ociserver.storage.sqlite import SqliteCatalog
from tests.contracts.blobs import (
    KEY,
    MIB,
    OPENED,
    OTHER,
    STATES,
    Make,
    content,
    synced,
    told,
    writing,
    written,
)
from tests.contracts.listing import ListingContract, listed
from tests.s3 import S3Server


class TestS3(ListingContract):
    @pytest.fixture
    def make(self, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
        for name, value in s3_server.environment.items():
            monkeypatch.setenv(name, value)
        self.server, self.bucket = s3_server, s3_server.new_bucket()
        bucket = Bucket.parse(s3_server.url(self.bucket, "some/where"))
        catalogs: list[Catalog] = []

        def make() -> S3Blobs:
            # One catalog for each story, as replicas have: it says who writes.
            if not OPENED:
                catalogs.append(SqliteCatalog(tmp_path / "catalog.db"))
            store = _Shared(S3(bucket), Leases(catalogs[-1]), memory=64 * 2**20, patience=0.3)
            store.catalog = catalogs[-1]
            OPENED.append(store)
            return store

        return make

    def left_behind(self) -> list[str]:
        uploads = self.server.uploads(self.bucket)
        return [*self.server.sizes(self.bucket), *(each.id for each in uploads)]

    def test_what_lies_beside_an_object_is_listed_with_its_mark_and_goes_alone(
        self, make: Make
    ) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            async with writing(store, OTHER) as writer:
                await writer.write(0, b"x" * 9 * MIB)
                await synced(writer, 9 * MIB, OTHER)
            marks = {each.mark: each for each in await listed(store)}
            whole, tail, upload = marks.pop(None), marks.pop(b""), *marks.values()
            assert (whole.key, whole.name, whole.size) == (KEY, KEY, 5)
            assert (tail.key, tail.name, tail.size) == (OTHER, f"{OTHER}.tail0", MIB)
            assert (upload.key, upload.size) == (OTHER, None)
            assert upload.mark is not None
            assert upload.mark in (STATES[OTHER] or b"")
            await store.remove([replace(tail, key=KEY), upload])
            assert [each.name for each in await listed(store)] == [KEY]
            assert await content(store, 5) == b"cargo"

        told(story)

    def test_what_others_keep_in_the_bucket_is_not_listed(self, make: Make) -> None:
        for name in (KEY, f"some/{KEY}", f"some/where/else/{KEY}", "some/where/notes", "z"):
            self.server.write(self.bucket, name, b"theirs")
        self.server.write(self.bucket, f"some/where/{OTHER}", b"ours")

        async def story() -> None:
            assert [each.key for each in await listed(make())] == [OTHER]

        told(story)

    def test_more_than_a_page_is_listed_whole(self, make: Make) -> None:
        keys = [UUID(int=number).hex for number in range(1, 1102)]

        async def story() -> None:
            async with self.server.client() as s3:
                for start in range(0, len(keys), 50):
                    names = [f"some/where/{key}" for key in keys[start : start + 50]]
                    await asyncio.gather(
                        *(s3.put_object(Bucket=self.bucket, Key=name) for name in names),
                        *(s3.create_multipart_upload(Bucket=self.bucket, Key=name)
                          for name in names),
                    )  # fmt: skip
            found = await listed(make())
            assert [each.key for each in found if each.mark is None] == keys
            assert sorted(each.key for each in found if each.mark) == keys

        told(story)

    def test_only_the_store_s_own_word_that_an_object_is_gone_is_damage(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            with pytest.raises(BlobDamaged):
                await store.open(KEY, 5)
            async with self.server.client() as s3:
                await s3.delete_bucket(Bucket=self.bucket)
            with pytest.raises(Unavailable) as raised:
                await store.open(KEY, 5)
            assert not isinstance(raised.value, BlobDamaged)
            with pytest.raises(Unavailable):
                await listed(store)

        told(story)


class _Shared(S3Blobs):
    catalog: Catalog

    async def aclose(self) -> None:
        await super().aclose()
        if not OPENED:
            await self.catalog.aclose()

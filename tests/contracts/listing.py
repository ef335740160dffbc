"""What `ports.ListedStore` promises beyond `ports.BlobStore`, run against every store."""

from __future__ import annotations

import time
from uuid import UUID

from ociserver.errors import BlobDamaged, Unavailable
from ociserver.ports import ListedObject, ListedStore
from tests.contracts.blobs import (
    KEY,
    OTHER,
    BlobStoreContract,
    Make,
    content,
    told,
    written,
)

KEYS = sorted([KEY, OTHER, "ff" * 16, UUID(int=2**127).hex])


async def listed(store: ListedStore) -> list[ListedObject]:
    return [each async for each in store.objects()]


class ListingContract(BlobStoreContract):
    def test_whole_objects_are_listed_by_key_with_size_and_age(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            assert await listed(store) == []
            for number, key in enumerate(reversed(KEYS)):
                await written(store, b"x" * number, key)
            found = await listed(make())
            assert [(each.key, each.size) for each in found] == list(
                zip(KEYS, (3, 2, 1, 0), strict=True)
            )
            assert all(abs(each.modified_at - time.time()) < 60 for each in found)
            assert all(each.mark is None and each.name == each.key for each in found)

        told(story)

    def test_what_is_removed_is_gone_and_nothing_else(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            for key in KEYS:
                await written(store, b"cargo", key)
            found = await listed(store)
            await store.remove(found[1:3])
            await store.remove(found[1:3])
            await store.remove([])
            assert [each.key for each in await listed(make())] == [KEYS[0], KEYS[3]]
            assert await content(store, 5, KEYS[0]) == b"cargo"

        told(story)

    def test_an_object_that_is_gone_or_of_another_size_is_damage(self, make: Make) -> None:
        async def story() -> None:
            store = make()
            await written(store, b"cargo")
            await written(store, b"cargo", OTHER)
            for size in (4, 6):
                await self.damaged(store, KEY, size)
            await store.remove([each for each in await listed(store) if each.key == KEY])
            await self.damaged(store, KEY, 5)

        told(story)

    async def damaged(self, store: ListedStore, key: str, size: int) -> None:
        try:
            (await store.open(key, size)).close()
        except BlobDamaged:
            return
        except Unavailable as error:
            raise AssertionError(error) from error
        raise AssertionError("it was opened")

"""What `ports.ScrubRows` promises, and what quarantine means to other rows, on both databases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ociserver.content import parse_manifest
from ociserver.errors import BlobQuarantined
from ociserver.ports import Catalog, CatalogTx, CheckedBlob, StoredObject
from ociserver.refs import parse_name
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog
from tests.contracts.catalog import (
    OTHER,
    REPO,
    Make,
    after,
    begun,
    committed,
    described,
    digest,
    key,
    put,
    settled,
    spare,
    told,
    until,
)

THIRD = parse_name("third")


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    url = ""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
        asyncio.run(migrate(url))

    async def make() -> Catalog:
        return PostgresCatalog(url) if url else SqliteCatalog(tmp_path / "catalog.db")

    return make


def keys(found: list[CheckedBlob] | tuple[CheckedBlob, ...]) -> list[str]:
    return [each.key for each in found]


def unchecked(
    tx: CatalogTx, before: float = 99.0, limit: int = 10, skip: tuple[str, ...] = ()
) -> list[str]:
    return [each.key for each in tx.unchecked(before, limit, skip)]


def is_quarantined(tx: CatalogTx, number: int, repository: str = REPO) -> bool:
    try:
        assert tx.blob(parse_name(repository), digest(number)) is not None
    except BlobQuarantined:
        return True
    return False


def test_blobs_never_checked_come_first_then_those_checked_longest_ago(make: Make) -> None:
    def change(tx: CatalogTx) -> None:
        for number in range(1, 6):
            committed(tx, number)
        tx.record_checks([key(1)], 30.0)
        tx.record_checks([key(4), key(9)], 10.0)
        tx.record_checks([key(3)], 20.0)

    def look(tx: CatalogTx) -> None:
        assert unchecked(tx) == [key(2), key(5), key(4), key(3), key(1)]
        assert unchecked(tx, 20.5) == [key(2), key(5), key(4), key(3)]
        assert unchecked(tx, limit=3) == [key(2), key(5), key(4)]
        assert unchecked(tx, limit=2, skip=(key(2), key(4))) == [key(5), key(3)]

    after(make, change, look)


def test_a_blob_is_checked_against_all_its_digests(make: Make) -> None:
    def change(tx: CatalogTx) -> None:
        committed(tx, 7, digest(7), digest(7, "sha512"))

    expected = CheckedBlob(
        key=key(7), size=7, digests=[digest(7), digest(7, "sha512")], quarantined=False
    )
    assert after(make, change, lambda tx: tx.unchecked(9.0, 9, [])) == [expected]


def test_a_quarantined_blob_is_unknown_to_readers_mounts_and_manifests(make: Make) -> None:
    view = parse_manifest(
        json.dumps({"blobs": [described(digest(1)), described(digest(2))]}).encode(), "x/y"
    )

    def change(tx: CatalogTx) -> None:
        for number in (1, 2):
            committed(tx, number)
            assert tx.mount(OTHER, digest(number), REPO, 5.0)
        assert tx.linking(key(1)) == [REPO, OTHER]
        assert tx.quarantine(key(1), 50.0)
        assert tx.quarantine(key(1), 60.0)
        assert not tx.quarantine(key(9), 50.0)

    def look(tx: CatalogTx) -> None:
        assert [is_quarantined(tx, number) for number in (1, 2)] == [True, False]
        assert is_quarantined(tx, 1, OTHER)
        assert tx.blob(THIRD, digest(1)) is None
        assert tx.missing(REPO, view) == [digest(1)]
        assert unchecked(tx) == [key(2)]
        assert keys(list(tx.quarantined(60.5, 9, []))) == [key(1)]
        assert list(tx.quarantined(60.0, 9, [])) == list(tx.quarantined(99.0, 9, [key(1)])) == []

    def mounted(tx: CatalogTx) -> list[bool]:
        holding = [bool(tx.holding(digest(number), 9)) for number in (1, 2)]
        return [*holding, *(tx.mount(THIRD, digest(number), REPO, 6.0) for number in (1, 2))]

    after(make, change, look)

    async def story(catalog: Catalog) -> list[bool]:
        return await catalog.write(mounted)

    assert told(make, story) == [False, True, False, True]


def test_a_lifted_quarantine_leaves_the_blob_as_it_was(make: Make) -> None:
    def change(tx: CatalogTx) -> None:
        committed(tx, 1)
        assert not tx.lift_quarantine(key(1), 3.0)
        tx.quarantine(key(1), 5.0)
        assert tx.lift_quarantine(key(1), 7.0)
        assert not tx.lift_quarantine(key(9), 7.0)

    def look(tx: CatalogTx) -> None:
        assert not is_quarantined(tx, 1)
        assert (unchecked(tx, 7.0), unchecked(tx, 7.5)) == ([], [key(1)])

    after(make, change, look)


def test_the_next_push_takes_the_place_of_what_is_quarantined_for_whoever_links_it(
    make: Make,
) -> None:
    def change(tx: CatalogTx) -> None:
        committed(tx, 1, digest(7), digest(7, "sha512"))
        assert tx.mount(OTHER, digest(7), REPO, 5.0)
        tx.quarantine(key(1), 50.0)
        assert committed(tx, 3, digest(7), repository=THIRD) == key(3)
        assert not tx.quarantine(key(1), 51.0)
        assert not tx.lift_quarantine(key(1), 51.0)
        assert spare(tx, 999.0) == [key(1)]

    def look(tx: CatalogTx) -> None:
        for repository, linked_at in ((REPO, 101.0), (OTHER, 5.0), (THIRD, 103.0)):
            for name in (digest(7), digest(7, "sha512")):
                found = tx.blob(repository, name)
                assert found is not None
                assert (found.key, found.size, found.linked_at) == (key(3), 3, linked_at)
        assert unchecked(tx) == [key(3)]
        assert list(tx.quarantined(999.0, 9, [])) == []

    after(make, change, look)


@pytest.mark.parametrize("damaged", [(1,), (2,), (1, 2)])
def test_bytes_held_twice_are_healed_wherever_they_are_damaged(
    make: Make, damaged: tuple[int, ...]
) -> None:
    def change(tx: CatalogTx) -> None:
        committed(tx, 1, digest(7))
        committed(tx, 2, digest(7, "sha512"), repository=OTHER)
        tx.mount(OTHER, digest(7), REPO, 5.0)
        for number in damaged:
            tx.quarantine(key(number), 50.0)
        committed(tx, 3, digest(7), digest(7, "sha512"), repository=THIRD)

    def look(tx: CatalogTx) -> None:
        healed = {key(1), key(2), key(3)} - {key(each) for each in damaged}
        for repository in (OTHER, THIRD):
            for name in (digest(7), digest(7, "sha512")):
                found = tx.blob(repository, name)
                assert found is not None
                assert found.key in healed
        assert tx.blob(REPO, digest(7)) is not None
        assert list(tx.quarantined(999.0, 9, [])) == []

    after(make, change, look)


def test_every_worker_hears_of_what_is_quarantined_and_healed(make: Make) -> None:
    async def story(one: Catalog, two: Catalog) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1, digest(7), repository=OTHER)
            tx.mount(REPO, digest(7), OTHER, 5.0)

        await one.write(change)
        changes = (
            lambda tx: tx.quarantine(key(1), 50.0),
            lambda tx: tx.lift_quarantine(key(1), 50.0),
            lambda tx: tx.quarantine(key(1), 50.0),
            lambda tx: committed(tx, 3, digest(7), repository=THIRD),
        )
        for each in changes:
            before = [await settled(catalog) for catalog in (one, two)]
            assert await one.write(each)
            assert one.generation(REPO) != before[0]
            await until(lambda b=before: two.generation(REPO) != b[1])  # type: ignore[misc]

    told(make, story, workers=2)


def test_blobs_are_paged_by_key(make: Make) -> None:
    def change(tx: CatalogTx) -> None:
        for number in (5, 3, 1, 4, 2):
            committed(tx, number)
        tx.quarantine(key(3), 5.0)

    def look(tx: CatalogTx) -> None:
        found = tx.blobs_between("", None, 10)
        assert [(each.key, each.size) for each in found] == [(key(n), n) for n in range(1, 6)]
        assert [each.quarantined for each in found] == [n == 3 for n in range(1, 6)]
        assert keys(list(tx.blobs_between(key(2), key(4), 10))) == [key(3), key(4)]
        assert keys(list(tx.blobs_between(key(2), None, 2))) == [key(3), key(4)]
        assert list(tx.blobs_between(key(5), None, 2)) == []

    after(make, change, look)


def test_every_name_on_record_is_found_among_those_asked_for(make: Make) -> None:
    def change(tx: CatalogTx) -> None:
        committed(tx, 1)
        begun(tx, 2)
        assert tx.keep_store_state(key(2), b"parts")
        discarded = begun(tx, 3)
        tx.keep_store_state(key(3), b"more parts")
        assert tx.discard_upload(discarded, 5.0)
        put(tx, 4)

    def look(tx: CatalogTx) -> None:
        asked = [key(number) for number in range(1, 1001)]
        assert tx.blob_keys(asked) == {key(1)}
        assert sorted(tx.unfinished(asked), key=lambda each: each.key) == [
            StoredObject(key=key(2), state=b"parts"),
            StoredObject(key=key(3), state=b"more parts"),
        ]
        assert not tx.blob_keys([])
        assert not tx.unfinished([])

    after(make, change, look)

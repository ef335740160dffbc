"""What `ports.Catalog` promises to a collection, and to a push beside one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest

from ociserver.ports import Catalog, CatalogTx
from ociserver.refs import Digest, RepositoryName, parse_name, parse_tag
from ociserver.retention import HeldBlob, HeldLink, HeldManifest, Horizon
from tests.contracts.catalog import (
    OTHER,
    REPO,
    V1,
    V2,
    Make,
    after,
    children,
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

_DAY = 86_400.0


def later(*, untagged: bool = True) -> Horizon:
    """Tomorrow, when all that was put here is old."""
    then = time.time() + _DAY
    return Horizon(now=then, linked_before=then, untagged_before=then if untagged else -1.0)


def manifests(tx: CatalogTx, horizon: Horizon | None = None) -> Sequence[HeldManifest]:
    return tx.held_manifests(horizon or later(), None, 1000)


def links(tx: CatalogTx, horizon: Horizon | None = None) -> Sequence[HeldLink]:
    return tx.held_links(horizon or later(), None, 1000)


def blobs(tx: CatalogTx, horizon: Horizon | None = None) -> Sequence[HeldBlob]:
    return tx.held_blobs(horizon or later(), None, 1000)


def drop_all(tx: CatalogTx) -> list[int]:
    """What a collection does, once, with everything there is: manifests, links, blobs taken."""
    return [
        tx.drop_manifests([each.place for each in manifests(tx)], later()),
        tx.drop_links([each.place for each in links(tx)], later()),
        len(tx.drop_blobs([each.place for each in blobs(tx)], 7.0)),
    ]


def left(tx: CatalogTx) -> set[Digest]:
    return {each.digest for each in manifests(tx)}


class CollectionContract:
    """A suite has a fixture `make` of its own."""

    # -- manifests

    def test_a_manifest_without_tag_pin_parent_and_subject_is_dropped(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in (1, 2, 3, 4):
                put(tx, number)
            put(tx, 5, manifests=[described(digest(3))])
            put(tx, 6, subject=described(digest(1)))
            put(tx, 7, subject=described(digest(999)))
            tx.move_tag(REPO, V1, digest(1))
            tx.pin(REPO, digest(2), "models")
            tx.pin(REPO, digest(2), "models")
            tx.pin(OTHER, digest(4), "models")
            assert drop_all(tx)[0] == 3

        assert after(make, change, left) == {digest(number) for number in (1, 2, 3, 6)}

    def test_what_a_dropped_manifest_named_is_free(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1)
            put(tx, 5, blobs=[described(digest(1))])
            put(tx, 6, manifests=[described(digest(5))])
            put(tx, 7, subject=described(digest(5)))
            assert [drop_all(tx) for _ in range(4)] == [
                [1, 0, 0],
                [1, 1, 1],
                [1, 0, 0],
                [0, 0, 0],
            ]

        assert after(make, change, left) == set()

    def test_a_young_manifest_stays_and_so_does_what_it_keeps(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            put(tx, 1)
            put(tx, 2, manifests=[described(digest(1))])
            horizon = Horizon(now=0.0, linked_before=0.0, untagged_before=time.time() - 60)
            found = manifests(tx, horizon)
            assert [each.goes(horizon) for each in found] == [False, False]
            assert found[0].kept_by == digest(2)
            assert not tx.drop_manifests([each.place for each in found], horizon)

        assert len(after(make, change, left)) == 2

    def test_where_untagged_manifests_are_kept_none_is_dropped(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            put(tx, 1)
            horizon = later(untagged=False)
            places = [each.place for each in manifests(tx, horizon)]
            assert not tx.drop_manifests(places, horizon)
            assert not tx.drop_manifests(places, horizon, with_keepers=True)

        assert after(make, change, left) == {digest(1)}

    def test_an_index_that_refers_to_its_own_child_is_dropped_with_it(self, make: Make) -> None:
        def ring(tx: CatalogTx, first: int) -> None:
            child, index = digest(first), first + 1
            put(tx, first)
            put(tx, index, manifests=[described(child)], subject=described(child))

        def change(tx: CatalogTx) -> None:
            for first in (1, 3, 5):
                ring(tx, first)
            tx.move_tag(REPO, V1, digest(3))
            put(tx, 9, manifests=[described(digest(5))])
            tx.pin(REPO, digest(9), "models")
            places = [each.place for each in manifests(tx)]
            assert tx.drop_manifests(places, later()) == 0
            assert tx.drop_manifests(places, later(), with_keepers=True) == 2

        assert after(make, change, left) == {digest(number) for number in (3, 4, 5, 6, 9)}

    def test_what_keeps_a_manifest_is_told_through_any_number_of_others(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            put(tx, 1)
            for parent, child in ((2, 1), (3, 2), (4, 1)):
                put(tx, parent, manifests=[described(digest(child))])
            put(tx, 5, subject=described(digest(1)))
            put(tx, 6, subject=described(digest(5)))
            put(tx, 7, OTHER)
            tx.move_tag(REPO, V1, digest(3))

        def look(tx: CatalogTx) -> list[Digest | None]:
            found = manifests(tx)
            assert [each.repository for each in found] == [REPO] * 6 + [OTHER]
            assert [each.tag for each in found] == [None, None, V1, None, None, None, None]
            return [each.kept_by for each in found]

        kept = [digest(2), digest(3), None, None, digest(1), digest(5), None]
        assert after(make, change, look) == kept

    # -- ages

    def test_a_manifest_s_age_begins_anew_with_each_push_and_each_loss(self, make: Make) -> None:
        def touches(tx: CatalogTx) -> None:
            put(tx, 1)
            tx.move_tag(REPO, V1, digest(2))
            tx.delete_tag(REPO, V2)
            tx.unpin(REPO, digest(4), "models", time.time())
            assert tx.touch_manifest(REPO, digest(5), time.time())
            assert not tx.touch_manifest(REPO, digest(99), time.time())
            assert not tx.touch_manifest(OTHER, digest(5), time.time())

        async def story(catalog: Catalog) -> list[bool]:
            def change(tx: CatalogTx) -> None:
                for number in range(1, 7):
                    put(tx, number)
                tx.move_tag(REPO, V1, digest(6))
                tx.move_tag(REPO, V2, digest(3))
                tx.pin(REPO, digest(4), "models")

            await catalog.write(change)
            began = await catalog.read(manifests)
            await asyncio.sleep(1.1)  # touched more often than once a second, it would not be
            await catalog.write(touches)
            ended = await catalog.read(manifests)
            return [
                late.touched_at > early.touched_at for early, late in zip(began, ended, strict=True)
            ]

        # Number 2 gained a tag, which is no loss; 6 lost it.
        assert told(make, story) == [True, False, True, True, True, True]

    def test_a_link_s_grace_begins_anew_when_it_is_asked_for(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1)
            assert tx.renew_link(REPO, digest(1), 500.0)
            assert tx.renew_link(REPO, digest(1), 500.5)
            assert tx.renew_link(REPO, digest(1), 400.0)
            assert not tx.renew_link(REPO, digest(2), 500.0)
            assert not tx.renew_link(OTHER, digest(1), 500.0)

        def look(tx: CatalogTx) -> float | None:
            found = tx.blob(REPO, digest(1))
            return found.linked_at if found else None

        assert after(make, change, look) == 500.0

    # -- links and blobs

    def test_a_link_stays_while_a_manifest_names_its_blob_by_any_digest(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1, digest(1), digest(1, "sha512"))
            for number in (2, 3):
                committed(tx, number)
            tx.mount(OTHER, digest(1), REPO, 5.0)
            put(tx, 9, blobs=[described(digest(1, "sha512"))])
            put(tx, 9, OTHER, blobs=[described(digest(2))])
            tx.move_tag(REPO, V1, digest(9))
            tx.move_tag(OTHER, V1, digest(9))
            assert [each.goes(later()) for each in links(tx)] == [False, True, True, True]
            assert drop_all(tx) == [0, 3, 2]

        def look(tx: CatalogTx) -> list[tuple[RepositoryName, Digest | None]]:
            assert tx.blob(REPO, digest(1)) is not None
            assert tx.blob(OTHER, digest(1)) is None
            return [(each.repository, each.kept_by) for each in links(tx)]

        assert after(make, change, look) == [(REPO, digest(9))]

    def test_a_link_within_its_grace_stays(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in (1, 2, 3):
                committed(tx, number)  # linked at 101, 102, 103
            horizon = Horizon(now=200.0, linked_before=102.0, untagged_before=-1.0)
            assert [each.goes(horizon) for each in links(tx, horizon)] == [True, False, False]
            kept = [each.kept_by for each in blobs(tx, horizon)]
            assert kept == [None, REPO, REPO]
            assert tx.drop_links([each.place for each in links(tx)], horizon) == 1

        assert after(make, change, lambda tx: len(links(tx))) == 2

    def test_a_blob_nobody_links_is_discarded_and_pushed_again_it_is_new(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1, digest(1), digest(1, "sha512"))
            committed(tx, 2)
            tx.unlink_blob(REPO, digest(1))
            assert [each.keeper for each in blobs(tx)] == [None, REPO]
            assert tx.drop_blobs([each.place for each in blobs(tx)], since=7.0) == [1]
            assert committed(tx, 5, digest(1)) == key(5)

        def look(tx: CatalogTx) -> list[str]:
            assert spare(tx, 7.0) == []
            assert not tx.holding(digest(1, "sha512"), 9)
            return spare(tx, 7.5)

        assert after(make, change, look) == [key(1)]

    def test_pages_give_each_row_once_in_every_repository(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in range(1, 8):
                committed(tx, number)
                for repository in (REPO, OTHER, parse_name("third")):
                    put(tx, number, repository, blobs=children(2, number))
                    tx.mount(repository, digest(number), REPO, 5.0)

        def look(tx: CatalogTx) -> list[int]:
            counts = []
            for page in (tx.held_manifests, tx.held_links, tx.held_blobs):
                places = []
                last = None
                while found := page(later(), last, 4):
                    places += [each.place for each in found]
                    last = places[-1]
                assert all(one < two for one, two in pairwise(places))
                counts.append(len(places))
            return counts

        assert after(make, change, look) == [21, 21, 7]

    # -- beside others

    def test_what_a_collection_takes_is_told_to_those_who_keep_it(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            def change(tx: CatalogTx) -> None:
                committed(tx, 1)
                put(tx, 1)

            await one.write(change)
            for take in (
                lambda tx: tx.drop_manifests([each.place for each in manifests(tx)], later()),
                lambda tx: tx.drop_links([each.place for each in links(tx)], later()),
            ):
                before = [await settled(each) for each in (one, two)]
                assert await one.write(take) == 1
                assert one.generation(REPO) != before[0]
                await until(lambda b=before: two.generation(REPO) != b[1])  # type: ignore[misc]

        told(make, story, workers=2)

    def test_a_push_beside_a_collection_is_whole_whichever_came_first(self, make: Make) -> None:
        async def story(pushing: Catalog, collecting: Catalog) -> None:
            def push(tx: CatalogTx, number: int, upload: int) -> None:
                committed(tx, upload, digest(number))
                put(tx, upload, blobs=[described(digest(number))])
                tx.move_tag(REPO, parse_tag(f"v{number}"), digest(upload))

            def abandon(tx: CatalogTx) -> None:
                for number in range(1, 31):
                    committed(tx, number)

            await pushing.write(abandon)
            await asyncio.gather(
                *(
                    pushing.write(partial(push, number=number, upload=number + 100))
                    for number in range(1, 31)
                ),
                *(collecting.write(drop_all) for _ in range(10)),
            )
            held = await pushing.read(lambda tx: [tx.blob(REPO, digest(n)) for n in range(1, 31)])
            discarded = await pushing.read(lambda tx: spare(tx, 1e12, 1000))
            for each in held:
                assert each is not None
                assert each.key not in discarded

        told(make, story, workers=2)

    @pytest.mark.parametrize("push_first", [True, False])
    def test_a_push_that_crosses_the_end_of_its_blob_is_whole(
        self, make: Make, push_first: bool
    ) -> None:
        def unlinked(tx: CatalogTx) -> None:
            committed(tx, 1)
            tx.unlink_blob(REPO, digest(1))

        def push(tx: CatalogTx) -> None:
            committed(tx, 2, digest(1))

        def end(tx: CatalogTx) -> None:
            tx.drop_blobs([each.place for each in blobs(tx)], 7.0)

        async def story(one: Catalog, two: Catalog) -> None:
            await one.write(unlinked)
            began, go_on = threading.Event(), threading.Event()
            first, second = (push, end) if push_first else (end, push)

            def slowly(tx: CatalogTx) -> None:
                first(tx)
                began.set()
                assert go_on.wait(10)

            # Its loop is its own: on some adapters `slowly` runs there, and it waits.
            early = asyncio.create_task(
                asyncio.to_thread(told, make, lambda each: each.write(slowly))
            )
            assert await asyncio.to_thread(began.wait, 10)
            late = asyncio.create_task(two.write(second))
            await asyncio.sleep(0.3)
            go_on.set()
            await asyncio.gather(early, late)
            held = await one.read(lambda tx: tx.blob(REPO, digest(1)))
            assert held is not None
            assert held.key == key(1 if push_first else 2)
            discarded = await one.read(lambda tx: spare(tx, 1e12))
            assert discarded == [key(2 if push_first else 1)]

        told(make, story, workers=2)

"""What `ports.Catalog` promises, run against every catalog. A suite gives `make`: each call opens
the same catalog once more, as another worker process would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import pytest

from ociserver.content import parse_manifest
from ociserver.errors import ManifestInvalid
from ociserver.ports import (
    BESIDE,
    Catalog,
    CatalogTx,
    Committed,
    ReferrerPage,
    StoredManifest,
    StoredObject,
)
from ociserver.refs import Digest, Reference, RepositoryName, Tag, parse_name, parse_tag
from ociserver.upload import UploadSession

T = TypeVar("T")
Make = Callable[[], Awaitable[Catalog]]
Work = Callable[[CatalogTx], T]

REPO, OTHER = parse_name("a/b"), parse_name("c")
V1, V2 = parse_tag("v1"), parse_tag("v2")


def told(make: Make, story: Callable[..., Awaitable[T]], workers: int = 1) -> T:
    async def main() -> T:
        catalogs = [await make() for _ in range(workers)]
        try:
            return await story(*catalogs)
        finally:
            for catalog in catalogs:
                await catalog.aclose()

    return asyncio.run(main())


def after(make: Make, change: Work[object], look: Work[T]) -> T:
    async def story(one: Catalog, two: Catalog) -> T:
        await one.write(change)
        return await two.read(look)

    return told(make, story, workers=2)


def digest(number: int, algorithm: str = "sha256") -> Digest:
    return Digest.parse(f"{algorithm}:{number:0{64 if algorithm == 'sha256' else 128}x}")


def described(each: Digest) -> dict[str, Any]:
    return {"mediaType": "x/y", "digest": each, "size": 5}


def put(
    tx: CatalogTx, number: int, repository: RepositoryName = REPO, **fields: Any
) -> StoredManifest:
    """Put a manifest of that number, of a type that demands nothing; a caller adds the fields."""
    body = json.dumps({"mediaType": "x/manifest", **fields}).encode()
    view = parse_manifest(body, None)
    stored = StoredManifest(digest=digest(number), media_type=view.media_type, body=body)
    tx.put_manifest(repository, stored, view)
    return stored


def begun(tx: CatalogTx, number: int, repository: RepositoryName = REPO) -> UploadSession:
    session = UploadSession(id=UUID(int=number).hex, repository=repository, algorithm="sha256")
    tx.begin_upload(session, now=float(number))
    return session


def committed(
    tx: CatalogTx, number: int, *names: Digest, repository: RepositoryName = REPO
) -> str | None:
    session = replace(begun(tx, number, repository), offset=number)
    done = tx.commit_upload(session, names or [digest(number)], now=100.0 + number)
    return done.key if done else None


def spare(tx: CatalogTx, before: float, limit: int = 10) -> list[str]:
    """The keys of discarded objects."""
    return sorted(each.key for each in tx.discarded(before, limit))


def key(number: int) -> str:
    return UUID(int=number).hex


def referring(tx: CatalogTx, page: tuple[str, int, int], kind: str | None = None) -> list[str]:
    last, limit, max_bytes = page
    asked = ReferrerPage(last=last, limit=limit, max_bytes=max_bytes)
    return [each for each, _ in tx.referrers(REPO, digest(999), kind, asked)]


def move(tx: CatalogTx, tag: Tag) -> None:
    tx.move_tag(REPO, tag, put(tx, 1).digest)


async def settled(catalog: Catalog) -> int:
    """The generation, once it stands: a replica that just came up has not heard anything yet."""
    await until(lambda: catalog.generation(REPO) == catalog.generation(REPO))
    return catalog.generation(REPO)


async def until(it_is_so: Callable[[], bool]) -> None:
    """Wait for what another worker causes: there is nothing here to be woken by."""
    async with asyncio.timeout(20):
        while not it_is_so():  # noqa: ASYNC110 - as the docstring says
            await asyncio.sleep(0.001)


def children(count: int, first: int = 1000) -> list[dict[str, Any]]:
    return [described(digest(first + index)) for index in range(count)]


class CatalogContract:
    """A suite has a fixture `make` of its own."""

    # -- manifests, edges, tags

    def test_a_manifest_is_found_by_digest_and_tag_byte_for_byte(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            tx.move_tag(REPO, V1, put(tx, 1, odd=" \u2028é").digest)

        def look(tx: CatalogTx) -> list[StoredManifest | None]:
            asked: list[tuple[RepositoryName, Reference]]
            asked = [(REPO, digest(1)), (REPO, V1), (REPO, V2), (REPO, digest(2)), (OTHER, V1)]
            return [tx.manifest(repository, reference) for repository, reference in asked]

        first, *others = after(make, change, look)
        assert first is not None
        assert (first.digest, first.media_type) == (digest(1), "x/manifest")
        assert json.loads(first.body)["odd"] == " \u2028é"
        assert others == [first, None, None, None]

    def test_the_same_bytes_again_as_another_type_are_refused(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            first = put(tx, 1, blobs=children(2), subject=described(digest(999)))
            assert put(tx, 1, blobs=children(2), subject=described(digest(999))) == first
            view = parse_manifest(b"{}", "x/other")
            with pytest.raises(ManifestInvalid):
                tx.put_manifest(REPO, replace(first, media_type="x/other"), view)

        def look(tx: CatalogTx) -> tuple[StoredManifest | None, list[str]]:
            return tx.manifest(REPO, digest(1)), referring(tx, ("", 10, 10**6))

        kept, listed = after(make, change, look)
        assert kept is not None
        assert kept.media_type == "x/manifest"
        assert listed == [digest(1)]

    def test_a_deleted_manifest_takes_its_tags_and_its_edges_along(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 7)
            for repository in (REPO, OTHER):
                put(tx, 2, repository)
                put(tx, 1, repository, blobs=[described(digest(7))], subject=described(digest(999)))
                tx.move_tag(repository, V1, digest(1))
            tx.move_tag(REPO, V2, digest(2))
            assert [tx.delete_manifest(REPO, digest(1)) for _ in range(2)] == [True, False]

        def look(tx: CatalogTx) -> None:
            assert tx.tags(REPO, "", 10) == ["v2"]
            assert tx.manifest(REPO, digest(1)) is None
            assert tx.needed_by(REPO, digest(7)) is None
            assert referring(tx, ("", 10, 10**6)) == []
            assert tx.manifest(OTHER, V1) is not None

        after(make, change, look)

    def test_a_moved_tag_leaves_the_old_manifest_and_a_deleted_one_too(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            put(tx, 1)
            put(tx, 2)
            for tag, to in ((V1, 1), (V1, 2), (V2, 2)):
                tx.move_tag(REPO, tag, digest(to))
            assert [tx.delete_tag(REPO, V2), tx.delete_tag(REPO, V2)] == [True, False]
            assert not tx.delete_tag(OTHER, V1)

        def look(tx: CatalogTx) -> None:
            tagged = tx.manifest(REPO, V1)
            assert tagged is not None
            assert tagged.digest == digest(2)
            assert tx.manifest(REPO, digest(1)) is not None
            assert tx.tags(REPO, "", 10) == ["v1"]

        after(make, change, look)

    def test_tags_are_listed_in_byte_order_after_the_last(self, make: Make) -> None:
        names = ["Z", "a", "_", "0", "a.b", "a-b", "a_b", "B", "ab", "10", "9", "latest"]

        def change(tx: CatalogTx) -> None:
            put(tx, 1)
            for name in names:
                tx.move_tag(REPO, parse_tag(name), digest(1))

        def look(tx: CatalogTx) -> list[Sequence[str]]:
            pages = (("", 100), ("", 3), ("Z", 2), ("aa", 2), ("latest", 5), ("", 0))
            return [tx.tags(REPO, last, limit) for last, limit in pages]

        ordered = sorted(names, key=str.encode)
        found = after(make, change, look)
        assert found == [ordered, ordered[:3], ["_", "a"], ["ab", "latest"], [], []]

    def test_only_repositories_with_a_manifest_are_listed_but_all_exist(self, make: Make) -> None:
        names = [parse_name(each) for each in ("z", "a/b", "a", "a-b", "a.b", "a/b/c", "0")]

        def change(tx: CatalogTx) -> None:
            for name in names:
                put(tx, 1, name)
            committed(tx, 1, repository=parse_name("blobs/only"))
            tx.delete_manifest(parse_name("z"), digest(1))

        def look(tx: CatalogTx) -> None:
            listed = sorted(names, key=str.encode)[:-1]
            assert tx.repositories("", 100) == listed
            assert tx.repositories("a-b", 2) == ["a.b", "a/b"]
            asked = [parse_name(each) for each in ("z", "blobs/only", "a", "absent")]
            assert [tx.repository_exists(each) for each in asked] == [True, True, True, False]

        after(make, change, look)

    def test_referrers_of_what_need_not_be_there_are_listed(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            subject = described(digest(999))
            for number, kind in ((3, "k/one"), (1, "k/two"), (2, "k/one")):
                put(tx, number, subject=subject, artifactType=kind, annotations={"n": "é"})
            put(tx, 4, subject=described(digest(998)))
            put(tx, 5, OTHER, subject=subject)

        def look(tx: CatalogTx) -> None:
            all_of_them = ("", 10, 10**6)
            assert referring(tx, all_of_them) == [digest(1), digest(2), digest(3)]
            assert referring(tx, all_of_them, "k/one") == [digest(2), digest(3)]
            assert referring(tx, all_of_them, "k/none") == []
            _, text = tx.referrers(
                REPO, digest(999), None, ReferrerPage(last="", limit=1, max_bytes=99)
            )[0]
            assert json.loads(text)["annotations"] == {"n": "é"}

        after(make, change, look)

    @pytest.mark.parametrize(
        ("limit", "max_bytes"), [(1, 10**6), (3, 10**6), (100, 1), (100, 700), (2, 900)]
    )
    def test_pages_of_referrers_are_bounded_and_give_each_once(
        self, make: Make, limit: int, max_bytes: int
    ) -> None:
        def change(tx: CatalogTx) -> None:
            for number in range(1, 11):
                annotations = {"n": "x" * 50 * number}
                put(tx, number, subject=described(digest(999)), annotations=annotations)

        def look(tx: CatalogTx) -> list[str]:
            seen: list[str] = []
            more = True
            while more:
                page = ReferrerPage(last=(seen or [""])[-1], limit=limit, max_bytes=max_bytes)
                found = tx.referrers(REPO, digest(999), None, page)
                whole = [each for each, text in found if text]
                more = len(found) > len(whole)
                assert 1 <= len(whole) <= limit
                assert len(whole) == 1 or sum(len(text) for _, text in found) <= max_bytes
                seen += whole
            return seen

        assert after(make, change, look) == [digest(number) for number in range(1, 11)]

    # -- blobs

    def test_a_blob_is_seen_only_through_a_repository_that_links_it(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1)
            assert not tx.mount(OTHER, digest(2), REPO, 5.0)
            assert not tx.mount(OTHER, digest(1), parse_name("absent"), 5.0)
            assert not tx.repository_exists(OTHER)
            assert tx.blob(OTHER, digest(1)) is None
            assert tx.mount(OTHER, digest(1), REPO, 5.0)
            assert tx.mount(OTHER, digest(1), REPO, 5.0)
            assert tx.mount(parse_name("third"), digest(1), OTHER, 5.0)
            assert tx.holding(digest(1), 9) == [REPO, OTHER, "third"]
            assert tx.holding(digest(1), 2) == [REPO, OTHER]
            assert tx.holding(digest(2), 9) == []
            tx.unlink_blob(REPO, digest(1))
            tx.unlink_blob(REPO, digest(1))
            assert not tx.mount(REPO, digest(1), REPO, 5.0)

        def look(tx: CatalogTx) -> list[tuple[str, int] | None]:
            asked = [tx.blob(each, digest(1)) for each in (REPO, OTHER, parse_name("third"))]
            return [(one.key, one.size) if one else None for one in asked]

        assert after(make, change, look) == [None, (key(1), 1), (key(1), 1)]

    def test_a_blob_is_needed_by_whoever_names_it_in_any_algorithm(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1, digest(1), digest(1, "sha512"))
            committed(tx, 2)
            put(tx, 5, blobs=[described(digest(1))])

        def look(tx: CatalogTx) -> None:
            for name in (digest(1), digest(1, "sha512")):
                assert tx.needed_by(REPO, name) == digest(5)
                assert tx.needed_by(OTHER, name) is None
            assert tx.needed_by(REPO, digest(2)) is None

        after(make, change, look)

    def test_what_the_repository_does_not_hold_is_missing(self, make: Make) -> None:
        named = {"blobs": children(3, first=1), "manifests": children(2, first=5)}

        def change(tx: CatalogTx) -> None:
            committed(tx, 1)
            committed(tx, 2, repository=OTHER)
            put(tx, 5)
            put(tx, 6, OTHER)

        def look(tx: CatalogTx) -> Sequence[Digest]:
            return tx.missing(REPO, parse_manifest(json.dumps(named).encode(), "x/y"))

        assert set(after(make, change, look)) == {digest(2), digest(3), digest(6)}

    @pytest.mark.parametrize(("blobs", "manifests"), [(2500, 0), (60, 2500), (99, 1), (50, 60)])
    def test_at_most_a_hundred_are_named_missing(
        self, make: Make, blobs: int, manifests: int
    ) -> None:
        named = {"blobs": children(blobs), "manifests": children(manifests, first=9000)}
        view = parse_manifest(json.dumps(named).encode(), "x/y")
        found = after(make, lambda tx: put(tx, 1), lambda tx: tx.missing(REPO, view))
        assert len(set(found)) == len(found) == 100

    # -- uploads

    def test_an_upload_is_as_last_recorded_until_it_ends(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            moved = replace(begun(tx, 1), offset=7, hash_state=b"\0state", store_state=b"\0parts")
            assert tx.advance_upload(moved, 0, now=5.0)
            moved = replace(moved, offset=2**40)
            assert not tx.advance_upload(moved, 6, now=5.0)  # somebody else moved it
            assert tx.advance_upload(moved, 7, now=5.0)
            assert not tx.advance_upload(replace(moved, id=key(2)), 0, now=5.0)
            assert tx.upload(OTHER, key(1)) is None

        expected = UploadSession(
            id=key(1),
            repository=REPO,
            algorithm="sha256",
            offset=2**40,
            hash_state=b"\0state",
            store_state=b"\0parts",
        )
        assert after(make, change, lambda tx: tx.upload(REPO, key(1))) == expected

    def test_a_session_ends_once_whoever_ends_it(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            finished, cancelled = begun(tx, 1), begun(tx, 2)
            assert tx.keep_store_state(cancelled.id, b"parts")
            done = tx.commit_upload(finished, [digest(1)], 5.0)
            assert done == Committed(key=key(1), spare=None)
            own = StoredObject(key=key(2), state=b"parts")
            assert tx.discard_upload(cancelled, 5.0) == own
            assert tx.discarded_object(key(2)) == own
            assert tx.discarded_object(key(1)) is None
            for gone, names in ((finished, [digest(1)]), (cancelled, [digest(2)])):
                assert tx.upload(REPO, gone.id) is None
                assert tx.commit_upload(gone, names, 6.0) is None
                assert not tx.discard_upload(gone, 6.0)
                assert not tx.advance_upload(gone, 0, 6.0)
                assert not tx.keep_store_state(gone.id, b"")

        def look(tx: CatalogTx) -> None:
            assert tx.blob(REPO, digest(1)) is not None
            assert tx.blob(REPO, digest(2)) is None
            assert tx.discarded(9.0, 10) == [StoredObject(key=key(2), state=b"parts")]

        after(make, change, look)

    def test_the_same_bytes_again_are_the_first_s_key(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            assert committed(tx, 1, digest(7)) == key(1)
            assert committed(tx, 2, digest(7), repository=OTHER) == key(1)
            assert committed(tx, 3, digest(7), digest(7, "sha512")) == key(1)
            assert committed(tx, 4, digest(7, "sha512")) == key(1)

        def look(tx: CatalogTx) -> None:
            for repository in (REPO, OTHER):
                for name in (digest(7), digest(7, "sha512")):
                    found = tx.blob(repository, name)
                    assert found is not None
                    assert (found.key, found.size) == (key(1), 1)
            assert spare(tx, 999.0) == [key(2), key(3), key(4)]

        after(make, change, look)

    def test_what_may_lie_beside_a_blob_is_discarded_and_the_blob_is_not(self, make: Make) -> None:
        beside = StoredObject(key=key(1) + BESIDE, state=b"parts")
        spared = StoredObject(key=key(2), state=b"tails")

        def change(tx: CatalogTx) -> None:
            for number, state, expected in ((1, b"parts", beside), (2, b"tails", spared)):
                session = begun(tx, number)
                assert tx.keep_store_state(session.id, state)
                done = tx.commit_upload(session, [digest(7)], 5.0)
                assert done == Committed(key=key(1), spare=expected)

        assert after(make, change, lambda tx: tx.discarded(9.0, 10)) == [beside, spared]

    def test_bytes_held_twice_are_linked_under_every_digest_pushed(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            committed(tx, 1, digest(7))
            committed(tx, 2, digest(7, "sha512"))  # nobody could know that it is the same
            committed(tx, 3, digest(7), digest(7, "sha512"), repository=OTHER)

        def look(tx: CatalogTx) -> list[bool]:
            return [tx.blob(OTHER, digest(7, each)) is not None for each in ("sha256", "sha512")]

        assert after(make, change, look) == [True, True]

    def test_idle_sessions_expire_oldest_first_and_only_while_idle(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            sessions = {number: begun(tx, number) for number in (4, 2, 3, 1)}
            tx.advance_upload(sessions[1], 0, now=9.0)
            assert [each.id for each in tx.expired_uploads(4.0, 10)] == [key(2), key(3)]
            assert [each.id for each in tx.expired_uploads(99.0, 3)] == [key(2), key(3), key(4)]
            assert not tx.discard_upload(sessions[1], 10.0, idle_since=9.0)
            assert tx.discard_upload(sessions[2], 10.0, idle_since=9.0)

        def look(tx: CatalogTx) -> list[bool]:
            return [tx.upload(REPO, key(number)) is not None for number in (1, 2)]

        assert after(make, change, look) == [True, False]

    def test_a_discarded_key_is_named_until_it_is_forgotten(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            for number in range(1, 5):
                tx.discard_upload(begun(tx, number), now=float(number))
            assert spare(tx, 3.0) == [key(1), key(2)]
            assert spare(tx, 9.0, 3) == [key(1), key(2), key(3)]
            assert tx.forget_keys([key(1), key(3), key(77)]) == 2
            assert tx.forget_keys([]) == 0

        assert after(make, change, lambda tx: spare(tx, 9.0)) == [key(2), key(4)]

    # -- leases

    def test_a_lease_has_one_owner_until_it_is_dropped_or_ends(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            assert tx.take_lease("gc", "one", 1.0, 10.0)
            assert not tx.take_lease("gc", "two", 2.0, 99.0)
            assert tx.take_lease("other", "two", 2.0, 12.0)
            assert tx.take_lease("gc", "one", 9.0, 20.0)
            assert tx.lease_is_held("gc", 20.0)
            assert not tx.lease_is_held("gc", 20.5)
            tx.drop_lease("gc", "two")
            assert not tx.take_lease("gc", "two", 19.0, 30.0)
            assert tx.take_lease("gc", "two", 20.5, 30.0)
            assert not tx.take_lease("gc", "one", 21.0, 30.0)
            tx.drop_lease("gc", "two")
            assert not tx.lease_is_held("gc", 21.0)
            assert tx.take_lease("gc", "one", 21.0, 30.0)
            tx.drop_leases_ended(15.0)

        def look(tx: CatalogTx) -> list[bool]:
            return [tx.lease_is_held(name, 0.0) for name in ("gc", "other")]

        assert after(make, change, look) == [True, False]

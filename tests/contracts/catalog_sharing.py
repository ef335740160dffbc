"""What `ports.Catalog` promises to those who share one: transactions, workers, news of changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from ociserver.errors import BlobUnknown, Unavailable
from ociserver.ports import Catalog, CatalogTx, StoredManifest
from ociserver.refs import parse_tag
from tests.contracts.catalog import (
    REPO,
    V1,
    V2,
    CatalogContract,
    Make,
    Work,
    begun,
    committed,
    digest,
    key,
    move,
    put,
    settled,
    told,
    until,
)


class SharedCatalogContract(CatalogContract):
    @pytest.mark.parametrize("error", [BlobUnknown("refused"), LookupError("a mistake of ours")])
    def test_what_a_write_raised_undoes_it_and_only_it_among_fifty_others(
        self, make: Make, error: Exception
    ) -> None:
        async def story(catalog: Catalog, other: Catalog) -> None:
            def work(tx: CatalogTx, number: int) -> int:
                tx.move_tag(REPO, parse_tag(f"t{number:02}"), put(tx, number).digest)
                if number % 10 == 0:
                    raise error
                return number

            told = await asyncio.gather(
                *(catalog.write(partial(work, number=number)) for number in range(1, 52)),
                return_exceptions=True,
            )
            whole = [number for number in range(1, 52) if number % 10]
            assert told == [number if number in whole else error for number in range(1, 52)]
            tags = await other.read(lambda tx: tx.tags(REPO, "", 99))
            assert tags == [f"t{number:02}" for number in whole]
            assert await other.read(lambda tx: tx.manifest(REPO, digest(10))) is None

        told(make, story, workers=2)

    def test_writes_of_two_workers_run_alone_and_none_is_lost(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> int:
            def count(tx: CatalogTx) -> None:
                session = tx.upload(REPO, key(1))
                assert session is not None
                moved = replace(session, offset=session.offset + 1)
                assert tx.advance_upload(moved, session.offset, 2.0)

            await one.write(lambda tx: begun(tx, 1))
            await asyncio.gather(*(each.write(count) for _ in range(100) for each in (one, two)))
            found = await one.read(lambda tx: tx.upload(REPO, key(1)))
            return found.offset if found else -1

        assert told(make, story, workers=2) == 200

    def test_every_worker_sees_a_write_once_it_is_told_and_hears_of_what_moved(
        self, make: Make
    ) -> None:
        async def story(*catalogs: Catalog) -> None:
            for number in range(30):
                writer = catalogs[number % 3]
                before = [await settled(each) for each in catalogs]
                await writer.write(lambda tx, n=number: tx.move_tag(REPO, V1, put(tx, n).digest))  # type: ignore[misc]
                assert number == 0 or writer.generation(REPO) != before[number % 3]
                for seen, each in zip(before, catalogs, strict=True):
                    found = await each.read(lambda tx: tx.manifest(REPO, V1))
                    assert found is not None
                    assert found.digest == digest(number)
                    if number:
                        await until(lambda s=seen, c=each: c.generation(REPO) != s)  # type: ignore[misc]

        told(make, story, workers=3)

    def test_what_is_taken_away_is_told_too(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            def change(tx: CatalogTx) -> None:
                for number in (1, 2):
                    tx.move_tag(REPO, parse_tag(f"v{number}"), put(tx, number).digest)
                committed(tx, 1)

            await one.write(change)
            takings: list[Work[object]] = [
                lambda tx: tx.delete_tag(REPO, V2),
                lambda tx: tx.delete_manifest(REPO, digest(1)),
                lambda tx: tx.unlink_blob(REPO, digest(1)),
            ]
            for taking in takings:
                before = [await settled(each) for each in (one, two)]
                await one.write(taking)
                assert one.generation(REPO) != before[0]
                await until(lambda b=before: two.generation(REPO) != b[1])  # type: ignore[misc]

        told(make, story, workers=2)

    def test_a_read_sees_one_snapshot_while_others_write(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            began, go_on = threading.Event(), threading.Event()

            def work(tx: CatalogTx) -> list[Sequence[str]]:
                first = tx.tags(REPO, "", 9)
                began.set()
                assert go_on.wait(10)
                return [first, tx.tags(REPO, "", 9)]

            # Its loop is its own: on some adapters `work` runs there, and it waits.
            reading = asyncio.create_task(
                asyncio.to_thread(told, make, lambda each: each.read(work))
            )
            assert await asyncio.to_thread(began.wait, 10)
            for catalog, tag in ((one, V1), (two, V2)):
                await catalog.write(partial(move, tag=tag))
            go_on.set()
            assert await reading == [[], []]
            assert await one.read(lambda tx: tx.tags(REPO, "", 9)) == ["v1", "v2"]

        told(make, story, workers=2)

    def test_a_waiter_that_leaves_takes_nobody_along(self, make: Make) -> None:
        async def story(catalog: Catalog) -> None:
            waiting = [
                asyncio.create_task(catalog.write(partial(put, number=n))) for n in range(1, 21)
            ]
            await asyncio.sleep(0)
            waiting[0].cancel()
            waiting[10].cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert sum(isinstance(each, StoredManifest) for each in ended) == 18

        told(make, story)

    def test_closing_finishes_what_was_accepted_and_may_be_repeated(self, make: Make) -> None:
        async def story(catalog: Catalog, other: Catalog) -> None:
            accepted = [
                asyncio.create_task(catalog.write(partial(put, number=n))) for n in range(1, 201)
            ]
            await asyncio.sleep(0)
            await asyncio.gather(catalog.aclose(), catalog.aclose())
            await catalog.aclose()
            assert len(await asyncio.gather(*accepted)) == 200
            assert await other.read(lambda tx: tx.manifest(REPO, digest(200))) is not None
            with pytest.raises(Unavailable):
                await catalog.write(lambda tx: put(tx, 999))

        told(make, story, workers=2)

"""The catalog on PostgreSQL: the contract, and what only a server has."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import mlext.storage.schema  # noqa: F401 - its tables are the catalog's, too
from ociserver.auth.chain import line, verdict
from ociserver.auth.records import ACCESS
from ociserver.errors import Unavailable
from ociserver.ports import Catalog, CatalogTx
from ociserver.refs import parse_tag
from ociserver.storage.postgres import _RECORDING, PostgresCatalog, check, migrate
from ociserver.storage.schema import metadata
from ociserver.storage.sqlite import prepare_catalog
from tests.contracts.catalog import REPO, V1, Make, digest, move, put, settled, told, until
from tests.contracts.catalog_access import AccessContract, refresh
from tests.contracts.catalog_audit import RawSql, event, subjects
from tests.contracts.catalog_collection import CollectionContract
from tests.contracts.catalog_sharing import SharedCatalogContract
from tests.contracts.migrating import FOUND_BY, holds_it_chained, leave_unchained
from tests.postgres import PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    found = postgres.new_database()
    asyncio.run(migrate(found))
    return found


class TestPostgres(SharedCatalogContract, CollectionContract, AccessContract):
    @pytest.fixture
    def make(self, url: str) -> Make:
        async def make() -> Catalog:
            return PostgresCatalog(url)

        return make

    @pytest.fixture
    def raw(self, postgres: PostgresServer, url: str) -> RawSql:
        return partial(postgres.run, database=url.rpartition("/")[2])

    def test_the_audit_cannot_be_emptied(self, make: Make, raw: RawSql) -> None:
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            raw("TRUNCATE audit_event")

    def test_who_finds_its_number_taken_goes_on_behind(self, make: Make, url: str) -> None:
        async def story(catalog: Catalog) -> None:
            slow = await asyncpg.connect(url)
            try:
                # Not SERIALIZABLE: PostgreSQL itself sees two rows of one key, and no more.
                await slow.execute(f"BEGIN; {_RAW_EVENT}")
                writing = asyncio.create_task(catalog.write(lambda tx: tx.record([event(1)])))
                waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
                while not writing.done() and not await slow.fetch(waits):
                    pass
                assert await catalog.read(lambda tx: tx.events(0, 9)) == []
                await slow.execute("COMMIT")
                await writing
            finally:
                await slow.close()
            found = await catalog.read(lambda tx: tx.trail(0, 9))
            assert [(each.event.number, each.event.subject) for each in found] == [
                (1, "slow"),
                (2, "a/b:v1"),
            ]
            assert found[1].previous == found[0].hash == "raw"

        told(make, story)

    def test_recorders_of_two_replicas_take_turns_and_none_is_run_again(self, make: Make) -> None:
        runs = 0

        def work(tx: CatalogTx, number: int) -> None:
            nonlocal runs
            runs += 1
            tx.record([event(number)])

        async def story(one: Catalog, two: Catalog) -> None:
            async def recorder(which: int) -> None:
                for number in range(10):
                    await (one, two)[which % 2].write(
                        partial(work, number=16 * number + which), in_turn=True
                    )

            await asyncio.gather(*(recorder(which) for which in range(16)))
            lines = [line(each) for each in await one.read(lambda tx: tx.trail(0, 999))]
            found = verdict(lines)
            assert (found.events, found.broken) == (160, None)

        told(make, story, workers=2)
        assert runs == 160

    def test_who_waits_to_record_leaves_connections_to_others(self, make: Make, url: str) -> None:
        async def story(catalog: Catalog) -> None:
            other = await asyncpg.connect(url)
            try:
                await other.execute(f"SELECT pg_advisory_lock({_RECORDING})")
                waiting = [
                    asyncio.create_task(catalog.write(lambda tx: tx.record([]), in_turn=True))
                    for _ in range(50)
                ]
                for _ in range(20):
                    await catalog.write(partial(put, number=1))
                    await catalog.read(lambda tx: tx.events(0, 1))
                assert not any(each.done() for each in waiting)
                await other.execute(f"SELECT pg_advisory_unlock({_RECORDING})")
                await asyncio.gather(*waiting)
            finally:
                await other.close()

        told(make, story)

    def test_a_turn_that_does_not_come_is_unavailable_and_nothing_is_held(
        self, make: Make, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def story(catalog: Catalog) -> None:
            other = await asyncpg.connect(url)
            try:
                await other.execute(f"SELECT pg_advisory_lock({_RECORDING})")
                with pytest.raises(Unavailable):
                    await catalog.write(lambda tx: tx.record([event(1)]), in_turn=True)
                await other.execute(f"SELECT pg_advisory_unlock({_RECORDING})")
                await catalog.write(lambda tx: tx.record([event(2)]), in_turn=True)
                held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
                assert await other.fetch(held) == []
            finally:
                await other.close()
            found = await catalog.read(lambda tx: tx.events(0, 9))
            assert subjects(found) == ["a/b:v2"]

        monkeypatch.setattr("ociserver.storage.postgres._STATEMENT_SECONDS", 0.3)
        told(make, story)

    def test_who_stands_still_in_a_transaction_is_put_out_of_it(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stall(tx: CatalogTx) -> None:
            tx.record([event(1)])
            time.sleep(0.5)
            tx.record([event(2)])

        async def story(catalog: Catalog) -> None:
            with pytest.raises(Unavailable):
                await catalog.write(stall)
            await catalog.write(lambda tx: tx.record([event(3)]))
            found = await catalog.read(lambda tx: tx.events(0, 9))
            assert subjects(found) == ["a/b:v3"]

        monkeypatch.setattr("ociserver.storage.postgres._IDLE_SECONDS", 0.1)
        told(make, story)

    def test_what_no_worker_keeps_is_no_news(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog) -> None:
            def change(tx: CatalogTx) -> None:
                tx.add_refresh_token(refresh(1))
                tx.replace_refresh_token(refresh(1).hash, 5.0)
                tx.drop_refresh_family("f")
                tx.drop_signing_keys(["absent"])
                tx.end_credentials("absent", 5.0)
                tx.record([event(1)])
                tx.delete_tag(REPO, V1)

            await one.write(partial(move, tag=V1))
            heard = await settled(two)
            before = two.generation(ACCESS)
            await one.write(change)
            # All that one write tells is heard at once.
            await until(lambda: two.generation(REPO) != heard)
            assert two.generation(ACCESS) == before

        told(make, story, workers=2)


_RAW_EVENT = """INSERT INTO audit_event
    (number, at, actor, action, subject, outcome, detail, hash)
    VALUES (1, 0, '', '', 'slow', 'done', '{}', 'raw')"""


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def test_migrations_make_the_schema_that_the_code_reads(url: str, tmp_path: Path) -> None:
    async def found() -> list[object]:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        try:
            async with engine.connect() as db:
                return await db.run_sync(differences)
        finally:
            await engine.dispose()

    assert asyncio.run(found()) == []
    prepare_catalog(tmp_path / "catalog.db")
    embedded = create_engine(f"sqlite:///{tmp_path}/catalog.db")
    with embedded.connect() as db:
        assert differences(db) == []
    embedded.dispose()


def test_an_audit_from_before_it_was_chained_is_chained(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    async def make() -> Catalog:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.begin() as db:
            await db.run_sync(leave_unchained)
        await engine.dispose()
        await migrate(url)
        return PostgresCatalog(url)

    told(make, holds_it_chained)
    left = """SELECT relname::text FROM pg_class WHERE relname LIKE 'audit%'
        UNION SELECT proname::text FROM pg_proc WHERE proname LIKE 'audit%'"""
    assert set(postgres.rows(left, url.rpartition("/")[2])) == {
        ("audit_event",),
        ("audit_event_pkey",),
        ("audit_event_refused",),
        *((each,) for each in FOUND_BY),
    }


def test_replicas_that_migrate_together_do_it_once(postgres: PostgresServer) -> None:
    async def story(url: str) -> None:
        with pytest.raises(Unavailable, match="lading migrate"):
            await check(url)
        await asyncio.gather(*(migrate(url) for _ in range(6)))
        await check(url)
        await migrate(url)

    asyncio.run(story(postgres.new_database()))


def test_a_database_of_another_release_is_refused(postgres: PostgresServer, url: str) -> None:
    postgres.run("UPDATE alembic_version SET version_num = '9999'", url.rpartition("/")[2])
    for asked in (check, migrate):
        with pytest.raises(Unavailable, match="9999"):
            asyncio.run(asked(url))


def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        asyncio.run(check("postgresql://lading@127.0.0.1:1/none"))


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_an_outage_is_told_and_ends_by_itself(own: PostgresServer, how: signal.Signals) -> None:
    url = own.new_database()
    asyncio.run(migrate(url))

    async def make() -> Catalog:
        return PostgresCatalog(url)

    async def story(catalog: Catalog) -> None:
        await catalog.write(partial(put, number=1))
        await settled(catalog)
        own.stop(how)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await catalog.read(lambda tx: tx.manifest(REPO, digest(1)))
            with pytest.raises(Unavailable):
                await catalog.write(partial(put, number=2))
        # Nobody can tell what others change now.
        assert catalog.generation(REPO) != catalog.generation(REPO)
        await asyncio.to_thread(own.start)
        async with asyncio.timeout(20):
            while True:
                try:
                    await catalog.write(partial(put, number=3))
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
            await settled(catalog)
        found = await catalog.read(lambda tx: [tx.manifest(REPO, digest(n)) for n in (1, 2, 3)])
        assert [each is not None for each in found] == [True, False, True]

    told(make, story)


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_restart_between_two_requests_fails_neither(own: PostgresServer, in_turn: bool) -> None:
    url = own.new_database()
    asyncio.run(migrate(url))

    async def make() -> Catalog:
        return PostgresCatalog(url)

    async def story(catalog: Catalog) -> None:
        for number in (1, 2):
            # Several connections are in the pool, and all of them are closed.
            await asyncio.gather(*(catalog.read(lambda tx: tx.tags(REPO, "", 9)) for _ in range(8)))
            own.stop()
            await asyncio.to_thread(own.start)
            if number == 1:
                await catalog.write(partial(put, number=1), in_turn=in_turn)
            assert await catalog.read(lambda tx: tx.manifest(REPO, digest(1))) is not None

    told(make, story)


def test_writes_that_contend_for_one_tag_all_come_through(url: str) -> None:
    async def make() -> Catalog:
        return PostgresCatalog(url)

    async def story(one: Catalog, two: Catalog) -> None:
        tag = parse_tag("v1")
        await asyncio.gather(
            *(
                (one, two)[number % 2].write(
                    lambda tx, n=number: tx.move_tag(REPO, tag, put(tx, n).digest)  # type: ignore[misc]
                )
                for number in range(100)
            )
        )
        assert await one.read(lambda tx: tx.tags(REPO, "", 9)) == ["v1"]

    told(make, story, workers=2)


def test_a_write_that_loses_again_and_again_comes_through_in_the_end(
    postgres: PostgresServer, url: str
) -> None:
    # A disk that stands still in another's commit makes this one lose for seconds.
    tag, rival = parse_tag("v1"), ThreadPoolExecutor(1)
    lost = 0

    def work(tx: CatalogTx) -> None:
        nonlocal lost
        manifest = put(tx, 1).digest
        if lost < 40:
            lost += 1
            moved = "UPDATE tag SET updated_at = updated_at + 1"
            rival.submit(postgres.rows, moved, url.rpartition("/")[2]).result()
        tx.move_tag(REPO, tag, manifest)

    async def make() -> Catalog:
        return PostgresCatalog(url)

    async def story(catalog: Catalog) -> None:
        await catalog.write(lambda tx: tx.move_tag(REPO, tag, put(tx, 2).digest))
        await catalog.write(work)
        found = await catalog.read(lambda tx: tx.manifest(REPO, tag))
        assert found is not None
        assert found.digest == digest(1)
        assert lost == 40

    with rival:
        told(make, story)

"""The catalog on SQLite: the contract, and what only a file has."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Table, create_engine

from mlext.storage import schema as models
from ociserver.errors import Unavailable
from ociserver.ports import Catalog, CatalogTx
from ociserver.refs import parse_tag
from ociserver.storage.revisions import REVISION
from ociserver.storage.sqlite import SqliteCatalog, prepare_catalog
from tests.contracts.catalog import REPO, Make, begun, digest, put, told
from tests.contracts.catalog_access import AccessContract
from tests.contracts.catalog_audit import RawSql, event
from tests.contracts.catalog_collection import CollectionContract
from tests.contracts.catalog_sharing import SharedCatalogContract
from tests.contracts.migrating import FOUND_BY, holds_it_chained, leave_unchained


class TestSqlite(SharedCatalogContract, CollectionContract, AccessContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        async def make() -> Catalog:
            return SqliteCatalog(tmp_path / "catalog" / "catalog.db")

        return make

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawSql:
        def run(statement: str) -> None:
            database = sqlite3.connect(tmp_path / "catalog" / "catalog.db")
            try:
                with database:
                    database.execute(statement)
            finally:
                database.close()

        return run

    @pytest.mark.parametrize("how", ["INSERT OR REPLACE", "REPLACE", "UPDATE OR REPLACE"])
    def test_nothing_takes_the_place_of_an_event(self, make: Make, raw: RawSql, how: str) -> None:
        values = (
            "audit_event SET number = 2 WHERE number = 1"
            if how.startswith("UPDATE")
            else "INTO audit_event VALUES (1, 0.0, 'nobody', '', '', 'done', '{}', '')"
        )

        async def story(catalog: Catalog) -> None:
            await catalog.write(lambda tx: tx.record([event(1), event(2)]))
            before = await catalog.read(lambda tx: tx.events(0, 9))
            assert [each.number for each in before] == [1, 2]
            with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                raw(f"{how} {values}")
            assert await catalog.read(lambda tx: tx.events(0, 9)) == before

        told(make, story)


def push_tags(path: Path, worker: int) -> None:
    """What a worker process does: 25 tags, several at once."""

    async def main() -> None:
        catalog = SqliteCatalog(path)

        def work(tx: CatalogTx, number: int) -> None:
            tx.move_tag(REPO, parse_tag(f"w{worker}-{number}"), put(tx, number).digest)

        try:
            await asyncio.gather(*(catalog.write(partial(work, number=n)) for n in range(25)))
        finally:
            await catalog.aclose()

    asyncio.run(main())


def kept(path: Path) -> list[tuple[str]]:
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT version_num FROM alembic_version").fetchall()
    database.close()
    return found


def test_processes_that_make_the_catalog_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    spawned = multiprocessing.get_context("spawn")
    workers = [spawned.Process(target=push_tags, args=(path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]

    async def make() -> Catalog:
        return SqliteCatalog(path)

    async def story(catalog: Catalog) -> int:
        return len(await catalog.read(lambda tx: tx.tags(REPO, "", 999)))

    assert told(make, story) == 75


def test_a_catalog_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    prepare_catalog(path)
    assert kept(path) == [(REVISION,)]
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(Unavailable, match=f"schema 9999, this release reads {REVISION}"):
        prepare_catalog(path)
    assert kept(path) == [("9999",)]


def test_a_catalog_from_before_there_were_revisions_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    push_tags(path, 0)
    with sqlite3.connect(path) as database:
        access = ("credential", "principal", "signing_key", "refresh_token", "audit_event")
        of_models = [each.name for each in vars(models).values() if isinstance(each, Table)]
        for table in ("alembic_version", "lease", "pin", *access, *of_models):
            database.execute(f"DROP TABLE {table}")
        for index in ("ix_blob_checked_at", "manifest_by_digest"):
            database.execute(f"DROP INDEX {index}")
        for column in (
            "upload.store_state",
            "upload.owner",
            "discarded.store_state",
            "blob.checked_at",
            "blob.quarantined_at",
            "repository_blob.linked_at",
            "manifest.touched_at",
        ):
            table, _, name = column.partition(".")
            database.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    database.close()
    prepare_catalog(path)
    assert kept(path) == [(REVISION,)]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM tag").fetchone() == (25,)
    database.close()


def test_an_audit_from_before_it_was_chained_is_chained(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        leave_unchained(db)
    engine.dispose()

    async def make() -> Catalog:
        return SqliteCatalog(path)

    told(make, holds_it_chained)
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE name LIKE 'audit%'")
        names = {f"audit_event_{each}" for each in ("unchanged", "undeleted", "unreplaced")}
        assert {name for (name,) in found} == {"audit_event", *names, *FOUND_BY}
    database.close()


def test_preparing_twice_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "catalog.db"
    prepare_catalog(path)
    push_tags(path, 0)
    prepare_catalog(path)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM tag").fetchone() == (25,)
    database.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_text("a letter to the harbour master\n" * 200)
    with pytest.raises(Unavailable, match="not a database"):
        prepare_catalog(path)
    assert path.read_text().startswith("a letter")


def test_a_refused_catalog_leaves_no_thread_behind(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "catalog.db").mkdir()
        with pytest.raises(Unavailable):
            SqliteCatalog(tmp_path / "catalog.db")

    asyncio.run(story())
    assert not [each for each in threading.enumerate() if each.name.startswith("catalog")]


def test_a_closed_catalog_leaves_no_file_open_and_no_thread(tmp_path: Path) -> None:
    async def make() -> Catalog:
        return SqliteCatalog(tmp_path / "catalog.db")

    async def story(catalog: Catalog) -> None:
        await catalog.write(lambda tx: put(tx, 1))
        await asyncio.gather(*(catalog.read(lambda tx: tx.tags(REPO, "", 9)) for _ in range(20)))
        catalog.generation(REPO)

    told(make, story)
    open_files = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            open_files.append(str(descriptor.readlink()))
        except FileNotFoundError:  # the descriptor that lists them
            continue
    assert not [path for path in open_files if path.startswith(str(tmp_path))]
    assert not [each for each in threading.enumerate() if each.name.startswith("catalog")]


def test_a_write_that_breaks_the_schema_is_undone_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    async def make() -> Catalog:
        return SqliteCatalog(tmp_path / "catalog.db")

    async def story(catalog: Catalog) -> None:
        def twice(tx: CatalogTx) -> None:
            put(tx, 1)
            begun(tx, 1)
            begun(tx, 1)

        with pytest.raises(Unavailable):
            await catalog.write(twice)
        assert await catalog.read(lambda tx: tx.manifest(REPO, digest(1))) is None
        await catalog.write(lambda tx: put(tx, 2))
        assert await catalog.read(lambda tx: tx.manifest(REPO, digest(2))) is not None

    told(make, story)


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    push_tags(path, 0)
    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.glob("catalog.db*")}
    modes.pop("catalog.db-lock")
    assert set(modes.values()) == {0o600}

# Acts: when a change is said to have been made.
from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mlext.acts import act
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog
from tests.mlext.acting import TRANSACTION, as_models, author
from tests.postgres import PostgresServer

ANN = author("user:ann")


def test_what_waited_for_its_turn_is_dated_from_its_turn(tmp_path: Path) -> None:
    async def main() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db", TRANSACTION)
        try:
            ended: list[float] = []

            def long_write(_: object) -> None:
                time.sleep(0.1)
                ended.append(time.time())

            before = asyncio.create_task(catalog.write(long_write))
            await asyncio.sleep(0.01)
            # Who asks where an alias stood in that time must not be told of this.
            at = await act(as_models(catalog), ANN, lambda doing: doing.at)
            await before
            assert at >= round(ended[0], 6)
        finally:
            await catalog.aclose()

    asyncio.run(main())


def test_replicas_date_what_they_do_by_the_clock_of_their_database(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database()
    database = url.rpartition("/")[2]
    asyncio.run(migrate(url))
    # A server whose clock is an hour ahead of ours.
    for statement in (
        "CREATE SCHEMA ahead",
        """CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
           AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$""",
        f"ALTER DATABASE {database} SET search_path = ahead, pg_catalog, public",
    ):
        postgres.run(statement, database)

    async def main() -> None:
        catalog = PostgresCatalog(url, TRANSACTION)
        try:
            before = time.time()
            at = await act(as_models(catalog), ANN, lambda doing: doing.at)
            assert 3_599 < at - before < 3_660
        finally:
            await catalog.aclose()

    asyncio.run(main())

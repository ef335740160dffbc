"""One holder at a time among all workers of all replicas, on either catalog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ociserver import leases
from ociserver.errors import LeaseTaken
from ociserver.leases import Leases
from ociserver.ports import Catalog
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog
from tests.postgres import PostgresServer

Story = Callable[[list[Catalog]], Awaitable[None]]
Told = Callable[[Story], None]

_WORKERS = 3


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    """One for all: each story gives back what it held."""
    url = postgres.new_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture(params=["sqlite", "database"])
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a story over the catalogs of some workers, with leases that end soon."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.15)
    url = request.getfixturevalue("database") if request.param == "database" else ""

    def catalog() -> Catalog:
        return PostgresCatalog(url) if url else SqliteCatalog(tmp_path / "catalog.db")

    async def main(story: Story) -> None:
        workers = [catalog() for _ in range(_WORKERS)]
        try:
            await story(workers)
        finally:
            for worker in workers:
                await worker.aclose()

    return lambda story: asyncio.run(main(story))


def test_of_many_that_want_it_one_has_it_at_a_time(told: Told) -> None:
    async def story(workers: list[Catalog]) -> None:
        holding, most, served = 0, 0, 0

        async def want(worker: Catalog) -> None:
            nonlocal holding, most, served
            async with Leases(worker).hold("one", patience=60):
                holding += 1
                most = max(most, holding)
                await asyncio.sleep(0.01)
                holding -= 1
                served += 1

        async with asyncio.TaskGroup() as group:
            for number in range(9):
                group.create_task(want(workers[number % _WORKERS]))
        assert (most, served) == (1, 9)

    told(story)


def test_a_live_holder_keeps_it_past_its_end_and_others_are_told(told: Told) -> None:
    async def story(workers: list[Catalog]) -> None:
        async with Leases(workers[0]).hold("one"):
            with pytest.raises(LeaseTaken):
                async with Leases(workers[1]).hold("one", patience=3 * leases.LEASE_SECONDS):
                    pass
            async with Leases(workers[1]).hold("another"):
                pass
        async with Leases(workers[1]).hold("one"):
            pass

    told(story)


def test_a_dead_holder_loses_it_when_it_ends_and_no_sooner(told: Told) -> None:
    async def story(workers: list[Catalog]) -> None:
        until = time.time() + 0.5
        assert await workers[0].write(lambda tx: tx.take_lease("one", "dead", time.time(), until))
        async with Leases(workers[1]).hold("one", patience=10):
            assert time.time() >= until
            # It wakes up: too late to give away or renew what is another's now.
            await workers[0].write(lambda tx: tx.drop_lease("one", "dead"))
            now = time.time()
            assert not await workers[0].write(lambda tx: tx.take_lease("one", "dead", now, now + 9))
            with pytest.raises(LeaseTaken):
                async with Leases(workers[2]).hold("one"):
                    pass

    told(story)


def test_a_holder_that_fails_or_is_cancelled_gives_it_back(told: Told) -> None:
    async def story(workers: list[Catalog]) -> None:
        async def hold(*, failing: bool) -> None:
            async with Leases(workers[0]).hold("one", patience=5):
                if failing:
                    raise LookupError
                await asyncio.Event().wait()

        with pytest.raises(LookupError):
            await hold(failing=True)
        for turns in range(6):  # cancelled at each turn of the loop that taking may take
            holder = asyncio.create_task(hold(failing=False))
            for _ in range(turns):
                await asyncio.sleep(0.002)
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
            async with Leases(workers[1]).hold("one"):
                pass

    told(story)


def test_it_is_free_once_nobody_holds_it_or_after_a_while(told: Told) -> None:
    async def story(workers: list[Catalog]) -> None:
        other = Leases(workers[1])
        await other.free("one", 9)
        async with Leases(workers[0]).hold("one"):
            began = time.monotonic()
            await other.free("one", 0.2)
            assert time.monotonic() - began >= 0.2
            waiting = asyncio.create_task(other.free("one", 30))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        async with asyncio.timeout(10):
            await waiting

    told(story)

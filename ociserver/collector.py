"""Online garbage collection: what nobody needs any more goes, while pushes go on.

There is no mark. Rows are looked at by pages; what nothing keeps is taken in small transactions
that ask once more, so nothing is ever taken for what was true a moment ago. A manifest goes before
what it names: who is told that an index is there finds its children. `retention.py` decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from ociserver.discards import WRITERS_SECONDS, Discards, Swept
from ociserver.errors import LeaseTaken
from ociserver.leases import Leases
from ociserver.ports import Catalog, CatalogTx
from ociserver.retention import HeldBlob, HeldLink, HeldManifest, Horizon, Place, Retention, Verdict

log = logging.getLogger("lading.collector")

_LEASE = "gc"
_TURN = "gc-turn"
# A turn ends a little before the next is due: clocks and timers are not exact.
_TURN_SHARE = 0.9
_PAGE = 500
# Rows one transaction takes at most. On SQLite it is how long a push may wait (about 2 ms); on
# PostgreSQL more would be locked by whole tables, and pushes run again.
_BATCH = 50
# Manifests in rings that one round notes at most.
_RINGS = 1000

T = TypeVar("T")
Held = TypeVar("Held", HeldManifest, HeldLink, HeldBlob)
_Look = Callable[[CatalogTx, Horizon, Place | None, int], Sequence[Held]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a run took: rows by kind, the blobs' bytes; and the objects that were due by then."""

    manifests: int
    links: int
    blobs: int
    bytes: int
    swept: Swept


class Collector:
    """One collection at a time, among all workers of all replicas."""

    def __init__(self, catalog: Catalog, discards: Discards, retention: Retention) -> None:
        self._catalog = catalog
        self._discards = discards
        self._retention = retention
        self._leases = Leases(catalog)

    async def run(self) -> Collected:
        """Take all that nothing keeps, and delete discarded objects that are due.

        Raises LeaseTaken while another collection runs, Unavailable.
        """
        async with self._leases.hold(_LEASE):
            started = time.time()
            horizon = self._retention.horizon(started)
            manifests = await self._take_manifests(horizon)
            links = await self._take_links(horizon)
            blobs, freed = await self._take_blobs(horizon)
            swept = await self._discards.sweep()
            done = Collected(
                manifests=manifests,
                links=links,
                blobs=blobs,
                bytes=freed,
                swept=swept,
            )
            fields = {**asdict(done), "started": started, "ended": time.time()}
            log.info("collected", extra={"fields": fields})
            return done

    async def run_in_turn(self, interval: float) -> Collected | None:
        """Run, unless a worker has done so within the interval, or is doing so.

        Every worker of every replica calls this at that interval.
        """
        now, owner = time.time(), uuid.uuid4().hex
        until = now + interval * _TURN_SHARE
        if not await self._catalog.write(lambda tx: tx.take_lease(_TURN, owner, now, until)):
            return None
        try:
            return await self.run()
        except LeaseTaken:
            return None

    async def verdicts(self) -> AsyncIterator[Verdict]:
        """Say of everything whether a run would take it now, and why. Changes nothing."""
        horizon = self._retention.horizon(time.time())
        async for manifests in self._pages(_manifests, horizon):
            for manifest in manifests:
                yield manifest.verdict(horizon)
        async for links in self._pages(_links, horizon):
            for link in links:
                yield link.verdict(horizon)
        async for blobs in self._pages(_blobs, horizon):
            for blob in blobs:
                yield blob.verdict(horizon)

    async def _take_manifests(self, horizon: Horizon) -> int:
        """Take manifests from the top: round after round those without a keeper.

        What is left are rings (an index that refers to its own child), taken each as a whole.
        """
        taken, before = 0, -1
        while not horizon.keeps_untagged and taken > before:
            before = taken
            rings: list[Place] = []
            async for page in self._pages(_manifests, horizon):
                going = [each for each in page if each.goes(horizon)]
                free = [each.place for each in going if each.keeper is None]
                rings += [each.place for each in going if each.keeper is not None]
                del rings[_RINGS:]
                taken += sum(
                    await self._in_batches(free, lambda tx, some: tx.drop_manifests(some, horizon))
                )
            if taken == before:
                for ring in rings:
                    taken += await self._take_ring(ring, horizon)
        return taken

    async def _take_ring(self, place: Place, horizon: Horizon) -> int:
        return await self._write(lambda tx: tx.drop_manifests([place], horizon, with_keepers=True))

    async def _take_links(self, horizon: Horizon) -> int:
        taken = 0
        async for page in self._pages(_links, horizon):
            going = [each.place for each in page if each.goes(horizon)]
            taken += sum(
                await self._in_batches(going, lambda tx, some: tx.drop_links(some, horizon))
            )
        return taken

    async def _take_blobs(self, horizon: Horizon) -> tuple[int, int]:
        """Return how many, and their bytes."""
        count = size = 0
        ahead = self._retention.delay - WRITERS_SECONDS
        async for page in self._pages(_blobs, horizon):
            going = [each.place for each in page if each.goes(horizon)]
            for sizes in await self._in_batches(
                going, lambda tx, some: tx.drop_blobs(some, time.time() + ahead)
            ):
                count += len(sizes)
                size += sum(sizes)
        return count, size

    async def _pages(self, look: _Look[Held], horizon: Horizon) -> AsyncIterator[Sequence[Held]]:
        after: Place | None = None
        while page := await self._catalog.read(
            lambda tx: look(tx, horizon, after, _PAGE)  # noqa: B023 - awaited at once
        ):
            yield page
            after = page[-1].place

    async def _in_batches(
        self, places: Sequence[Place], drop: Callable[[CatalogTx, Sequence[Place]], T]
    ) -> list[T]:
        return [
            await self._write(lambda tx, some=places[start : start + _BATCH]: drop(tx, some))  # type: ignore[misc]
            for start in range(0, len(places), _BATCH)
        ]

    async def _write(self, work: Callable[[CatalogTx], T]) -> T:
        """Write, then leave the catalog to others for as long as that took."""
        began = time.monotonic()
        result = await self._catalog.write(work)
        await asyncio.sleep(time.monotonic() - began)
        return result


def _manifests(
    tx: CatalogTx, horizon: Horizon, after: Place | None, limit: int
) -> Sequence[HeldManifest]:
    return tx.held_manifests(horizon, after, limit)


def _links(tx: CatalogTx, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldLink]:
    return tx.held_links(horizon, after, limit)


def _blobs(tx: CatalogTx, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldBlob]:
    return tx.held_blobs(horizon, after, limit)

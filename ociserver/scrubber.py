"""Scrub: every blob's bytes are hashed again, and catalog and store are held against each other.

Damage is what was proven: bytes that were read whole and hash to something else, twice; another
size; or a store that says itself that there is no such object. It is quarantined until it is pushed
again or its bytes are right again. An outage proves nothing and ends the run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from ociserver import hashing
from ociserver.errors import BlobDamaged, Unavailable
from ociserver.leases import Leases
from ociserver.ports import Catalog, CatalogTx, CheckedBlob, ListedObject, ListedStore
from ociserver.refs import Digest, RepositoryName
from ociserver.threads import in_thread
from ociserver.throttle import Throttle

log = logging.getLogger("lading.scrub")

LEASE = "scrub"
# Rows looked at, and names asked for, at once.
_BATCH = 500
# What was checked is recorded so often: at most so much is checked again after a crash.
_RECORD_SECONDS = 5.0
# More objects than these that cannot be read, of a store that answers, are an outage after all.
_UNREADABLE = 20
# Kept in memory until the listing is over; what is beyond is for the next run.
_MOST = 10_000
# Where so many blobs are named and none is there, it is the wrong store that was listed.
_NONE_OF = 10
# More orphans than these, and than what is named, are somebody's data and no leftovers.
_ORPHANS = 100

Kind = Literal["damaged", "unreadable", "orphan", "healed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does: `rate` is bytes a second, times are seconds."""

    rate: int
    older_than: float
    orphan_age: float
    repair: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a person should know of; `name` is what the store calls it."""

    kind: Kind
    name: str
    what: str
    done: str
    digests: Sequence[Digest] = ()
    repositories: Sequence[RepositoryName] = ()


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run came to."""

    blobs: int = 0
    bytes: int = 0
    found: Counter[Kind] = field(default_factory=Counter)
    # Why some of it was left for another run, or for a person to decide.
    left: list[str] = field(default_factory=list)

    @property
    def all_well(self) -> bool:
        """Whether nobody needs to look at what was found."""
        return not self.left and self.found.total() == self.found["healed"]


@dataclass(slots=True, kw_only=True)
class _Difference:
    """Between catalog and store, as a listing shows it; nothing of it is proven."""

    named: int = 0
    absent: list[CheckedBlob] = field(default_factory=list)
    orphans: list[ListedObject] = field(default_factory=list)
    # All of them, also those beyond what is kept above.
    unnamed: int = 0


class Scrubber:
    """One run over one registry, which may be serving. `report` is told each finding at once."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: ListedStore,
        leases: Leases,
        plan: Plan,
        report: Callable[[Finding], None],
    ) -> None:
        self.tally = Tally()
        self._catalog = catalog
        self._blobs = blobs
        self._leases = leases
        self._plan = plan
        self._report = report
        self._throttle = Throttle(plan.rate)
        self._hashers = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._unreadable: list[str] = []

    async def run(self) -> None:
        """Do all of it. Raises LeaseTaken where another run is under way, and Unavailable."""
        try:
            async with self._leases.hold(LEASE):
                started = time.time()
                await self._reconcile(started)
                await self._walk(started)
        finally:
            self._hashers.shutdown()

    # -- catalog and store, both ways

    async def _reconcile(self, started: float) -> None:
        difference = await self._difference(started - self._plan.orphan_age)
        if not difference.named and len(difference.absent) >= _NONE_OF:
            raise Unavailable(
                "none of the blobs that the catalog names is in the blob store: is it the right "
                "one, and mounted? Nothing was changed"
            )
        for blob in difference.absent:
            await self._confirm(blob)
        await self._deal_with(difference)

    async def _difference(self, before: float) -> _Difference:
        found = _Difference()
        after = ""
        async for batch in _batches(self._blobs.objects()):
            objects = {each.key: each.size for each in batch if each.mark is None}
            if objects:
                await self._compare(objects, after, max(objects), found)
                after = max(objects)
            old = [each for each in batch if each.modified_at < before]
            orphans = await self._catalog.read(lambda tx, old=old: _unnamed(tx, old))  # type: ignore[misc]
            found.unnamed += len(orphans)
            found.orphans += orphans[: _MOST - len(found.orphans)]
        await self._compare({}, after, None, found)
        if _MOST in (len(found.absent), len(found.orphans)):
            self.tally.left.append(f"more than {_MOST} of a kind: run it again for the rest")
        return found

    async def _compare(
        self, sizes: dict[str, int | None], after: str, until: str | None, found: _Difference
    ) -> None:
        """Note which of the blobs whose keys lie there are not listed as they should be."""
        while blobs := await self._catalog.read(
            lambda tx: tx.blobs_between(after, until, _BATCH)  # noqa: B023 - read at once
        ):
            absent = [each for each in blobs if sizes.get(each.key) != each.size]
            found.named += len(blobs) - len(absent)
            known = [each for each in absent if not each.quarantined]
            found.absent += known[: _MOST - len(found.absent)]
            after = blobs[-1].key

    async def _confirm(self, blob: CheckedBlob) -> None:
        """Ask for the object itself: it may have come, or its blob gone, since it was listed."""
        try:
            (await self._blobs.open(blob.key, blob.size)).close()
        except BlobDamaged as damaged:
            await self._quarantine(blob, damaged.message)
        except Unavailable as error:
            await self._skip(blob, error)

    async def _deal_with(self, found: _Difference) -> None:
        repair, orphans, named = self._plan.repair, found.orphans, found.named
        if repair and orphans and (not named or found.unnamed > max(_ORPHANS, named)):
            repair = False
            self.tally.left.append(
                f"{found.unnamed} objects that no row names, beside {named} that are blobs, are no "
                "leftovers: is this the catalog of this store? None was deleted"
            )
        for start in range(0, len(orphans), _BATCH):
            batch = orphans[start : start + _BATCH]
            # Once more, right before: nothing is ever named anew, but this cannot be undone.
            still = await self._catalog.read(lambda tx, batch=batch: _unnamed(tx, batch))  # type: ignore[misc]
            if repair:
                await self._blobs.remove(still)
            for each in still:
                self._tell_of_orphan(each, "deleted" if repair else "left alone")

    def _tell_of_orphan(self, orphan: ListedObject, done: str) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(orphan.modified_at))
        size = "" if orphan.size is None else f" of {orphan.size} bytes"
        what = f"object{size}" if not orphan.mark else f"multipart upload {orphan.mark.decode()}"
        self._tell(
            Finding(
                kind="orphan",
                name=orphan.name,
                what=f"{what} from {since} that no row names",
                done=done,
            )
        )

    # -- the bytes

    async def _walk(self, started: float) -> None:
        """Check what is in quarantine, then whatever was not checked for long."""
        before = started - self._plan.older_than
        skip = self._unreadable
        while blobs := await self._catalog.read(lambda tx: tx.quarantined(started, _BATCH, skip)):
            await self._check(blobs)
        while blobs := await self._catalog.read(lambda tx: tx.unchecked(before, _BATCH, skip)):
            await self._check(blobs)

    async def _check(self, blobs: Sequence[CheckedBlob]) -> None:
        checked: list[str] = []
        recorded_at = time.monotonic()
        try:
            for blob in blobs:
                if await self._examine(blob):
                    checked.append(blob.key)
                if time.monotonic() - recorded_at > _RECORD_SECONDS:
                    await self._record(checked)
                    recorded_at = time.monotonic()
        finally:
            await self._record(checked)

    async def _record(self, checked: list[str]) -> None:
        keys, now = list(checked), time.time()
        checked.clear()
        if keys:
            await self._catalog.write(lambda tx: tx.record_checks(keys, now))

    async def _examine(self, blob: CheckedBlob) -> bool:
        """Read the blob and act; tell whether it was read and found right."""
        try:
            # Memory and networks flip bits, too: what is wrong must be wrong twice.
            wrong = await self._wrong(blob) and await self._wrong(blob)
        except BlobDamaged as damaged:
            wrong = damaged.message
        except Unavailable as error:
            await self._skip(blob, error)
            return False
        self.tally.blobs += 1
        if wrong:
            await self._quarantine(blob, wrong)
        elif blob.quarantined:
            await self._lift(blob)
        return not wrong

    async def _wrong(self, blob: CheckedBlob) -> str | None:
        """Return what the bytes are instead, None where they are right."""
        hashers = {each.algorithm: hashing.fresh(each.algorithm) for each in blob.digests}
        size = 0
        reader = await self._blobs.open(blob.key, blob.size)
        try:
            async for piece in reader.stream(0, blob.size):
                for hasher in hashers.values():
                    await in_thread(self._hashers, hasher.update, piece)
                size += len(piece)
                self.tally.bytes += len(piece)
                await asyncio.sleep(self._throttle.wait(len(piece), time.monotonic()))
        finally:
            reader.close()
        if size != blob.size:
            return f"{size} of {blob.size} bytes can be read"
        found = [Digest(f"{name}:{each.hexdigest()}") for name, each in hashers.items()]
        if set(found) == set(blob.digests):
            return None
        return f"its bytes hash to {', '.join(found)}"

    # -- what comes of it

    async def _quarantine(self, blob: CheckedBlob, wrong: str) -> None:
        now = time.time()

        def work(tx: CatalogTx) -> tuple[bool, Sequence[RepositoryName]]:
            return tx.quarantine(blob.key, now), tx.linking(blob.key)

        known, repositories = await self._catalog.write(work)
        # Replaced or dropped while we looked at it, it is nobody's damage.
        if known:
            done = f"{'still ' if blob.quarantined else ''}quarantined, a push of it heals it"
            self._tell(_finding("damaged", blob, wrong, done, repositories))

    async def _lift(self, blob: CheckedBlob) -> None:
        now = time.time()

        def work(tx: CatalogTx) -> tuple[bool, Sequence[RepositoryName]]:
            return tx.lift_quarantine(blob.key, now), tx.linking(blob.key)

        lifted, repositories = await self._catalog.write(work)
        if lifted:
            what, done = "its bytes are right again", "no longer quarantined"
            self._tell(_finding("healed", blob, what, done, repositories))

    async def _skip(self, blob: CheckedBlob, error: Unavailable) -> None:
        """Leave the blob out, or end the run where it is the store that is away."""
        await self._blobs.check()
        if len(self._unreadable) >= _UNREADABLE:
            raise error
        self._unreadable.append(blob.key)
        repositories = await self._catalog.read(lambda tx: tx.linking(blob.key))
        self._tell(
            _finding("unreadable", blob, error.message, "not quarantined: no proof", repositories)
        )

    def _tell(self, finding: Finding) -> None:
        self.tally.found[finding.kind] += 1
        fields = {
            "object": finding.name,
            "digests": list(finding.digests),
            "repositories": list(finding.repositories),
            "what": finding.what,
            "done": finding.done,
        }
        log.warning("scrub: %s", finding.kind, extra={"fields": fields})
        self._report(finding)


def _finding(
    kind: Kind, blob: CheckedBlob, what: str, done: str, repositories: Sequence[RepositoryName]
) -> Finding:
    return Finding(
        kind=kind,
        name=blob.key,
        what=what,
        done=done,
        digests=blob.digests,
        repositories=repositories,
    )


def _unnamed(tx: CatalogTx, listed: Sequence[ListedObject]) -> list[ListedObject]:
    """Return which of these no row names: an upload's, a blob's, or that of a discarded object."""
    keys = list({each.key for each in listed})
    blobs = tx.blob_keys(keys)
    states: dict[str, bytes] = {}
    for each in tx.unfinished(keys):
        # What a commit left beside a blob, and the blob once it is discarded, are two rows.
        states[each.key] = states.get(each.key, b"") + (each.state or b"")

    def is_named(each: ListedObject) -> bool:
        if each.mark is None:
            return each.key in blobs or each.key in states
        return each.key in states and each.mark in states[each.key]

    return [each for each in listed if not is_named(each)]


async def _batches(objects: AsyncIterator[ListedObject]) -> AsyncIterator[list[ListedObject]]:
    batch: list[ListedObject] = []
    async for each in objects:
        batch.append(each)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

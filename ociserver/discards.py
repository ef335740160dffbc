"""Discarded objects: the one place that deletes them for good and strikes their keys off.

A key is struck off only when the store has said that its object is gone. What the store does not
delete is counted, named in the log and tried again next time, and holds up nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ociserver.errors import LadingError
from ociserver.ports import BlobStore, Catalog, StoredObject

log = logging.getLogger("lading.discards")

# A writer that found its session just before it ended may still create the object: keys are
# struck off only when no request can be that old.
WRITERS_SECONDS = 60.0
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did: how many objects are gone, and the keys of those that would not go."""

    deleted: int
    failed: Sequence[str]


class Discards:
    """Objects that are to be deleted, of all workers: the list is the catalog's."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs

    async def sweep(self) -> Swept:
        """Delete what is due. Any number of workers may do so at once. Raises Unavailable."""
        before, after = time.time() - WRITERS_SECONDS, ""
        deleted, failed = 0, list[str]()
        while found := await self._catalog.read(
            lambda tx: tx.discarded(before, _BATCH, after)  # noqa: B023 - awaited at once
        ):
            refused = await self._delete(found)
            gone = [each.key for each in found if each.key not in refused]
            if gone:
                # Others may have swept the same: each object is counted once.
                deleted += await self._catalog.write(lambda tx, gone=gone: tx.forget_keys(gone))  # type: ignore[misc]
            failed += refused
            after = found[-1].key
        return Swept(deleted=deleted, failed=failed)

    async def _delete(self, objects: Sequence[StoredObject]) -> set[str]:
        """Delete the objects; return the keys of those that would not go."""
        try:
            await self._blobs.delete(objects)
        except LadingError as error:
            if len(objects) == 1:
                fields = {"key": objects[0].key, "error": error.message}
                log.warning("an object could not be deleted", extra={"fields": fields})
                return {objects[0].key}
            # A store that is out of reach is asked no more: it raises here.
            await self._blobs.check()
            half = len(objects) // 2
            return await self._delete(objects[:half]) | await self._delete(objects[half:])
        return set()

"""The registry's use cases beside uploads, split by role: what reads, what writes.

`RegistryReader` is what the pull half of the web layer knows; a proxy is another reader. Each
write is one transaction in one plain function, so a tag, the manifest under it and its place in a
referrers list are there together or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ociserver.admission import Admission, Author
from ociserver.content import parse_manifest
from ociserver.errors import (
    BlobDamaged,
    BlobQuarantined,
    BlobReferenced,
    BlobUnknown,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    StorageFull,
    Unavailable,
)
from ociserver.fresh import FreshCache
from ociserver.ports import (
    BlobReader,
    BlobStore,
    Catalog,
    CatalogTx,
    ReferrerPage,
    StoredBlob,
    StoredManifest,
)
from ociserver.refs import Digest, Reference, RepositoryName, Tag

# Parsing and hashing this much takes about a millisecond; more goes to a thread.
_INLINE = 64 * 1024
_DAMAGED_KNOWN = 1_000
# Names that are read at once, to find those among them that a caller may see.
_NAMES = 1_000
# 4 MiB is the accepted norm for one page of a referrers list (it is read as a manifest).
_REFERRERS_BYTES = 4 * 1024 * 1024 - 1024  # less what stands around the descriptors


class RegistryReader:
    """What a pull needs. Every answer holds what was acknowledged before it was asked.

    A push asks too, and leaves out what it is told is there. So what is asked for by digest is kept
    from the collector anew: a link, or a manifest, that was last renewed so many seconds ago.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        *,
        cache_bytes: int,
        renew_links_after: float = math.inf,
        renew_manifests_after: float = math.inf,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._renew_links_after = renew_links_after
        self._renew_manifests_after = renew_manifests_after
        self._links: FreshCache[tuple[str, str], StoredBlob] = FreshCache(
            catalog.generation, cache_bytes
        )
        # Keys whose objects were not there, or of another size, when a pull came for them.
        self._damaged: OrderedDict[str, None] = OrderedDict()

    async def manifest(self, repository: RepositoryName, reference: Reference) -> StoredManifest:
        """Return the manifest a tag points at, or of that digest. Raises ManifestUnknown."""
        found = await self._catalog.read(lambda tx: tx.manifest(repository, reference))
        if found is None:
            raise ManifestUnknown(f"{repository} has no manifest {reference}")
        if self.lifetime(found, reference) > 0:
            return found
        now = time.time()
        with suppress(Unavailable, StorageFull):  # no push can go on then
            if not await self._catalog.write(
                lambda tx: tx.touch_manifest(repository, found.digest, now)
            ):
                raise ManifestUnknown(f"{repository} has no manifest {reference}")
            return replace(found, touched_at=now)
        return found

    def lifetime(self, found: StoredManifest, reference: Reference) -> float:
        """Return for how many seconds from now the answer may be given again unasked."""
        if not isinstance(reference, Digest):
            return math.inf
        return found.touched_at + self._renew_manifests_after - time.time()

    async def held_blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob:
        """Return the blob, which is kept for a push that asks. Raises BlobUnknown."""
        stored, now = await self.blob(repository, digest), time.time()
        if stored.key in self._damaged and await self._is_damaged(stored):
            # A client that is told so pushes it, and that heals it.
            raise BlobQuarantined(f"the bytes of {digest} are damaged or gone")
        if stored.linked_at + self._renew_links_after > now:
            return stored
        try:
            there = await self._catalog.write(lambda tx: tx.renew_link(repository, digest, now))
        except (Unavailable, StorageFull):
            return stored  # no push can go on either
        self._links.drop((repository, digest))
        if not there:
            raise BlobUnknown(f"{repository} has no blob {digest}")
        return replace(stored, linked_at=now)

    async def blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob:
        """Return where the blob lies. Raises BlobUnknown, BlobQuarantined."""

        async def read() -> StoredBlob:
            found = await self._catalog.read(lambda tx: tx.blob(repository, digest))
            if found is None:
                raise BlobUnknown(f"{repository} has no blob {digest}")
            return found

        link = (repository, digest)
        try:
            return await self._links.get_or_read(link, repository, read, lambda _: 0)
        except Unavailable:
            # The bytes behind a digest never change: an outage of the catalog need not stop a pull.
            if (held := self._links.stale(link)) is None:
                raise
            return held

    async def open_blob(
        self, stored: StoredBlob, first: tuple[int, int] | None = None
    ) -> BlobReader:
        """Open the bytes, to be closed by the caller; `first` is (offset, count) of the first part.

        Raises Unavailable where they are not what the catalog says.
        """
        try:
            return await self._blobs.open(stored.key, stored.size, first)
        except BlobDamaged:
            self._damaged[stored.key] = None
            if len(self._damaged) > _DAMAGED_KNOWN:
                self._damaged.popitem(last=False)
            raise

    async def _is_damaged(self, stored: StoredBlob) -> bool:
        """Tell whether it still is: a disk that was not mounted may be back."""
        try:
            (await self._blobs.open(stored.key, stored.size, (0, min(stored.size, 1)))).close()
        except BlobDamaged:
            return True
        except Unavailable:
            return False
        self._damaged.pop(stored.key, None)
        return False

    async def tags(self, repository: RepositoryName, last: str, limit: int) -> Sequence[str]:
        """Return tags in byte order after `last`. Raises NameUnknown."""

        def work(tx: CatalogTx) -> Sequence[str]:
            found = tx.tags(repository, last, limit)
            if not found and not tx.repository_exists(repository):
                raise NameUnknown(f"there is no repository {repository}")
            return found

        return await self._catalog.read(work)

    async def repositories(
        self, last: str, limit: int, may_see: Callable[[str], bool]
    ) -> Sequence[str]:
        """Return names of repositories that hold a manifest and may be seen, after `last`.

        In byte order; at most `limit`.
        """
        found: list[str] = []
        while len(found) < limit:
            page = await self._catalog.read(
                lambda tx: tx.repositories(last, _NAMES)  # noqa: B023 - awaited at once
            )
            found += filter(may_see, page)
            if len(page) < _NAMES:
                break
            last = page[-1]
        return found[:limit]

    async def referrers(
        self,
        repository: RepositoryName,
        subject: Digest,
        artifact_type: str | None,
        page: tuple[str, int],
    ) -> tuple[Sequence[bytes], str | None]:
        """Return descriptors of the manifests with this subject, and where the next page starts.

        `page` is (last digest seen, most entries). An unknown subject has none: that is no error.
        """
        last, limit = page
        wanted = ReferrerPage(last=last, limit=limit, max_bytes=_REFERRERS_BYTES)
        found = await self._catalog.read(
            lambda tx: tx.referrers(repository, subject, artifact_type, wanted)
        )
        shown = [each for each in found if each[1]]
        more = len(shown) < len(found)
        return [text for _, text in shown], shown[-1][0] if more and shown else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a manifest PUT did; `missing` is what the manifest names and nobody has pushed yet."""

    digest: Digest
    subject: Digest | None
    tags: Sequence[Tag]
    missing: Sequence[Digest]


class RegistryWriter:
    """What a push or a delete needs, blobs' bytes aside."""

    def __init__(self, catalog: Catalog, *, accept_sparse: bool, admission: Admission) -> None:
        self._catalog = catalog
        self._accept_sparse = accept_sparse
        self._admission = admission

    async def put_manifest(  # noqa: PLR0913 - a push and who makes it
        self,
        repository: RepositoryName,
        reference: Reference,
        body: bytes,
        content_type: str | None,
        *,
        tags: Sequence[Tag],
        by: Author,
    ) -> Pushed:
        """Keep the manifest and move the tags to it, at once (end-7a, end-7b).

        Raises ManifestInvalid, DigestMismatch, ManifestBlobUnknown where sparse manifests are
        refused, and what admission does.
        """
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        if len(body) <= _INLINE:
            view, digest = parse_manifest(body, content_type), _digest(algorithm, body)
        else:
            view = await asyncio.to_thread(parse_manifest, body, content_type)
            digest = await asyncio.to_thread(_digest, algorithm, body)
        if isinstance(reference, Digest) and digest != reference:
            raise DigestMismatch(f"the manifest hashes to {digest}, not to {reference}")
        moved = [*tags] if isinstance(reference, Digest) else [Tag(reference), *tags]
        stored = StoredManifest(digest=digest, media_type=view.media_type, body=body)

        def work(tx: CatalogTx) -> Sequence[Digest]:
            missing = tx.missing(repository, view)
            if missing and not self._accept_sparse:
                raise ManifestBlobUnknown(
                    f"{repository} lacks {len(missing)} of what the manifest names",
                    detail=[{"digest": each} for each in missing],
                )
            tx.put_manifest(repository, stored, view)
            self._admission.pushed(tx, repository, stored, view, by)
            for tag in moved:
                self._admission.tag_moves(tx, repository, tag, digest, by)
                tx.move_tag(repository, tag, digest)
            return missing

        missing = await self._catalog.write(work, in_turn=self._admission.records(view))
        return Pushed(digest=digest, subject=view.subject, tags=moved, missing=missing)

    async def delete_manifest(
        self, repository: RepositoryName, reference: Reference, by: Author
    ) -> None:
        """Remove a tag, or a manifest with every tag on it (end-9).

        Raises ManifestUnknown, and what admission does.
        """

        def work(tx: CatalogTx) -> bool:
            if isinstance(reference, Digest):
                self._admission.manifest_goes(tx, repository, reference, by)
                return tx.delete_manifest(repository, reference)
            self._admission.tag_goes(tx, repository, reference, by)
            return tx.delete_tag(repository, reference)

        if not await self._catalog.write(work):
            raise ManifestUnknown(f"{repository} has no manifest {reference}")

    async def delete_blob(self, repository: RepositoryName, digest: Digest) -> None:
        """Take the blob from the repository (end-10). Raises BlobUnknown, BlobReferenced."""

        def work(tx: CatalogTx) -> None:
            # What is damaged may go like anything else.
            with suppress(BlobQuarantined):
                if tx.blob(repository, digest) is None:
                    raise BlobUnknown(f"{repository} has no blob {digest}")
            if parent := tx.needed_by(repository, digest):
                raise BlobReferenced(f"manifest {parent} of {repository} still names {digest}")
            tx.unlink_blob(repository, digest)

        await self._catalog.write(work)

    async def mount(
        self,
        repository: RepositoryName,
        digest: Digest,
        source: RepositoryName | None,
        may_pull: Callable[[str], bool],
    ) -> bool:
        """Link a blob that another repository holds, any one where `source` is None (end-11).

        False where it does not hold it, or is none that `may_pull` lets the caller pull from:
        to them, the two are the same.
        """
        if source is None:
            holding = await self._catalog.read(lambda tx: tx.holding(digest, _NAMES))
            source = next(filter(may_pull, holding), None)
        if source is None or not may_pull(source):
            return False
        now = time.time()
        return await self._catalog.write(lambda tx: tx.mount(repository, digest, source, now))


def _digest(algorithm: str, body: bytes) -> Digest:
    return Digest(f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}")

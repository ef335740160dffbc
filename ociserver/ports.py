"""The true borders: catalog and blob store. Use cases know only these; `app.py` names the adapters.

Ports speak Digest, names and keys, never paths or SQL. Each docstring is the contract that the
suites in `tests/contracts/` run against every adapter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ociserver.auth.records import AuditRows, PrincipalRows, TokenRows
from ociserver.content import Manifest
from ociserver.refs import Digest, Reference, RepositoryName, Tag
from ociserver.retention import HeldBlob, HeldLink, HeldManifest, Horizon, Place
from ociserver.upload import UploadSession

T = TypeVar("T")

# A discarded key with this ending stands for what a writer left beside an object that is kept.
BESIDE = ".beside"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest as it was pushed: these bytes, under this digest, of this type.

    `touched_at` is when it was last pushed, asked for by a push, or lost a tag.
    """

    digest: Digest
    media_type: str
    body: bytes
    touched_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """Where a blob's bytes lie, how many there are, and when its repository last linked it."""

    key: str
    size: int
    linked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object of the blob store, whole or in the making; `state` is what its writer last gave."""

    key: str
    state: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """What a listing of the blob store shows under a name that can only be ours.

    It is the object of that `key`, or, where there is a `mark`, something beside it that only a
    row whose state holds the mark may name. `size` is None where the store does not tell.
    """

    key: str
    name: str
    size: int | None
    modified_at: float
    mark: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBlob:
    """A blob as scrub checks it: the object of that key should be these bytes."""

    key: str
    size: int
    digests: Sequence[Digest]
    quarantined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The key that holds a blob's bytes; `spare` is what of the session's own is not needed."""

    key: str
    spare: StoredObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferrerPage:
    """Entries after the digest `last`, at most `limit` of them and about `max_bytes` in all."""

    last: str
    limit: int
    max_bytes: int


class ManifestRows(Protocol):
    """The graph: manifests, their edges, the tags on them."""

    def manifest(self, repository: RepositoryName, reference: Reference) -> StoredManifest | None:
        """Return the manifest that the tag points at, or that has the digest."""

    def put_manifest(
        self, repository: RepositoryName, stored: StoredManifest, manifest: Manifest
    ) -> None:
        """Keep the manifest and its edges; the same bytes again only touch it.

        Raises ManifestInvalid where the same bytes stand there as another media type.
        """

    def touch_manifest(self, repository: RepositoryName, digest: Digest, now: float) -> bool:
        """Begin its age anew; False where it is not there."""

    def delete_manifest(self, repository: RepositoryName, digest: Digest) -> bool:
        """Remove the manifest, its edges and every tag on it; False where there was none."""

    def referrers(
        self,
        repository: RepositoryName,
        subject: Digest,
        artifact_type: str | None,
        page: ReferrerPage,
    ) -> Sequence[tuple[str, bytes]]:
        """Return (digest, descriptor as JSON) of the manifests with this subject, by digest.

        One entry more than the page holds tells that there are more; it may be cut short.
        """

    def move_tag(self, repository: RepositoryName, tag: Tag, digest: Digest) -> None:
        """Point the tag at a manifest of the repository: the only way a tag ever moves.

        What it pointed at before is touched.
        """

    def delete_tag(self, repository: RepositoryName, tag: Tag) -> bool:
        """Remove the tag alone, and touch its manifest; False where there was none."""

    def tags(self, repository: RepositoryName, last: str, limit: int) -> Sequence[str]:
        """Return tags in byte order, after `last`."""

    def repositories(self, last: str, limit: int) -> Sequence[str]:
        """Return names of repositories that hold a manifest, in byte order, after `last`."""

    def repository_exists(self, repository: RepositoryName) -> bool:
        """Tell whether anything was ever pushed here."""


class BlobRows(Protocol):
    """Which bytes exist, and which repositories link them."""

    def blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob | None:
        """Return the blob that this repository links under the digest.

        Raises BlobQuarantined where it links one whose bytes are damaged; mounting, and what is
        `missing`, take it for absent.
        """

    def mount(
        self, repository: RepositoryName, digest: Digest, source: RepositoryName, now: float
    ) -> bool:
        """Link a blob that `source` links; False if it does not."""

    def holding(self, digest: Digest, limit: int) -> Sequence[RepositoryName]:
        """Return repositories that link the blob, by name, at most so many."""

    def renew_link(self, repository: RepositoryName, digest: Digest, now: float) -> bool:
        """Begin the grace of the repository's link anew; False where it has none."""

    def unlink_blob(self, repository: RepositoryName, digest: Digest) -> None:
        """Take the blob from the repository; the bytes stay for whoever else links them."""

    def needed_by(self, repository: RepositoryName, digest: Digest) -> Digest | None:
        """Return a manifest of the repository that names this blob, if one does."""

    def missing(self, repository: RepositoryName, manifest: Manifest) -> Sequence[Digest]:
        """Return what the manifest names and the repository does not hold, at most 100 of it."""


class UploadRows(Protocol):
    """Work in flight. A key is on record before its object exists and until it is gone."""

    def begin_upload(self, session: UploadSession, now: float) -> None:
        """Record the session: from here on its key belongs to it."""

    def upload(self, repository: RepositoryName, upload_id: str) -> UploadSession | None:
        """Return the session as last recorded."""

    def advance_upload(self, session: UploadSession, since: int, now: float) -> bool:
        """Record offset and states; False where the session is gone, or no longer at `since`."""

    def keep_store_state(self, upload_id: str, state: bytes) -> bool:
        """Record what the blob store needs to find the object again; False where it is gone."""

    def commit_upload(
        self, session: UploadSession, digests: Iterable[Digest], now: float
    ) -> Committed | None:
        """End the session: its bytes are a blob of these digests, linked to its repository.

        Where such bytes are held already, the session's own object is discarded; where those are
        quarantined, it takes their place for every repository that links them. What its writer may
        have left beside it is discarded, if it has a store state. None where the session is gone.
        """

    def discard_upload(
        self, session: UploadSession, now: float, idle_since: float | None = None
    ) -> StoredObject | None:
        """End the session, its object discarded; None where it is gone, or not idle that long."""

    def expired_uploads(self, before: float, limit: int) -> Sequence[UploadSession]:
        """Return sessions untouched since `before`, oldest first."""

    def discarded(self, before: float, limit: int, after: str = "") -> Sequence[StoredObject]:
        """Return objects discarded before then, to be deleted from the store, by key after that."""

    def discarded_object(self, key: str) -> StoredObject | None:
        """Return the discarded object of that key, None where that key was not discarded."""

    def forget_keys(self, keys: Sequence[str]) -> int:
        """Strike discarded keys off, their objects are gone for good; return how many were on."""


class LeaseRows(Protocol):
    """Who alone may do something for now, among all workers of all replicas."""

    def take_lease(self, name: str, owner: str, now: float, until: float) -> bool:
        """Take the lease, or renew it; False while another owner has it."""

    def lease_is_held(self, name: str, now: float) -> bool:
        """Tell whether anybody has it."""

    def drop_lease(self, name: str, owner: str) -> None:
        """Give it back, if it is still this owner's."""

    def drop_leases_ended(self, before: float) -> None:
        """Forget leases that ended before then: their owners did not live to give them back."""


class PinRows(Protocol):
    """Manifests kept whatever tags say, with all that they name and all that refers to them."""

    def pin(self, repository: RepositoryName, digest: Digest, owner: str) -> None:
        """Keep the manifest for this owner, from when it is there on; again changes nothing."""

    def unpin(self, repository: RepositoryName, digest: Digest, owner: str, now: float) -> None:
        """Keep it no longer for this owner; its age begins now."""


class CollectionRows(Protocol):
    """What a collection looks at, and takes. Pages are by place, after the one given.

    Looking decides nothing: each `drop` takes of the rows it is given those that nothing keeps in
    its own transaction.
    """

    def held_manifests(
        self, horizon: Horizon, after: Place | None, limit: int
    ) -> Sequence[HeldManifest]:
        """Return manifests with what keeps them."""

    def held_links(self, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldLink]:
        """Return links with the manifests that name their blobs."""

    def held_blobs(self, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldBlob]:
        """Return blobs with the repositories that link them."""

    def drop_manifests(
        self, places: Sequence[Place], horizon: Horizon, *, with_keepers: bool = False
    ) -> int:
        """Take those that are old, and without tag, pin, parent and subject; return how many.

        `with_keepers` takes them with their keepers, as many as these are, where none of them
        stays: an index that refers to its own child is kept by it, and neither would ever go.
        """

    def drop_links(self, places: Sequence[Place], horizon: Horizon) -> int:
        """Take those that are old and whose blob no manifest names; return how many."""

    def drop_blobs(self, places: Sequence[Place], since: float) -> Sequence[int]:
        """Take those that nobody links, discard their objects as of `since`; return their sizes."""


class ScrubRows(Protocol):
    """What is checked of blobs, and which names of the store are on record."""

    def unchecked(self, before: float, limit: int, skip: Sequence[str]) -> Sequence[CheckedBlob]:
        """Return blobs never checked, then those least recently checked before then.

        Neither those of the keys in `skip` nor what is in quarantine.
        """

    def quarantined(self, before: float, limit: int, skip: Sequence[str]) -> Sequence[CheckedBlob]:
        """Return blobs in quarantine that were last checked before then."""

    def record_checks(self, keys: Sequence[str], now: float) -> None:
        """Record when the blobs of these keys were checked."""

    def quarantine(self, key: str, now: float) -> bool:
        """Put the blob in quarantine, or leave it there; False where there is none of that key."""

    def lift_quarantine(self, key: str, now: float) -> bool:
        """Take the blob from quarantine, its bytes being right; False where it is not in it."""

    def linking(self, key: str) -> Sequence[RepositoryName]:
        """Return the repositories that link the blob, by name."""

    def blobs_between(self, after: str, until: str | None, limit: int) -> Sequence[CheckedBlob]:
        """Return blobs by key: after the one, up to the other."""

    def blob_keys(self, keys: Sequence[str]) -> set[str]:
        """Return which of these, 1,000 at most, are keys of blobs."""

    def unfinished(self, keys: Sequence[str]) -> Sequence[StoredObject]:
        """Return which of these, 1,000 at most, are of uploads in flight or discarded objects."""


class CatalogTx(
    ManifestRows,
    BlobRows,
    UploadRows,
    LeaseRows,
    PinRows,
    CollectionRows,
    ScrubRows,
    PrincipalRows,
    TokenRows,
    AuditRows,
    Protocol,
):
    """One transaction. Every method is plain: a transaction is one function without an await."""


class Catalog(Protocol):
    """The small, strongly consistent store. `read` and `write` take one plain function each."""

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        """Run `work` on one snapshot that holds every write acknowledged before the call.

        Raises Unavailable.
        """

    async def write(self, work: Callable[[CatalogTx], T], *, in_turn: bool = False) -> T:
        """Run `work` alone; when this returns, what it did survives a power cut.

        `work` may run more than once and must have no effect outside the transaction. What it
        raises undoes it, and only it, and is raised here. Raises StorageFull, Unavailable.
        `in_turn` is for work that records in the audit, which every recorder appends to: it waits
        for the others before it begins, where it would lose against them and be run again.
        """

    def generation(self, repository: RepositoryName) -> int:
        """Return a number that differs once something a reader may hold was moved or taken away.

        At once where this worker acknowledged it, within 100 ms where another did (SQLite: at
        once). While nobody can tell, it differs each time. Cheap (microseconds, no wait): it is
        asked for on every cached read.
        """

    async def aclose(self) -> None:
        """Finish what was accepted and release everything. May be called again."""


class BlobReader(Protocol):
    """An open object. Closed by whoever opened it."""

    async def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer only at the end of the object."""

    def stream(self, offset: int, count: int) -> AsyncIterator[bytes]:
        """Yield these bytes in pieces of at most a megabyte. Raises Unavailable."""

    def fileno(self) -> int | None:
        """Return a descriptor the kernel can send from, None where there is no such thing."""

    def close(self) -> None:
        """Release it. May be called again."""


class BlobWriter(Protocol):
    """Writes one object, which no other writer has open, in this process or another."""

    def resume(self, state: bytes | None) -> None:
        """Go on from what `sync` returned or `keep` was given; once, before anything else."""

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put the data at `offset`, where the last piece, or what was synced, ended.

        Its memory is the caller's again on return. Raises StorageFull, Unavailable, UploadLost.
        """

    async def sync(self, size: int) -> bytes | None:
        """Return when the object's first `size` bytes survive a power cut; drop what lies beyond.

        `size` is where writing stands, or stood when the writer was opened or last synced. Returns
        the state that the next writer of these bytes is opened with. Raises as `write` does.
        """

    async def complete(self, size: int) -> None:
        """Sync, and from here on the object can be opened, or made a blob.

        Takes no longer for a large object than for a small one. Should it not be made a blob after
        all, a later writer may complete the same bytes again; what it does with others may be lost.
        Raises as `write` does.
        """

    async def open(self, size: int) -> BlobReader:
        """Open the first `size` bytes. Raises UploadLost where the store shows only whole objects
        and this one is not complete.
        """


Keep = Callable[[bytes], Awaitable[None]]


class Presign(Protocol):
    """What signs URLs of a store's objects, where it can. It asks nobody."""

    async def __call__(
        self, key: str, *, seconds: int | None = None, disposition: str | None = None
    ) -> str:
        """Return a URL that gives the object, whole or by ranges, to anybody for so many seconds.

        Without a number it is as long as the settings say; `disposition` is the Content-Disposition
        that the store answers with.
        """


class BlobStore(Protocol):
    """The huge, write-once store of objects under random keys. It never learns a digest."""

    def writer(self, key: str, keep: Keep) -> AbstractAsyncContextManager[BlobWriter]:
        """Open the object for writing, creating it. Raises UploadBusy while another has it.

        `keep` is awaited with the object's state before anything comes to be in the store that
        only this state names.
        """

    def put(self, key: str, data: bytes | memoryview) -> AbstractAsyncContextManager[bool]:
        """Write a whole small object, durable on entry; no writer takes it away until the exit.

        Gives False where other bytes are there already, or may be, and then changes nothing.
        Raises UploadBusy as `writer` does, StorageFull.
        """

    async def settled(self, key: str) -> None:
        """Return once no writer has the object, or after a moment. Never creates it."""

    async def open(self, key: str, size: int, first: tuple[int, int] | None = None) -> BlobReader:
        """Open for reading; `first` is (offset, count) of what will be read first, if not all.

        Raises BlobDamaged where the store itself says that a catalogued object is not there, or is
        not of that size; Unavailable where nobody can tell.
        """

    async def delete(self, objects: Sequence[StoredObject]) -> None:
        """Delete objects, whole or in the making; those already gone are no error.

        Returns once the store itself says that they are gone, and they stay so through a power cut.
        """

    async def check(self) -> None:
        """Raise Unavailable unless an object could be written now (readiness)."""

    async def aclose(self) -> None:
        """Finish what runs and release everything."""


class ListedStore(BlobStore, Protocol):
    """A blob store that shows what is in it: for scrub alone, as it takes long and costs money."""

    def objects(self) -> AsyncIterator[ListedObject]:
        """Yield what is there under names that can be ours, whole objects in the order of keys.

        What comes or goes meanwhile may be among it or not. Raises Unavailable.
        """

    async def remove(self, listed: Sequence[ListedObject]) -> None:
        """Delete just these, and nothing else of their keys; returns as `delete` does."""

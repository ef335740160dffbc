"""The true borders: catalog and blob store. Use cases know only these; `app.py` names the adapters.

Ports speak Digest, names and keys, never paths or SQL. Each docstring is the contract that the
suites in `tests/contracts/` run against every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ociserver.content import Manifest
from ociserver.refs import Digest, Reference, RepositoryName, Tag
from ociserver.upload import UploadSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest as it was pushed: these bytes, under this digest, of this type."""

    digest: Digest
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """Where a blob's bytes lie, and how many there are."""

    key: str
    size: int


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
        """Keep the manifest and its edges; the same bytes again change nothing.

        Raises ManifestInvalid where the same bytes stand there as another media type.
        """

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
        """Point the tag at a manifest of the repository: the only way a tag ever moves."""

    def delete_tag(self, repository: RepositoryName, tag: Tag) -> bool:
        """Remove the tag alone; False where there was none."""

    def tags(self, repository: RepositoryName, last: str, limit: int) -> Sequence[str]:
        """Return tags in byte order, after `last`."""

    def repositories(self, last: str, limit: int) -> Sequence[str]:
        """Return names of repositories that hold a manifest, in byte order, after `last`."""

    def repository_exists(self, repository: RepositoryName) -> bool:
        """Tell whether anything was ever pushed here."""


class BlobRows(Protocol):
    """Which bytes exist, and which repositories link them."""

    def blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob | None:
        """Return the blob that this repository links under the digest."""

    def mount(
        self, repository: RepositoryName, digest: Digest, source: RepositoryName | None
    ) -> bool:
        """Link a blob that `source` (any repository, where None) links; False if it does not."""

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

    def advance_upload(self, session: UploadSession, now: float) -> bool:
        """Record the session's offset and hash state; False where it is gone."""

    def commit_upload(
        self, session: UploadSession, digests: Iterable[Digest], now: float
    ) -> str | None:
        """End the session: its bytes are a blob of these digests, linked to its repository.

        Return the key that holds them: another one where they were held already, and then the
        session's own is discarded. None where the session is gone.
        """

    def discard_upload(
        self, session: UploadSession, now: float, idle_since: float | None = None
    ) -> bool:
        """End the session, its key discarded; False where it is gone, or not idle that long."""

    def expired_uploads(self, before: float, limit: int) -> Sequence[UploadSession]:
        """Return sessions untouched since `before`, oldest first."""

    def discarded_keys(self, before: float, limit: int) -> Sequence[str]:
        """Return keys discarded before then, whose objects are to be deleted from the store."""

    def forget_keys(self, keys: Sequence[str]) -> None:
        """Strike keys off that list: their objects are gone for good."""


class CatalogTx(ManifestRows, BlobRows, UploadRows, Protocol):
    """One transaction. Every method is plain: a transaction is one function without an await."""


class Catalog(Protocol):
    """The small, strongly consistent store. `read` and `write` take one plain function each."""

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        """Run `work` on one snapshot that holds every write acknowledged before the call.

        Raises Unavailable.
        """

    async def write(self, work: Callable[[CatalogTx], T]) -> T:
        """Run `work` alone; when this returns, what it did survives a power cut.

        `work` may run more than once and must have no effect outside the transaction. What it
        raises undoes it, and only it, and is raised here. Raises StorageFull, Unavailable.
        """

    def generation(self, repository: RepositoryName) -> int:
        """Return a number that differs once something a reader may hold was moved or taken away.

        At once where this worker acknowledged it, within 100 ms where another did (SQLite: at
        once). While nobody can tell, it differs each time. Cheap (microseconds, no wait): it is
        asked for on every cached read.
        """

    async def aclose(self) -> None:
        """Finish what was accepted and release everything. May be called again."""


class BlobWriter(Protocol):
    """Writes one object, which no other writer has open, in this process or another."""

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put the data at `offset`; its memory is the caller's again. Raises StorageFull."""

    async def sync(self, size: int) -> None:
        """Return when the object's first `size` bytes survive a power cut; drop what lies beyond.

        Raises UploadUnknown where the object has fewer.
        """


class BlobReader(Protocol):
    """An open object. Closed by whoever opened it."""

    @property
    def size(self) -> int:
        """Bytes in the object."""

    async def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer only at the end of the object."""

    def fileno(self) -> int | None:
        """Return a descriptor the kernel can send from, None where there is no such thing."""

    def close(self) -> None:
        """Release it. May be called again."""


class BlobStore(Protocol):
    """The huge, write-once store of objects under random keys. It never learns a digest."""

    def writer(self, key: str) -> AbstractAsyncContextManager[BlobWriter]:
        """Open the object for writing, creating it. Raises UploadBusy while another has it."""

    def put(self, key: str, data: bytes | memoryview) -> AbstractAsyncContextManager[bool]:
        """Write a whole small object, durable on entry; no other writer has it until the exit.

        Gives False where the object is there already, and then changes nothing. Raises UploadBusy
        as `writer` does, StorageFull.
        """

    async def open(self, key: str) -> BlobReader:
        """Open for reading. Raises Unavailable where a catalogued object is not there."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those already gone are no error. Survives a power cut on return."""

    async def check(self) -> None:
        """Raise Unavailable unless an object could be written now (readiness)."""

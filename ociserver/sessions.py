"""Upload sessions: bytes come in, are hashed and written as they come, and become a blob.

`upload.py` decides, this module acts. The offset a session reports is durable: data is synced
before the catalog records it. So a session survives `kill -9` with what its last checkpoint had,
and finishing one neither copies nor, in general, reads a byte again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from ociserver import hashing
from ociserver.errors import (
    BodySlow,
    ClientGone,
    DigestMismatch,
    SizeInvalid,
    StorageFull,
    UploadBusy,
    UploadOutOfOrder,
    UploadUnknown,
)
from ociserver.ports import BlobStore, BlobWriter, Catalog
from ociserver.refs import Digest, RepositoryName
from ociserver.threads import in_thread
from ociserver.upload import Chunk, UploadSession, admit, is_session_id

# Bytes that are hashed and written in one go; one such batch is absorbed while the next arrives.
_BATCH = 1024 * 1024
# At most this much is sent again after a crash, or after this many seconds.
_CHECKPOINT_BYTES = 64 * 1024 * 1024
_CHECKPOINT_SECONDS = 30.0
# A thread costs more than hashing this much.
_INLINE = 32 * 1024
_HASHERS = 4
# A writer that found its session just before it ended may still create the object: keys are
# struck off only when no request can be that old.
_DISCARD_GRACE = 60.0
_SWEEP = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request's body and what its headers say of it."""

    chunks: AsyncIterator[bytes]
    length: int | None = None
    chunk: Chunk | None = None


class Uploads:
    """Every upload session of the registry, in any worker: its state is the catalog's."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._hashers = ThreadPoolExecutor(_HASHERS, thread_name_prefix="hash")

    async def begin(self, repository: RepositoryName, algorithm: str = "sha256") -> UploadSession:
        """Open a session (end-4a, end-4c)."""
        session = UploadSession(id=uuid.uuid4().hex, repository=repository, algorithm=algorithm)
        now = time.time()
        await self._catalog.write(lambda tx: tx.begin_upload(session, now))
        return session

    async def session(self, repository: RepositoryName, upload_id: str) -> UploadSession:
        """Return the session as it is on record. Raises UploadUnknown."""
        found = None
        if is_session_id(upload_id):
            found = await self._catalog.read(lambda tx: tx.upload(repository, upload_id))
        if found is None:
            raise UploadUnknown("no such upload: it was never begun, or is finished or cancelled")
        return found

    async def settled(self, repository: RepositoryName, upload_id: str) -> UploadSession:
        """Return the session once no request writes to it, or after a moment (end-13).

        A client that lost its connection asks before we know that it did. Raises UploadUnknown.
        """
        await self.session(repository, upload_id)
        with suppress(UploadBusy, StorageFull):  # no room to open it, no request that writes to it
            async with self._blobs.writer(upload_id):
                pass
        return await self.session(repository, upload_id)

    async def append(self, repository: RepositoryName, upload_id: str, body: Body) -> UploadSession:
        """Add a chunk or a stream (end-5); return the session with its new, durable offset.

        Raises UploadUnknown, UploadBusy, UploadOutOfOrder, SizeInvalid. When the client leaves or
        is too slow, what came is kept and ClientGone or BodySlow goes on.
        """
        async with self._writing(repository, upload_id) as (session, writer):
            async with self._intake(session, writer) as intake:
                await intake.receive(body)
                await intake.checkpoint()
            return intake.session

    async def finish(
        self, repository: RepositoryName, upload_id: str, digest: Digest, body: Body
    ) -> None:
        """Take the rest, if any, and make the bytes a blob of the repository (end-6).

        Raises what `append` does, and DigestMismatch; then the session is as it was before.
        """
        async with self._writing(repository, upload_id) as (session, writer):
            async with self._intake(session, writer) as intake:
                await intake.receive(body)
                await writer.sync(intake.offset)
                digests = await self._digests(intake, digest)
                if digest not in digests:
                    await intake.rewind()
                    raise DigestMismatch(f"the bytes hash to {digests[-1]}, not to {digest}")
            whole = replace(session, offset=intake.offset)
            now = time.time()
            key = await self._catalog.write(lambda tx: tx.commit_upload(whole, digests, now))
        if key is None:
            raise UploadUnknown("the upload was cancelled, or finished by another request")
        if key != session.id:
            await self._blobs.delete([session.id])

    async def receive_whole(self, repository: RepositoryName, digest: Digest, body: Body) -> None:
        """Take a blob in a single POST (end-4b). On any failure nothing of it is left."""
        session = await self.begin(repository, digest.algorithm)
        try:
            await self.finish(repository, session.id, digest, body)
        except BaseException:
            await self._discard(session)
            raise

    async def cancel(self, repository: RepositoryName, upload_id: str) -> None:
        """End the session and drop its bytes (end-14). Raises UploadUnknown."""
        session = await self.session(repository, upload_id)
        if not await self._discard(session):
            raise UploadUnknown("no such upload: it was finished or cancelled just now")

    async def sweep(self, idle_seconds: float) -> int:
        """End sessions idle that long, delete discarded objects; return how many were ended.

        Any number of workers may sweep at once.
        """
        now = time.time()
        idle_since = now - idle_seconds
        expired = await self._catalog.read(lambda tx: tx.expired_uploads(idle_since, _SWEEP))
        ended = 0
        for session in expired:
            # Whoever is writing to it holds it, however slowly the bytes come.
            with suppress(UploadBusy):
                async with self._blobs.writer(session.id):
                    ended += await self._discard(session, idle_since)
        before = now - _DISCARD_GRACE
        while keys := await self._catalog.read(lambda tx: tx.discarded_keys(before, _SWEEP)):
            gone = list(keys)
            await self._blobs.delete(gone)
            await self._catalog.write(lambda tx, gone=gone: tx.forget_keys(gone))  # type: ignore[misc]
        return ended

    def close(self) -> None:
        """Release the hashing threads."""
        self._hashers.shutdown()

    async def _discard(self, session: UploadSession, idle_since: float | None = None) -> bool:
        now = time.time()
        if not await self._catalog.write(lambda tx: tx.discard_upload(session, now, idle_since)):
            return False
        await self._blobs.delete([session.id])
        return True

    @asynccontextmanager
    async def _writing(
        self, repository: RepositoryName, upload_id: str
    ) -> AsyncIterator[tuple[UploadSession, BlobWriter]]:
        asked = await self.session(repository, upload_id)
        async with self._blobs.writer(upload_id) as writer:
            # Once more, now that nobody else can move it. A client that streams on from where it
            # believes the upload stands must not be appended anywhere else.
            session = await self.session(repository, upload_id)
            if session.offset != asked.offset:
                raise UploadOutOfOrder(
                    f"another request moved the upload to {session.offset}", offset=session.offset
                )
            yield session, writer

    @asynccontextmanager
    async def _intake(self, session: UploadSession, writer: BlobWriter) -> AsyncIterator[_Intake]:
        intake = _Intake(self._catalog, self._hashers, session, writer)
        if intake.hasher is None:
            await self._read_again(intake)
        try:
            yield intake
        except (ClientGone, BodySlow):
            await intake.checkpoint()
            raise
        except StorageFull:
            # Give back what the failed write took: the last checkpoint is what counts.
            await writer.sync(intake.session.offset)
            raise
        finally:
            await intake.close()

    async def _read_again(self, intake: _Intake) -> None:
        """Hash what is there: the session was begun where states cannot be saved, or moved."""
        intake.hasher = hashing.fresh(intake.session.algorithm)
        await self._hash_stored(intake.hasher, intake.session.id, intake.session.offset)

    async def _digests(self, intake: _Intake, wanted: Digest) -> list[Digest]:
        """Return every digest known of the bytes, one of the wanted algorithm last."""
        algorithm = intake.session.algorithm
        digests = [Digest(f"{algorithm}:{intake.hexdigest()}")]
        if wanted.algorithm != algorithm:
            # Nothing announced this algorithm (the official suite never does): read again.
            hasher = hashing.fresh(wanted.algorithm)
            await self._hash_stored(hasher, intake.session.id, intake.offset)
            digests.append(Digest(f"{wanted.algorithm}:{hasher.hexdigest()}"))
        return digests

    async def _hash_stored(self, hasher: hashing.Hasher, key: str, size: int) -> None:
        if not size:
            return
        reader = await self._blobs.open(key)
        try:
            for offset in range(0, size, _BATCH):
                piece = await reader.read(offset, min(_BATCH, size - offset))
                await in_thread(self._hashers, hasher.update, (piece,))
        finally:
            reader.close()


class _Intake:
    """One request's bytes on their way into one session.

    A batch is hashed and written while the next one arrives: memory holds two batches, whatever
    the size of the blob.
    """

    def __init__(
        self,
        catalog: Catalog,
        hashers: ThreadPoolExecutor,
        session: UploadSession,
        writer: BlobWriter,
    ) -> None:
        self.session = session
        self.offset = session.offset
        self.hasher = (
            hashing.resumed(session.algorithm, session.hash_state)
            if session.offset
            else hashing.fresh(session.algorithm)
        )
        self._start = session
        self._catalog = catalog
        self._hashers = hashers
        self._writer = writer
        self._recorded_at = time.monotonic()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._absorbing: asyncio.Task[None] | None = None

    async def receive(self, body: Body) -> None:
        """Take the whole body in. Raises UploadOutOfOrder, SizeInvalid, whatever the body does."""
        expected = admit(self.session, body.chunk, body.length)
        came = 0
        async for chunk in body.chunks:
            came += len(chunk)
            if expected is not None and came > expected:
                break
            await self._take(chunk)
        if expected is not None and came != expected:
            await self._absorbed()
            await self.rewind()
            raise SizeInvalid(f"{came} bytes came where the headers announced {expected}")
        await self._settle()

    def hexdigest(self) -> str:
        """Return the digest of all bytes up to `offset`, in hex."""
        assert self.hasher is not None  # noqa: S101 - the caller re-reads where there is none
        return self.hasher.hexdigest()

    async def checkpoint(self) -> None:
        """Make what came durable, then record it."""
        await self._settle()
        await self._writer.sync(self.offset)
        state = self.hasher.state() if self.hasher else None
        await self._record(replace(self.session, offset=self.offset, hash_state=state))

    async def rewind(self) -> None:
        """Put the session back to where this request found it."""
        if self.session != self._start:
            await self._record(self._start)

    async def close(self) -> None:
        """Wait for what is under way, so that nothing writes once the file is closed."""
        if self._absorbing is not None:
            await asyncio.wait([self._absorbing])

    async def _take(self, chunk: bytes) -> None:
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes < _BATCH:
            return
        await self._absorbed()
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._absorbing = asyncio.create_task(self._absorb(batch))
        unrecorded = self.offset - self.session.offset
        if (
            unrecorded >= _CHECKPOINT_BYTES
            or time.monotonic() - self._recorded_at > _CHECKPOINT_SECONDS
        ):
            await self.checkpoint()

    async def _settle(self) -> None:
        await self._absorbed()
        if self._waiting:
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await self._absorb(batch)

    async def _absorbed(self) -> None:
        task, self._absorbing = self._absorbing, None
        if task is not None:
            await task

    async def _absorb(self, batch: Sequence[bytes]) -> None:
        assert self.hasher is not None  # noqa: S101 - the caller re-reads where there is none
        size = sum(map(len, batch))
        if size <= _INLINE:
            self.hasher.update(batch)
            await self._writer.write(self.offset, batch)
        else:
            hashing_it = asyncio.create_task(in_thread(self._hashers, self.hasher.update, batch))
            try:
                await self._writer.write(self.offset, batch)
            finally:
                await hashing_it
        self.offset += size

    async def _record(self, session: UploadSession) -> None:
        now = time.time()
        if not await self._catalog.write(lambda tx: tx.advance_upload(session, now)):
            raise UploadUnknown("the upload was cancelled, or expired, while it was written")
        self.session = session
        self._recorded_at = time.monotonic()

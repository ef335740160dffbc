"""Upload sessions: bytes come in, are hashed and written as they come, and become a blob.

`upload.py` decides, this module acts. The offset a session reports is durable: data is synced
before the catalog records it. So a session survives `kill -9` with what its last checkpoint had,
and finishing one neither copies nor, in general, reads a byte again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import math
import mmap
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from ociserver import hashing
from ociserver.errors import (
    BlobDamaged,
    BodySlow,
    BodyTooLarge,
    ClientGone,
    DigestMismatch,
    LadingError,
    NameInvalid,
    SizeInvalid,
    StorageFull,
    UploadBusy,
    UploadLost,
    UploadOutOfOrder,
    UploadUnknown,
)
from ociserver.ports import (
    BlobReader,
    BlobStore,
    BlobWriter,
    Catalog,
    CatalogTx,
    Committed,
    Keep,
    StoredObject,
)
from ociserver.refs import Digest, RepositoryName, parse_name
from ociserver.threads import in_thread
from ociserver.upload import Chunk, UploadSession, admit, is_session_id

log = logging.getLogger("lading.uploads")

# Bytes that are hashed and written in one go; one such batch is absorbed while the next arrives.
_BATCH = 1024 * 1024
# At most this much is sent again after a crash, or after this many seconds.
_CHECKPOINT_BYTES = 256 * 1024 * 1024
_CHECKPOINT_SECONDS = 30.0
# A thread costs more than hashing this much, and a session more than taking it in whole.
_SMALL = 32 * 1024
_HASHERS = 4
_SWEEP = 500
# Longer than clocks of replicas differ: to another one the lease may not have ended yet.
_LEASES_KEPT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request's body and what its headers say of it.

    `into` fills the start of the memory it is given with what comes next and returns how many bytes
    that were, 0 at the end. Raises ClientGone, BodySlow. `limit` is the most bytes that the blob
    may have with it.
    """

    into: Callable[[memoryview], Awaitable[int]]
    length: int | None = None
    chunk: Chunk | None = None
    limit: float = math.inf


class Uploads:
    """Every upload session of the registry, in any worker: its state is the catalog's."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._hashers = ThreadPoolExecutor(_HASHERS, thread_name_prefix="hash")

    async def begin(self, repository: RepositoryName, algorithm: str, owner: str) -> UploadSession:
        """Open a session (end-4a, end-4c)."""
        session = UploadSession(
            id=uuid.uuid4().hex, repository=repository, algorithm=algorithm, owner=owner
        )
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

    async def owner(self, repository: str, upload_id: str) -> str | None:
        """Return who began the upload, None where there is none."""
        try:
            return (await self.session(parse_name(repository), upload_id)).owner
        except (NameInvalid, UploadUnknown):
            return None

    async def settled(self, repository: RepositoryName, upload_id: str) -> UploadSession:
        """Return the session once no request writes to it, or after a moment (end-13).

        A client that lost its connection asks before we know that it did. Raises UploadUnknown.
        """
        await self.session(repository, upload_id)
        await self._blobs.settled(upload_id)
        return await self.session(repository, upload_id)

    async def append(self, repository: RepositoryName, upload_id: str, body: Body) -> UploadSession:
        """Add a chunk or a stream (end-5); return the session with its new, durable offset.

        Raises UploadUnknown, UploadBusy, UploadOutOfOrder, SizeInvalid, BodyTooLarge. When the
        client leaves or is too slow, what came is kept and ClientGone or BodySlow goes on.
        """
        asked = await self.session(repository, upload_id)
        async with self._writing(asked) as (session, writer):
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
        await self._finish(await self.session(repository, upload_id), digest, body)

    async def receive_whole(
        self, repository: RepositoryName, digest: Digest, body: Body, owner: str
    ) -> None:
        """Take a blob in a single POST (end-4b). On any failure nothing of it is left."""
        session = await self.begin(repository, digest.algorithm, owner)
        try:
            await self._finish(session, digest, body)
        except BaseException:
            await self._discard(session)
            raise

    async def cancel(self, repository: RepositoryName, upload_id: str) -> None:
        """End the session and drop its bytes (end-14). Raises UploadUnknown."""
        session = await self.session(repository, upload_id)
        if not await self._discard(session):
            raise UploadUnknown("no such upload: it was finished or cancelled just now")

    async def sweep(self, idle_seconds: float) -> int:
        """End sessions idle that long, forget leases that ended; return how many were ended.

        Any number of workers may sweep at once.
        """
        now = time.time()
        idle_since = now - idle_seconds
        expired = await self._catalog.read(lambda tx: tx.expired_uploads(idle_since, _SWEEP))
        ended = 0
        for session in expired:
            # Whoever is writing to it holds it, however slowly the bytes come.
            with suppress(UploadBusy):
                async with self._blobs.writer(session.id, self._keep(session)):
                    ended += await self._discard(session, idle_since)
        ended_before = now - _LEASES_KEPT
        await self._catalog.write(lambda tx: tx.drop_leases_ended(ended_before))
        return ended

    def close(self) -> None:
        """Release the hashing threads."""
        self._hashers.shutdown()

    async def _finish(self, asked: UploadSession, digest: Digest, body: Body) -> None:
        if asked.offset == 0 and body.length is not None and body.length <= _SMALL:
            admit(asked, body.chunk, body.length)
            data = await _read(body, body.length)
            digests = _digests_of(data, asked.algorithm, digest.algorithm)
            if digest in digests:
                async with self._blobs.put(asked.id, data) as fresh:
                    if fresh:
                        await self._commit(replace(asked, offset=len(data)), digests)
                        return
            # Not so simple, then: another request's bytes may be there, or on their way.
            body = replace(body, into=_source(data))
        async with self._writing(asked) as (session, writer):
            async with self._intake(session, writer) as intake:
                await intake.receive(body)
                digests = await self._digests(intake, writer, digest)
                if digest not in digests:
                    await intake.rewind()
                    raise DigestMismatch(f"the bytes hash to {digests[-1]}, not to {digest}")
                await writer.complete(intake.offset)
            await self._commit(replace(session, offset=intake.offset), digests)

    async def _commit(self, whole: UploadSession, digests: Sequence[Digest]) -> None:
        now = time.time()
        done = await self._catalog.write(lambda tx: tx.commit_upload(whole, digests, now))
        if done is None:
            await self._delete_unnamed(whole)
            raise UploadUnknown("the upload was cancelled, or finished by another request")
        spare = done.spare
        if spare is None:
            return
        if done.key != whole.id and not await self._is_there(done.key, whole.offset):
            spare = await self._heal(done.key, replace(whole, store_state=spare.state), digests)
        if spare is not None:
            await self._delete(spare)

    async def _is_there(self, key: str, size: int) -> bool:
        """Tell whether the object, which holds what was pushed just now, is still in the store."""
        try:
            (await self._blobs.open(key, size, (0, min(size, 1)))).close()
        except BlobDamaged:
            return False
        except LadingError:
            return True  # nobody can tell, and it was there
        return True

    async def _heal(
        self, damaged: str, whole: UploadSession, digests: Sequence[Digest]
    ) -> StoredObject | None:
        """Have the pushed bytes take the place of an object that is damaged; return what is spare.

        Theirs is discarded by now, but deleted no sooner than a minute after that.
        """
        now = time.time()

        def work(tx: CatalogTx) -> Committed | None:
            tx.quarantine(damaged, now)
            tx.forget_keys([whole.id])
            tx.begin_upload(whole, now)
            return tx.commit_upload(whole, digests, now)

        done = await self._catalog.write(work)
        log.warning("a push healed a blob", extra={"fields": {"damaged": damaged, "key": whole.id}})
        return done.spare if done else None

    async def _discard(self, session: UploadSession, idle_since: float | None = None) -> bool:
        now = time.time()
        own = await self._catalog.write(lambda tx: tx.discard_upload(session, now, idle_since))
        if own is not None:
            await self._delete(own)
        return own is not None

    async def _delete_unnamed(self, ended: UploadSession) -> None:
        """Delete the object of a session that was cancelled before the object was made.

        However long ago that was: its key may be struck off already, and nobody else would.
        """
        own = StoredObject(key=ended.id, state=ended.store_state)
        discarded, finished = await self._catalog.read(
            lambda tx: (tx.discarded_object(own.key), tx.blob_keys([own.key]))
        )
        if not finished:
            await self._delete(discarded or own)

    async def _delete(self, discarded: StoredObject) -> None:
        """Delete it at once, if the store can; `Discards` comes by anyway."""
        with suppress(LadingError):
            await self._blobs.delete([discarded])

    @asynccontextmanager
    async def _writing(
        self, asked: UploadSession
    ) -> AsyncIterator[tuple[UploadSession, BlobWriter]]:
        async with self._blobs.writer(asked.id, self._keep(asked)) as writer:
            # Once more, now that nobody else can move it. A client that streams on from where it
            # believes the upload stands must not be appended anywhere else.
            session = await self.session(asked.repository, asked.id)
            if session.offset != asked.offset:
                raise UploadOutOfOrder(
                    f"another request moved the upload to {session.offset}", offset=session.offset
                )
            writer.resume(session.store_state)
            try:
                yield session, writer
            except UploadLost:
                await self._discard(session)
                raise

    def _keep(self, session: UploadSession) -> Keep:
        async def keep(state: bytes) -> None:
            if not await self._catalog.write(lambda tx: tx.keep_store_state(session.id, state)):
                raise UploadUnknown("the upload was cancelled, or expired, while it was written")

        return keep

    @asynccontextmanager
    async def _intake(self, session: UploadSession, writer: BlobWriter) -> AsyncIterator[_Intake]:
        intake = _Intake(self._catalog, self._hashers, session, writer)
        if intake.hasher is None:
            intake.hasher = hashing.fresh(session.algorithm)
            await self._hash(intake.hasher, writer, session.offset)
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

    async def _digests(self, intake: _Intake, writer: BlobWriter, wanted: Digest) -> list[Digest]:
        """Return every digest known of the bytes, one of the wanted algorithm last."""
        algorithm = intake.session.algorithm
        digests = [Digest(f"{algorithm}:{intake.hexdigest()}")]
        if wanted.algorithm != algorithm:
            # Nothing announced this algorithm (the official suite never does): read again.
            hasher = hashing.fresh(wanted.algorithm)
            await writer.complete(intake.offset)
            await self._hash(hasher, writer, intake.offset)
            digests.append(Digest(f"{wanted.algorithm}:{hasher.hexdigest()}"))
        return digests

    async def _hash(self, hasher: hashing.Hasher, writer: BlobWriter, size: int) -> None:
        """Hash what was written: its state was not saved here, or is of another algorithm."""
        if not size:
            return
        reader: BlobReader = await writer.open(size)
        try:
            async for piece in reader.stream(0, size):
                await in_thread(self._hashers, hasher.update, piece)
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
        # Batches end where the file's do: what goes past the page cache must be aligned to it.
        self._batch = memoryview(mmap.mmap(-1, _BATCH))
        self._spare: memoryview | None = None
        self._begun = self._filled = session.offset % _BATCH
        self._absorbing: asyncio.Task[None] | None = None

    async def receive(self, body: Body) -> None:
        """Take the whole body in.

        Raises UploadOutOfOrder, SizeInvalid, BodyTooLarge, whatever the body does.
        """
        expected = admit(self.session, body.chunk, body.length)
        room = body.limit - self.session.offset
        too_large = BodyTooLarge(f"the blob is over the limit of {body.limit} bytes")
        if expected is not None and expected > room:
            raise too_large
        most, came = room if expected is None else expected, 0
        while size := await body.into(self._batch[self._filled :]):
            came += size
            if came > most:
                break
            self._filled += size
            if self._filled == _BATCH:
                await self._hand_over()
        if came > most or (expected is not None and came != expected):
            await self._absorbed()
            await self.rewind()
            if expected is None:
                raise too_large
            raise SizeInvalid(f"{came} bytes came where the headers announced {expected}")
        await self._settle()

    def hexdigest(self) -> str:
        """Return the digest of all bytes up to `offset`, in hex."""
        assert self.hasher is not None  # noqa: S101 - the caller re-reads where there is none
        return self.hasher.hexdigest()

    async def checkpoint(self) -> None:
        """Make what came durable, then record it."""
        await self._settle()
        stored = await self._writer.sync(self.offset)
        state = self.hasher.state() if self.hasher else None
        await self._record(
            replace(self.session, offset=self.offset, hash_state=state, store_state=stored)
        )

    async def rewind(self) -> None:
        """Put the session back to where this request found it."""
        stored = await self._writer.sync(self._start.offset)
        await self._record(replace(self._start, store_state=stored))

    async def close(self) -> None:
        """Wait for what is under way, so that nothing writes once the file is closed."""
        if self._absorbing is not None:
            await asyncio.wait([self._absorbing])

    async def _hand_over(self) -> None:
        await self._absorbed()
        piece = self._batch[self._begun :]
        self._batch, self._spare = self._spare or memoryview(mmap.mmap(-1, _BATCH)), self._batch
        self._begun = self._filled = 0
        self._absorbing = asyncio.create_task(self._absorb(piece))
        unrecorded = self.offset - self.session.offset
        if (
            unrecorded >= _CHECKPOINT_BYTES
            or time.monotonic() - self._recorded_at > _CHECKPOINT_SECONDS
        ):
            await self.checkpoint()

    async def _settle(self) -> None:
        await self._absorbed()
        if self._filled > self._begun:
            piece = self._batch[self._begun : self._filled]
            self._begun = self._filled
            await self._absorb(piece)

    async def _absorbed(self) -> None:
        task, self._absorbing = self._absorbing, None
        if task is not None:
            await task

    async def _absorb(self, piece: memoryview) -> None:
        assert self.hasher is not None  # noqa: S101 - the caller re-reads where there is none
        if len(piece) <= _SMALL:
            self.hasher.update(piece)
            await self._writer.write(self.offset, piece)
        else:
            hashing_it = asyncio.create_task(in_thread(self._hashers, self.hasher.update, piece))
            try:
                await self._writer.write(self.offset, piece)
            finally:
                await hashing_it
        self.offset += len(piece)

    async def _record(self, session: UploadSession) -> None:
        now, since = time.time(), self.session.offset
        if not await self._catalog.write(lambda tx: tx.advance_upload(session, since, now)):
            raise UploadUnknown("the upload was cancelled, or moved on by another request")
        self.session = session
        self._recorded_at = time.monotonic()


async def _read(body: Body, size: int) -> bytes:
    data = bytearray(size)
    came = 0
    with memoryview(data) as view:
        while came < size and (more := await body.into(view[came:])):
            came += more
    return bytes(data)


def _source(data: bytes) -> Callable[[memoryview], Awaitable[int]]:
    """Return an `into` of bytes that are here already."""
    stream = io.BytesIO(data)

    async def into(memory: memoryview) -> int:
        return stream.readinto(memory)

    return into


def _digests_of(data: bytes, *algorithms: str) -> list[Digest]:
    return [
        Digest(f"{each}:{hashlib.new(each, data).hexdigest()}")
        for each in dict.fromkeys(algorithms)
    ]

"""Work in flight, in SQL: upload sessions, objects to be deleted. `ports.UploadRows`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update

from ociserver.ports import BESIDE, Committed, StoredObject
from ociserver.refs import Digest, RepositoryName
from ociserver.storage.blobs import BlobSql
from ociserver.storage.schema import blob, blob_digest, discarded, upload
from ociserver.upload import UploadSession

_session = select(
    upload.c.id,
    upload.c.repository,
    upload.c.algorithm,
    upload.c.owner,
    upload.c.offset,
    upload.c.hash_state,
    upload.c.store_state,
)
_one_session = _session.where(
    upload.c.id == bindparam("upload"), upload.c.repository == bindparam("repository")
)
_new_session = insert(upload)
_advanced = (
    update(upload)
    .where(upload.c.id == bindparam("upload"), upload.c.offset == bindparam("since"))
    .values(
        offset=bindparam("to"),
        hash_state=bindparam("hashed"),
        store_state=bindparam("stored"),
        touched_at=bindparam("now"),
    )
)
_kept = (
    update(upload).where(upload.c.id == bindparam("upload")).values(store_state=bindparam("stored"))
)
_ended = delete(upload).where(upload.c.id == bindparam("upload")).returning(upload.c.store_state)
_ended_if_idle = _ended.where(upload.c.touched_at < bindparam("idle_since"))
_held = (
    select(blob.c.id, blob.c.key, blob.c.quarantined_at)
    .distinct()
    .join(blob_digest, blob_digest.c.blob_id == blob.c.id)
    .where(blob_digest.c.digest.in_(bindparam("names", expanding=True)))
)
_new_blob = insert(blob).returning(blob.c.id, blob.c.key)
_to_delete = select(discarded.c.key, discarded.c.store_state)


class UploadSql(BlobSql):
    """`ports.UploadRows`."""

    def begin_upload(self, session: UploadSession, now: float) -> None:
        self._db.execute(
            _new_session,
            {
                "id": session.id,
                "repository": session.repository,
                "algorithm": session.algorithm,
                "owner": session.owner,
                "offset": session.offset,
                "hash_state": session.hash_state,
                "store_state": session.store_state,
                "touched_at": now,
            },
        )

    def upload(self, repository: RepositoryName, upload_id: str) -> UploadSession | None:
        row = self._db.execute(
            _one_session, {"upload": upload_id, "repository": repository}
        ).one_or_none()
        return _as_session(row) if row else None

    def advance_upload(self, session: UploadSession, since: int, now: float) -> bool:
        moved = self._db.execute(
            _advanced,
            {
                "upload": session.id,
                "since": since,
                "to": session.offset,
                "hashed": session.hash_state,
                "stored": session.store_state,
                "now": now,
            },
        )
        return moved.rowcount > 0

    def keep_store_state(self, upload_id: str, state: bytes) -> bool:
        return self._db.execute(_kept, {"upload": upload_id, "stored": state}).rowcount > 0

    def commit_upload(
        self, session: UploadSession, digests: Iterable[Digest], now: float
    ) -> Committed | None:
        own = self._end(session)
        if own is None:
            return None
        names = list(digests)
        found = self._db.execute(_held, {"names": names}).all()
        held = [row for row in found if row.quarantined_at is None]
        spare: StoredObject | None = own
        if not held:
            values = {"key": session.id, "size": session.offset, "created_at": now}
            held = list(self._db.execute(_new_blob, values))
            spare = StoredObject(key=own.key + BESIDE, state=own.state) if own.state else None
        if spare is not None:
            self._discard(spare, now)
        for row in found:
            if row.quarantined_at is not None:
                self._replace(damaged=row.id, sound=held[0].id)
                self._discard(StoredObject(key=row.key, state=None), now)
        for name in names:
            self._insert_new(blob_digest, {"digest": name, "blob_id": held[0].id})
        # Held twice where each was pushed under an algorithm of its own: either name must work.
        for row in held:
            self._link(session.repository, row.id, now)
        return Committed(key=held[0].key, spare=spare)

    def discard_upload(
        self, session: UploadSession, now: float, idle_since: float | None = None
    ) -> StoredObject | None:
        own = self._end(session, idle_since)
        if own is not None:
            self._discard(own, now)
        return own

    def expired_uploads(self, before: float, limit: int) -> Sequence[UploadSession]:
        rows = self._db.execute(
            _session.where(upload.c.touched_at < before).order_by(upload.c.touched_at).limit(limit)
        )
        return [_as_session(row) for row in rows]

    def discarded(self, before: float, limit: int, after: str = "") -> Sequence[StoredObject]:
        found = _to_delete.where(discarded.c.since < before, discarded.c.key > after)
        rows = self._db.execute(found.order_by(discarded.c.key).limit(limit))
        return [_as_object(row) for row in rows]

    def discarded_object(self, key: str) -> StoredObject | None:
        row = self._db.execute(_to_delete.where(discarded.c.key == key)).one_or_none()
        return _as_object(row) if row else None

    def forget_keys(self, keys: Sequence[str]) -> int:
        return self._db.execute(delete(discarded).where(discarded.c.key.in_(keys))).rowcount

    def _end(self, session: UploadSession, idle_since: float | None = None) -> StoredObject | None:
        statement = _ended if idle_since is None else _ended_if_idle
        values = {"upload": session.id, "idle_since": idle_since}
        row = self._db.execute(statement, values).one_or_none()
        return StoredObject(key=session.id, state=row.store_state) if row else None

    def _discard(self, stored: StoredObject, now: float) -> None:
        self._insert_new(discarded, {"key": stored.key, "store_state": stored.state, "since": now})


def _as_object(row: Row[*tuple[Any, ...]]) -> StoredObject:
    return StoredObject(key=row.key, state=row.store_state)


def _as_session(row: Row[*tuple[Any, ...]]) -> UploadSession:
    return UploadSession(
        id=row.id,
        repository=RepositoryName(row.repository),
        algorithm=row.algorithm,
        owner=row.owner,
        offset=row.offset,
        hash_state=row.hash_state,
        store_state=row.store_state,
    )

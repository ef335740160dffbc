"""The catalog's SQL, all of it: one transaction as plain methods over SQLAlchemy Core.

Portable only: conditional UPDATE and DELETE with a row count, unique keys, INSERT … ON CONFLICT.
No query in a loop. The engines (`sqlite.py`) run these methods; nothing here commits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ociserver.content import Manifest
from ociserver.errors import ManifestInvalid
from ociserver.ports import ReferrerPage, StoredBlob, StoredManifest
from ociserver.refs import Digest, Reference, RepositoryName, Tag
from ociserver.storage.schema import (
    blob,
    blob_digest,
    discarded,
    manifest,
    manifest_child,
    repository,
    repository_blob,
    tag,
    upload,
)
from ociserver.upload import UploadSession

# Parameters one statement may carry; SQLite's own bound is 32,766, asyncpg's 32,767.
_BATCH = 1000
_MISSING_NAMED = 100

_repository_id = (
    select(repository.c.id).where(repository.c.name == bindparam("repository")).scalar_subquery()
)
_linked_blob = (
    select(blob.c.key, blob.c.size)
    .join(blob_digest, blob_digest.c.blob_id == blob.c.id)
    .join(repository_blob, repository_blob.c.blob_id == blob.c.id)
    .where(
        repository_blob.c.repository_id == _repository_id,
        blob_digest.c.digest == bindparam("digest"),
    )
)
_stored = (manifest.c.digest, manifest.c.media_type, manifest.c.body)
_manifest_by_digest = select(*_stored).where(
    manifest.c.repository_id == _repository_id, manifest.c.digest == bindparam("reference")
)
_manifest_by_tag = (
    select(*_stored)
    .join(
        tag,
        and_(tag.c.repository_id == manifest.c.repository_id, tag.c.digest == manifest.c.digest),
    )
    .where(tag.c.repository_id == _repository_id, tag.c.name == bindparam("reference"))
)
_session = select(
    upload.c.id,
    upload.c.repository,
    upload.c.algorithm,
    upload.c.offset,
    upload.c.hash_state,
)

# What a push runs is built once: for a small one, building it would cost more than running it.
_known_repository = select(repository.c.id).where(repository.c.name == bindparam("repository"))
_one_session = _session.where(
    upload.c.id == bindparam("upload"), upload.c.repository == bindparam("repository")
)
_new_session, _new_edge = insert(upload), insert(manifest_child)
_moved_tag = (
    update(tag)
    .where(tag.c.repository_id == bindparam("in_repository"), tag.c.name == bindparam("moved"))
    .values(digest=bindparam("to"), updated_at=bindparam("now"))
)
_advanced = update(upload).where(upload.c.id == bindparam("upload"))
_ended = delete(upload).where(upload.c.id == bindparam("upload"))
_ended_if_idle = _ended.where(upload.c.touched_at < bindparam("idle_since"))
_held = (
    select(blob.c.id, blob.c.key)
    .distinct()
    .join(blob_digest, blob_digest.c.blob_id == blob.c.id)
    .where(blob_digest.c.digest.in_(bindparam("names", expanding=True)))
)
_new_blob = insert(blob).returning(blob.c.id, blob.c.key)
_held_blobs = (
    select(blob_digest.c.digest)
    .join(repository_blob, repository_blob.c.blob_id == blob_digest.c.blob_id)
    .where(
        repository_blob.c.repository_id == _repository_id,
        blob_digest.c.digest.in_(bindparam("names", expanding=True)),
    )
)
_held_manifests = select(manifest.c.digest).where(
    manifest.c.repository_id == _repository_id,
    manifest.c.digest.in_(bindparam("names", expanding=True)),
)


class _Inserts:
    """The statements with ON CONFLICT, which each dialect spells in a class of its own."""

    def __init__(self, dialect: str) -> None:
        made = {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert
        tables = (repository, manifest, tag, blob_digest, repository_blob, discarded)
        self.new = {table: made(table).on_conflict_do_nothing() for table in tables}


_inserts = cache(_Inserts)


class SqlCatalogTx:
    """`ports.CatalogTx` over one connection inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._inserts = _inserts(connection.dialect.name)
        self._repository_ids: dict[RepositoryName, int] = {}
        # Repositories from which something was taken, or where it moved: what caches must hear of.
        self.changed: set[RepositoryName] = set()

    # -- manifests, edges, tags

    def manifest(self, repository: RepositoryName, reference: Reference) -> StoredManifest | None:
        statement = _manifest_by_digest if isinstance(reference, Digest) else _manifest_by_tag
        row = self._db.execute(
            statement, {"repository": repository, "reference": reference}
        ).one_or_none()
        if row is None:
            return None
        return StoredManifest(digest=Digest(row.digest), media_type=row.media_type, body=row.body)

    def put_manifest(
        self, repository: RepositoryName, stored: StoredManifest, view: Manifest
    ) -> None:
        repository_id = self._repository_id(repository)
        created = self._insert_new(
            manifest,
            {
                "repository_id": repository_id,
                "digest": stored.digest,
                "media_type": stored.media_type,
                "artifact_type": view.artifact_type,
                "subject": view.subject,
                "created_at": time.time(),
                "descriptor": view.descriptor(stored.digest, len(stored.body)),
                "body": stored.body,
            },
        )
        if not created:
            return self._refuse_other_type(repository_id, stored)
        edges = [
            {"repository_id": repository_id, "parent": stored.digest, "child": child}
            for child in {*view.blobs, *view.manifests}
        ]
        if edges:
            self._db.execute(_new_edge, edges)
        return None

    def _refuse_other_type(self, repository_id: int, stored: StoredManifest) -> None:
        kept = self._db.execute(
            select(manifest.c.media_type).where(
                manifest.c.repository_id == repository_id, manifest.c.digest == stored.digest
            )
        ).scalar_one()
        if kept != stored.media_type:
            raise ManifestInvalid(
                f"{stored.digest} is held as {kept}; as {stored.media_type} it would mean "
                "something else. Delete it first."
            )

    def delete_manifest(self, repository: RepositoryName, digest: Digest) -> bool:
        self.changed.add(repository)
        where = {"repository": repository, "digest": digest}
        for edges, column in ((tag, tag.c.digest), (manifest_child, manifest_child.c.parent)):
            self._db.execute(
                delete(edges).where(
                    edges.c.repository_id == _repository_id, column == bindparam("digest")
                ),
                where,
            )
        removed = self._db.execute(
            delete(manifest).where(
                manifest.c.repository_id == _repository_id,
                manifest.c.digest == bindparam("digest"),
            ),
            where,
        )
        return removed.rowcount > 0

    def referrers(
        self,
        repository: RepositoryName,
        subject: Digest,
        artifact_type: str | None,
        page: ReferrerPage,
    ) -> Sequence[tuple[str, bytes]]:
        # Sizes first: a descriptor may carry 4 MiB of annotations, and a page has a bounded size.
        wanted = (
            manifest.c.repository_id == _repository_id,
            manifest.c.subject == bindparam("subject"),
            manifest.c.digest > bindparam("last"),
            *([] if artifact_type is None else [manifest.c.artifact_type == artifact_type]),
        )
        sizes = (
            select(manifest.c.digest, func.length(manifest.c.descriptor))
            .where(*wanted)
            .order_by(manifest.c.digest)
            .limit(page.limit + 1)
        )
        values = {"repository": repository, "subject": subject, "last": page.last}
        rows = self._db.execute(sizes, values).all()
        count = self._fitting(rows, page)
        texts = (
            select(manifest.c.digest, manifest.c.descriptor)
            .where(*wanted)
            .order_by(manifest.c.digest)
            .limit(count)
        )
        found = [(row[0], row[1]) for row in self._db.execute(texts, values)] if count else []
        return found + [(row[0], b"") for row in rows[count : count + 1]]

    @staticmethod
    def _fitting(rows: Sequence[Row[*tuple[Any, ...]]], page: ReferrerPage) -> int:
        total = 0
        for count, (_, size) in enumerate(rows[: page.limit]):
            total += size + 1
            if count and total > page.max_bytes:
                return count
        return min(len(rows), page.limit)

    def move_tag(self, repository: RepositoryName, name: Tag, digest: Digest) -> None:
        repository_id, now = self._repository_id(repository), time.time()
        values = {"repository_id": repository_id, "name": name, "digest": digest, "updated_at": now}
        if not self._insert_new(tag, values):
            where = {"in_repository": repository_id, "moved": name}
            self._db.execute(_moved_tag, {**where, "to": digest, "now": now})
            self.changed.add(repository)

    def delete_tag(self, repository: RepositoryName, name: Tag) -> bool:
        self.changed.add(repository)
        removed = self._db.execute(
            delete(tag).where(
                tag.c.repository_id == _repository_id, tag.c.name == bindparam("tag")
            ),
            {"repository": repository, "tag": name},
        )
        return removed.rowcount > 0

    def tags(self, repository: RepositoryName, last: str, limit: int) -> Sequence[str]:
        names = (
            select(tag.c.name)
            .where(tag.c.repository_id == _repository_id, tag.c.name > bindparam("last"))
            .order_by(tag.c.name)
            .limit(limit)
        )
        return self._db.execute(names, {"repository": repository, "last": last}).scalars().all()

    def repositories(self, last: str, limit: int) -> Sequence[str]:
        names = (
            select(repository.c.name)
            .where(
                repository.c.name > last,
                exists().where(manifest.c.repository_id == repository.c.id),
            )
            .order_by(repository.c.name)
            .limit(limit)
        )
        return self._db.execute(names).scalars().all()

    def repository_exists(self, name: RepositoryName) -> bool:
        return self._db.execute(_known_repository, {"repository": name}).first() is not None

    # -- blobs

    def blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob | None:
        row = self._db.execute(
            _linked_blob, {"repository": repository, "digest": digest}
        ).one_or_none()
        return StoredBlob(key=row.key, size=row.size) if row else None

    def mount(
        self, repository: RepositoryName, digest: Digest, source: RepositoryName | None
    ) -> bool:
        linked = (
            select(repository_blob.c.blob_id)
            .join(blob_digest, blob_digest.c.blob_id == repository_blob.c.blob_id)
            .where(blob_digest.c.digest == bindparam("digest"))
            .limit(1)
        )
        if source is not None:
            linked = linked.where(repository_blob.c.repository_id == _repository_id)
        blob_id = self._db.execute(
            linked, {"digest": digest, "repository": source} if source else {"digest": digest}
        ).scalar_one_or_none()
        if blob_id is None:
            return False
        self._link(repository, blob_id)
        return True

    def unlink_blob(self, repository: RepositoryName, digest: Digest) -> None:
        self.changed.add(repository)
        blob_id = select(blob_digest.c.blob_id).where(blob_digest.c.digest == bindparam("digest"))
        self._db.execute(
            delete(repository_blob).where(
                repository_blob.c.repository_id == _repository_id,
                repository_blob.c.blob_id == blob_id.scalar_subquery(),
            ),
            {"repository": repository, "digest": digest},
        )

    def needed_by(self, repository: RepositoryName, digest: Digest) -> Digest | None:
        # By any name of the same bytes: a manifest may have named them by another algorithm.
        twin = blob_digest.alias()
        names = (
            select(blob_digest.c.digest)
            .join(twin, twin.c.blob_id == blob_digest.c.blob_id)
            .where(twin.c.digest == bindparam("digest"))
        )
        parent = (
            select(manifest_child.c.parent)
            .where(
                manifest_child.c.repository_id == _repository_id,
                manifest_child.c.child.in_(names),
            )
            .limit(1)
        )
        found = self._db.execute(
            parent, {"repository": repository, "digest": digest}
        ).scalar_one_or_none()
        return Digest(found) if found else None

    def missing(self, repository: RepositoryName, view: Manifest) -> Sequence[Digest]:
        absent: list[Digest] = []
        for named, held in ((view.blobs, _held_blobs), (view.manifests, _held_manifests)):
            for start in range(0, len(named), _BATCH):
                batch = named[start : start + _BATCH]
                found = self._db.execute(held, {"repository": repository, "names": batch})
                present = set(found.scalars())
                absent += [digest for digest in batch if digest not in present]
                if len(absent) >= _MISSING_NAMED:
                    return absent[:_MISSING_NAMED]
        return absent

    # -- uploads

    def begin_upload(self, session: UploadSession, now: float) -> None:
        self._db.execute(
            _new_session,
            {
                "id": session.id,
                "repository": session.repository,
                "algorithm": session.algorithm,
                "offset": session.offset,
                "hash_state": session.hash_state,
                "touched_at": now,
            },
        )

    def upload(self, repository: RepositoryName, upload_id: str) -> UploadSession | None:
        row = self._db.execute(
            _one_session, {"upload": upload_id, "repository": repository}
        ).one_or_none()
        return _as_session(row) if row else None

    def advance_upload(self, session: UploadSession, now: float) -> bool:
        moved = self._db.execute(
            _advanced,
            {
                "upload": session.id,
                "offset": session.offset,
                "hash_state": session.hash_state,
                "touched_at": now,
            },
        )
        return moved.rowcount > 0

    def commit_upload(
        self, session: UploadSession, digests: Iterable[Digest], now: float
    ) -> str | None:
        if not self._end(session):
            return None
        names = list(digests)
        held = self._db.execute(_held, {"names": names}).all()
        if held:
            self._discard(session.id, now)
        else:
            values = {"key": session.id, "size": session.offset, "created_at": now}
            held = self._db.execute(_new_blob, values).all()
        for name in names:
            self._insert_new(blob_digest, {"digest": name, "blob_id": held[0].id})
        # Held twice where each was pushed under an algorithm of its own: either name must work.
        for row in held:
            self._link(session.repository, row.id)
        key: str = held[0].key
        return key

    def discard_upload(
        self, session: UploadSession, now: float, idle_since: float | None = None
    ) -> bool:
        if not self._end(session, idle_since):
            return False
        self._discard(session.id, now)
        return True

    def expired_uploads(self, before: float, limit: int) -> Sequence[UploadSession]:
        rows = self._db.execute(
            _session.where(upload.c.touched_at < before).order_by(upload.c.touched_at).limit(limit)
        )
        return [_as_session(row) for row in rows]

    def discarded_keys(self, before: float, limit: int) -> Sequence[str]:
        keys = select(discarded.c.key).where(discarded.c.since < before).limit(limit)
        return self._db.execute(keys).scalars().all()

    def forget_keys(self, keys: Sequence[str]) -> None:
        self._db.execute(delete(discarded).where(discarded.c.key.in_(keys)))

    # -- shared by the above

    def _repository_id(self, name: RepositoryName) -> int:
        known = self._repository_ids.get(name)
        if known is None:
            where = {"repository": name}
            known = self._db.execute(_known_repository, where).scalar_one_or_none()
            if known is None:
                self._insert_new(repository, {"name": name})
                known = self._db.execute(_known_repository, where).scalar_one()
            self._repository_ids[name] = known
        return known

    def _link(self, repository: RepositoryName, blob_id: int) -> None:
        self._insert_new(
            repository_blob,
            {"repository_id": self._repository_id(repository), "blob_id": blob_id},
        )

    def _end(self, session: UploadSession, idle_since: float | None = None) -> bool:
        statement = _ended if idle_since is None else _ended_if_idle
        values = {"upload": session.id, "idle_since": idle_since}
        return self._db.execute(statement, values).rowcount > 0

    def _discard(self, key: str, now: float) -> None:
        self._insert_new(discarded, {"key": key, "since": now})

    def _insert_new(self, table: Table, values: dict[str, Any]) -> bool:
        """Insert unless a row with the same key is there; tell whether it was inserted."""
        return self._db.execute(self._inserts.new[table], values).rowcount > 0


def _as_session(row: Row[*tuple[Any, ...]]) -> UploadSession:
    return UploadSession(
        id=row.id,
        repository=RepositoryName(row.repository),
        algorithm=row.algorithm,
        offset=row.offset,
        hash_state=row.hash_state,
    )

"""Which bytes exist and which repositories link them, in SQL. `ports.BlobRows`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, literal, select, update

from ociserver.content import Manifest
from ociserver.errors import BlobQuarantined
from ociserver.ports import StoredBlob
from ociserver.refs import Digest, RepositoryName
from ociserver.storage.schema import (
    blob,
    blob_digest,
    manifest,
    manifest_child,
    repository,
    repository_blob,
)
from ociserver.storage.transaction import (
    RENEWAL_SECONDS,
    SqlTransaction,
    insert_unless_there,
    repository_named,
)

# Parameters one statement may carry; SQLite's own bound is 32,766, asyncpg's 32,767.
_BATCH = 1000
_MISSING_NAMED = 100

_linked_blob = (
    select(blob.c.key, blob.c.size, blob.c.quarantined_at, repository_blob.c.linked_at)
    .join(blob_digest, blob_digest.c.blob_id == blob.c.id)
    .join(repository_blob, repository_blob.c.blob_id == blob.c.id)
    .where(
        repository_blob.c.repository_id == repository_named,
        blob_digest.c.digest == bindparam("digest"),
    )
)
_held_blobs = (
    select(blob_digest.c.digest)
    .join(repository_blob, repository_blob.c.blob_id == blob_digest.c.blob_id)
    .join(blob, blob.c.id == blob_digest.c.blob_id)
    .where(
        repository_blob.c.repository_id == repository_named,
        blob.c.quarantined_at.is_(None),
        blob_digest.c.digest.in_(bindparam("names", expanding=True)),
    )
)
_linked = (
    select(repository_blob.c.blob_id)
    .join(blob_digest, blob_digest.c.blob_id == repository_blob.c.blob_id)
    .join(blob, blob.c.id == repository_blob.c.blob_id)
    .where(blob_digest.c.digest == bindparam("digest"), blob.c.quarantined_at.is_(None))
)
_held_manifests = select(manifest.c.digest).where(
    manifest.c.repository_id == repository_named,
    manifest.c.digest.in_(bindparam("names", expanding=True)),
)
# The blobs of that digest which the repository links.
_links_named = (
    repository_blob.c.repository_id == repository_named,
    repository_blob.c.blob_id.in_(
        select(blob_digest.c.blob_id).where(blob_digest.c.digest == bindparam("digest"))
    ),
)
_link_named = select(repository_blob.c.linked_at).where(*_links_named)
_renewed_link = (
    update(repository_blob)
    .where(*_links_named, repository_blob.c.linked_at < bindparam("now") - RENEWAL_SECONDS)
    .values(linked_at=bindparam("now"))
)


class BlobSql(SqlTransaction):
    """`ports.BlobRows`."""

    def blob(self, repository: RepositoryName, digest: Digest) -> StoredBlob | None:
        row = self._db.execute(
            _linked_blob, {"repository": repository, "digest": digest}
        ).one_or_none()
        if row is None:
            return None
        if row.quarantined_at is not None:
            raise BlobQuarantined(
                f"{repository} has blob {digest} in quarantine, damaged: pushing it again heals it"
            )
        return StoredBlob(key=row.key, size=row.size, linked_at=row.linked_at)

    def mount(
        self, repository: RepositoryName, digest: Digest, source: RepositoryName, now: float
    ) -> bool:
        linked = _linked.where(repository_blob.c.repository_id == repository_named).limit(1)
        blob_id = self._db.execute(
            linked, {"digest": digest, "repository": source}
        ).scalar_one_or_none()
        if blob_id is None:
            return False
        self._link(repository, blob_id, now)
        return True

    def holding(self, digest: Digest, limit: int) -> Sequence[RepositoryName]:
        names = (
            _linked.join(repository, repository.c.id == repository_blob.c.repository_id)
            .with_only_columns(repository.c.name)
            .order_by(repository.c.name)
            .limit(limit)
        )
        found = self._db.execute(names, {"digest": digest}).scalars()
        return [RepositoryName(name) for name in found]

    def renew_link(self, repository: RepositoryName, digest: Digest, now: float) -> bool:
        where = {"repository": repository, "digest": digest}
        if self._db.execute(_renewed_link, {**where, "now": now}).rowcount > 0:
            return True
        return self._db.execute(_link_named, where).first() is not None

    def unlink_blob(self, repository: RepositoryName, digest: Digest) -> None:
        self.changed.add(repository)
        blob_id = select(blob_digest.c.blob_id).where(blob_digest.c.digest == bindparam("digest"))
        self._db.execute(
            delete(repository_blob).where(
                repository_blob.c.repository_id == repository_named,
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
                manifest_child.c.repository_id == repository_named,
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

    def _replace(self, damaged: int, sound: int) -> None:
        """Let one blob be what another was: its digests, and its links with their ages."""
        of_damaged = repository_blob.c.blob_id == damaged
        links = select(
            repository_blob.c.repository_id, literal(sound), repository_blob.c.linked_at
        ).where(of_damaged)
        columns = ["repository_id", "blob_id", "linked_at"]
        self.changed.update(self._linking(damaged))
        new_links = insert_unless_there(self._dialect, repository_blob)
        self._db.execute(new_links.from_select(columns, links))
        self._db.execute(delete(repository_blob).where(of_damaged))
        names = update(blob_digest).where(blob_digest.c.blob_id == damaged)
        self._db.execute(names.values(blob_id=sound))
        self._db.execute(delete(blob).where(blob.c.id == damaged))

    def _linking(self, blob_id: int) -> Sequence[RepositoryName]:
        """Return the repositories that link the blob, by name."""
        names = (
            select(repository.c.name)
            .join(repository_blob, repository_blob.c.repository_id == repository.c.id)
            .where(repository_blob.c.blob_id == blob_id)
            .order_by(repository.c.name)
        )
        return [RepositoryName(name) for name in self._db.execute(names).scalars()]

    def _link(self, repository: RepositoryName, blob_id: int, now: float) -> None:
        values = {
            "repository_id": self._repository_id(repository),
            "blob_id": blob_id,
            "linked_at": now,
        }
        self._db.execute(self._inserts.link, values)

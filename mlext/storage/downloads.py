"""What downloads are made of, in SQL. `ports.DownloadRows`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select

from mlext.storage.schema import secret
from ociserver.ports import StoredBlob
from ociserver.refs import Digest, RepositoryName
from ociserver.storage.schema import blob, blob_digest, manifest, repository, repository_blob
from ociserver.storage.transaction import SqlTransaction, repository_named

_linked = (
    select(blob_digest.c.digest, blob.c.key, blob.c.size, repository_blob.c.linked_at)
    .join(blob, blob.c.id == blob_digest.c.blob_id)
    .join(repository_blob, repository_blob.c.blob_id == blob.c.id)
    .where(repository_blob.c.repository_id == repository_named, blob.c.quarantined_at.is_(None))
)


class DownloadSql(SqlTransaction):
    """`ports.DownloadRows`."""

    def manifest_holders(self, digest: Digest, limit: int) -> Sequence[RepositoryName]:
        names = (
            select(repository.c.name)
            .join(manifest, manifest.c.repository_id == repository.c.id)
            .where(manifest.c.digest == digest)
            .order_by(repository.c.name)
            .limit(limit)
        )
        return [RepositoryName(name) for name in self._db.execute(names).scalars()]

    def blobs_of(
        self, repository: RepositoryName, digests: Collection[Digest]
    ) -> Mapping[Digest, StoredBlob]:
        found = _linked.where(blob_digest.c.digest.in_(list(digests)))
        return {
            Digest(row.digest): StoredBlob(key=row.key, size=row.size, linked_at=row.linked_at)
            for row in self._db.execute(found, {"repository": repository})
        }

    def secret(self, name: str) -> bytes | None:
        found = select(secret.c.value).where(secret.c.name == name)
        return self._db.execute(found).scalar_one_or_none()

    def keep_secret(self, name: str, fresh: bytes) -> bytes:
        self._insert_new(secret, {"name": name, "value": fresh})
        return self.secret(name) or fresh

"""The graph in SQL: manifests, their edges, the tags on them. `ports.ManifestRows`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, exists, func, insert, select, update

from ociserver.content import Manifest
from ociserver.errors import ManifestInvalid
from ociserver.ports import ReferrerPage, StoredManifest
from ociserver.refs import Digest, Reference, RepositoryName, Tag
from ociserver.storage.schema import manifest, manifest_child, repository, tag
from ociserver.storage.transaction import (
    RENEWAL_SECONDS,
    SqlTransaction,
    known_repository,
    repository_named,
)

_stored = (manifest.c.digest, manifest.c.media_type, manifest.c.body, manifest.c.touched_at)
_manifest_by_digest = select(*_stored).where(
    manifest.c.repository_id == repository_named, manifest.c.digest == bindparam("reference")
)
_manifest_by_tag = (
    select(*_stored)
    .join(
        tag,
        and_(tag.c.repository_id == manifest.c.repository_id, tag.c.digest == manifest.c.digest),
    )
    .where(tag.c.repository_id == repository_named, tag.c.name == bindparam("reference"))
)
# What a push runs is built once: for a small one, building it would cost more than running it.
_new_edge = insert(manifest_child)
_moved_tag = (
    update(tag)
    .where(tag.c.repository_id == bindparam("in_repository"), tag.c.name == bindparam("moved"))
    .values(digest=bindparam("to"), updated_at=bindparam("now"))
)
_touched = (
    update(manifest)
    .where(manifest.c.repository_id == repository_named, manifest.c.digest == bindparam("touched"))
    .where(manifest.c.touched_at < bindparam("now") - RENEWAL_SECONDS)
    .values(touched_at=bindparam("now"))
)
_tagged = select(tag.c.digest).where(
    tag.c.repository_id == repository_named, tag.c.name == bindparam("tag")
)


class ManifestSql(SqlTransaction):
    """`ports.ManifestRows`."""

    def manifest(self, repository: RepositoryName, reference: Reference) -> StoredManifest | None:
        statement = _manifest_by_digest if isinstance(reference, Digest) else _manifest_by_tag
        row = self._db.execute(
            statement, {"repository": repository, "reference": reference}
        ).one_or_none()
        if row is None:
            return None
        return StoredManifest(
            digest=Digest(row.digest),
            media_type=row.media_type,
            body=row.body,
            touched_at=row.touched_at,
        )

    def put_manifest(
        self, repository: RepositoryName, stored: StoredManifest, view: Manifest
    ) -> None:
        repository_id, now = self._repository_id(repository), time.time()
        created = self._insert_new(
            manifest,
            {
                "repository_id": repository_id,
                "digest": stored.digest,
                "media_type": stored.media_type,
                "artifact_type": view.artifact_type,
                "subject": view.subject,
                "created_at": now,
                "touched_at": now,
                "descriptor": view.descriptor(stored.digest, len(stored.body)),
                "body": stored.body,
            },
        )
        if not created:
            self._refuse_other_type(repository_id, stored)
            self._touch(repository, stored.digest, now)
            return
        edges = [
            {"repository_id": repository_id, "parent": stored.digest, "child": child}
            for child in {*view.blobs, *view.manifests}
        ]
        if edges:
            self._db.execute(_new_edge, edges)

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

    def touch_manifest(self, repository: RepositoryName, digest: Digest, now: float) -> bool:
        if self._touch(repository, digest, now):
            return True
        there = select(manifest.c.digest).where(
            manifest.c.repository_id == repository_named, manifest.c.digest == digest
        )
        return self._db.execute(there, {"repository": repository}).first() is not None

    def _touch(self, repository: RepositoryName, digest: Digest, now: float) -> bool:
        where = {"repository": repository, "touched": digest}
        return self._db.execute(_touched, {**where, "now": now}).rowcount > 0

    def delete_manifest(self, repository: RepositoryName, digest: Digest) -> bool:
        self.changed.add(repository)
        where = {"repository": repository, "digest": digest}
        for edges, column in ((tag, tag.c.digest), (manifest_child, manifest_child.c.parent)):
            self._db.execute(
                delete(edges).where(
                    edges.c.repository_id == repository_named, column == bindparam("digest")
                ),
                where,
            )
        removed = self._db.execute(
            delete(manifest).where(
                manifest.c.repository_id == repository_named,
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
            manifest.c.repository_id == repository_named,
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
            self._untag(repository, name, now)
            where = {"in_repository": repository_id, "moved": name}
            self._db.execute(_moved_tag, {**where, "to": digest, "now": now})
            self.changed.add(repository)

    def _untag(self, repository: RepositoryName, name: Tag, now: float) -> None:
        """Have the age of what the tag points at begin: it may be untagged from here on."""
        where = {"repository": repository, "tag": name}
        if (digest := self._db.execute(_tagged, where).scalar_one_or_none()) is not None:
            self._touch(repository, Digest(digest), now)

    def delete_tag(self, repository: RepositoryName, name: Tag) -> bool:
        self.changed.add(repository)
        self._untag(repository, name, time.time())
        removed = self._db.execute(
            delete(tag).where(
                tag.c.repository_id == repository_named, tag.c.name == bindparam("tag")
            ),
            {"repository": repository, "tag": name},
        )
        return removed.rowcount > 0

    def tags(self, repository: RepositoryName, last: str, limit: int) -> Sequence[str]:
        names = (
            select(tag.c.name)
            .where(tag.c.repository_id == repository_named, tag.c.name > bindparam("last"))
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
        return self._db.execute(known_repository, {"repository": name}).first() is not None

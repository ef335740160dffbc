"""What scrub asks and records, in SQL. `ports.ScrubRows`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, select, union_all, update

from ociserver.ports import BESIDE, CheckedBlob, StoredObject
from ociserver.refs import Digest, RepositoryName
from ociserver.storage.blobs import BlobSql
from ociserver.storage.schema import blob, blob_digest, discarded, upload

_checked = select(blob.c.id, blob.c.key, blob.c.size, blob.c.quarantined_at)


class ScrubSql(BlobSql):
    """`ports.ScrubRows`."""

    def unchecked(self, before: float, limit: int, skip: Sequence[str]) -> Sequence[CheckedBlob]:
        found: list[CheckedBlob] = []
        # Two questions, as databases differ in where NULL sorts, and so in what an index is for.
        for due in (blob.c.checked_at.is_(None), blob.c.checked_at < before):
            if len(found) < limit:
                sound = _due(due, skip).where(blob.c.quarantined_at.is_(None))
                found += self._as_checked(sound.limit(limit - len(found)))
        return found

    def quarantined(self, before: float, limit: int, skip: Sequence[str]) -> Sequence[CheckedBlob]:
        due = _due(blob.c.checked_at < before, skip).where(blob.c.quarantined_at.is_not(None))
        return self._as_checked(due.limit(limit))

    def record_checks(self, keys: Sequence[str], now: float) -> None:
        self._db.execute(update(blob).where(blob.c.key.in_(keys)).values(checked_at=now))

    def quarantine(self, key: str, now: float) -> bool:
        since = func.coalesce(blob.c.quarantined_at, now)
        return self._changed(blob.c.key == key, {"quarantined_at": since, "checked_at": now})

    def lift_quarantine(self, key: str, now: float) -> bool:
        damaged = and_(blob.c.key == key, blob.c.quarantined_at.is_not(None))
        return self._changed(damaged, {"quarantined_at": None, "checked_at": now})

    def linking(self, key: str) -> Sequence[RepositoryName]:
        blob_id = self._db.execute(select(blob.c.id).where(blob.c.key == key)).scalar_one_or_none()
        return [] if blob_id is None else self._linking(blob_id)

    def blobs_between(self, after: str, until: str | None, limit: int) -> Sequence[CheckedBlob]:
        found = _checked.where(blob.c.key > after).order_by(blob.c.key).limit(limit)
        return self._as_checked(found if until is None else found.where(blob.c.key <= until))

    def blob_keys(self, keys: Sequence[str]) -> set[str]:
        return set(self._db.execute(select(blob.c.key).where(blob.c.key.in_(keys))).scalars())

    def unfinished(self, keys: Sequence[str]) -> Sequence[StoredObject]:
        names = [*keys, *(key + BESIDE for key in keys)]
        rows = self._db.execute(
            union_all(
                select(upload.c.id, upload.c.store_state).where(upload.c.id.in_(keys)),
                select(discarded.c.key, discarded.c.store_state).where(discarded.c.key.in_(names)),
            )
        )
        return [StoredObject(key=row[0].removesuffix(BESIDE), state=row[1]) for row in rows]

    def _changed(self, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
        """Change the blob, if there is such a one, and tell the caches of whoever links it."""
        changed = update(blob).where(which).values(values).returning(blob.c.id)
        blob_id = self._db.execute(changed).scalar_one_or_none()
        if blob_id is None:
            return False
        self.changed.update(self._linking(blob_id))
        return True

    def _as_checked(self, statement: Select[Any]) -> list[CheckedBlob]:
        rows = self._db.execute(statement).all()
        names = self._digests(rows)
        return [
            CheckedBlob(
                key=row.key,
                size=row.size,
                digests=names[row.id],
                quarantined=row.quarantined_at is not None,
            )
            for row in rows
        ]

    def _digests(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> dict[int, list[Digest]]:
        found: dict[int, list[Digest]] = defaultdict(list)
        names = (
            select(blob_digest.c.blob_id, blob_digest.c.digest)
            .where(blob_digest.c.blob_id.in_([row.id for row in rows]))
            .order_by(blob_digest.c.digest)
        )
        for row in self._db.execute(names) if rows else ():
            found[row.blob_id].append(Digest(row.digest))
        return found


def _due(when: ColumnElement[bool], skip: Sequence[str]) -> Select[Any]:
    return _checked.where(when, blob.c.key.not_in(skip)).order_by(blob.c.checked_at, blob.c.id)

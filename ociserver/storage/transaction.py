"""What every group of rows shares: one connection inside one transaction.

Portable only: conditional UPDATE and DELETE with a row count, unique keys, INSERT … ON CONFLICT.
No query in a loop. The engines (`sqlite.py`, `postgres.py`) begin and commit; nothing here does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from ociserver.refs import RepositoryName
from ociserver.storage.schema import (
    blob_digest,
    credential,
    discarded,
    lease,
    manifest,
    pin,
    principal,
    repository,
    repository_blob,
    tag,
)

known_repository = select(repository.c.id).where(repository.c.name == bindparam("repository"))
# The same, inside another statement that has a parameter of that name.
repository_named = known_repository.scalar_subquery()
# A row that is renewed more often than this is not written again: pushes that share it would
# contend for it.
RENEWAL_SECONDS = 1.0


class _Inserts:
    """The statements with ON CONFLICT, which each dialect spells in a class of its own."""

    def __init__(self, dialect: str) -> None:
        made = {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert
        tables = (
            repository,
            manifest,
            tag,
            blob_digest,
            repository_blob,
            discarded,
            pin,
            principal,
        )
        self.new = {table: made(table).on_conflict_do_nothing() for table in tables}
        link = made(repository_blob)
        self.link = link.on_conflict_do_update(
            index_elements=["repository_id", "blob_id"],
            set_={"linked_at": link.excluded.linked_at},
            where=repository_blob.c.linked_at < link.excluded.linked_at - RENEWAL_SECONDS,
        )
        taken = made(lease)
        self.lease = taken.on_conflict_do_update(
            index_elements=["name"],
            set_={"owner": taken.excluded.owner, "until": taken.excluded.until},
            where=(lease.c.until < bindparam("now")) | (lease.c.owner == taken.excluded.owner),
        )
        again = made(credential)
        self.credential = again.on_conflict_do_update(
            index_elements=["id"],
            set_={name: again.excluded[name] for name in ("principal", "hash", "ends_at")},
        )


_inserts = cache(_Inserts)


class SqlTransaction:
    """One connection inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._inserts = _inserts(connection.dialect.name)
        self._repository_ids: dict[RepositoryName, int] = {}
        # Repositories from which something was taken, or where it moved: what caches must hear of.
        self.changed: set[RepositoryName] = set()

    def _repository_id(self, name: RepositoryName) -> int:
        known = self._repository_ids.get(name)
        if known is None:
            where = {"repository": name}
            known = self._db.execute(known_repository, where).scalar_one_or_none()
            if known is None:
                self._insert_new(repository, {"name": name})
                known = self._db.execute(known_repository, where).scalar_one()
            self._repository_ids[name] = known
        return known

    def _insert_new(self, table: Table, values: dict[str, Any]) -> bool:
        """Insert unless a row with the same key is there; tell whether it was inserted."""
        return self._db.execute(self._inserts.new[table], values).rowcount > 0

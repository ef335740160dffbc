"""What every group of rows shares: one connection inside one transaction.

Portable only: conditional UPDATE and DELETE with a row count, unique keys, INSERT … ON CONFLICT.
No query in a loop. The engines (`sqlite.py`, `postgres.py`) begin and commit; nothing here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from ociserver.refs import RepositoryName
from ociserver.storage.schema import (
    credential,
    lease,
    repository,
    repository_blob,
)

known_repository = select(repository.c.id).where(repository.c.name == bindparam("repository"))
# The same, inside another statement that has a parameter of that name.
repository_named = known_repository.scalar_subquery()
# A row that is renewed more often than this is not written again: pushes that share it would
# contend for it.
RENEWAL_SECONDS = 1.0


_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class _Inserts:
    """The statements with ON CONFLICT, which each dialect spells in a class of its own."""

    def __init__(self, dialect: str) -> None:
        made = _INSERT[dialect]
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


@cache
def insert_unless_there(dialect: str, table: Table) -> Insert:
    """Return an INSERT that passes over rows whose key is there."""
    found: Insert = _INSERT[dialect](table).on_conflict_do_nothing()
    return found


@cache
def _insert_or_replace(dialect: str, table: Table) -> Insert:
    made = _INSERT[dialect](table)
    keys = [column.name for column in table.primary_key]
    rest = {each.name: made.excluded[each.name] for each in table.c if each.name not in keys}
    found: Insert = made.on_conflict_do_update(index_elements=keys, set_=rest)
    return found


class SqlTransaction:
    """One connection inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._dialect = connection.dialect.name
        self._inserts = _inserts(self._dialect)
        self._repository_ids: dict[RepositoryName, int] = {}
        # Repositories of which something that caches keep is another now: what was taken or moved,
        # and what came, where lists of it are kept.
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
        return self._db.execute(insert_unless_there(self._dialect, table), values).rowcount > 0

    def _put(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert whole rows, each in place of one with the same primary key."""
        if rows:
            self._db.execute(_insert_or_replace(self._dialect, table), rows)

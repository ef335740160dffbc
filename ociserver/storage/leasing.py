"""Who alone may do something for now, in SQL. `ports.LeaseRows`."""

from __future__ import annotations

from sqlalchemy import delete, select

from ociserver.storage.schema import lease
from ociserver.storage.transaction import SqlTransaction


class LeaseSql(SqlTransaction):
    """`ports.LeaseRows`."""

    def take_lease(self, name: str, owner: str, now: float, until: float) -> bool:
        values = {"name": name, "owner": owner, "until": until, "now": now}
        return self._db.execute(self._inserts.lease, values).rowcount > 0

    def lease_is_held(self, name: str, now: float) -> bool:
        held = select(lease.c.name).where(lease.c.name == name, lease.c.until >= now)
        return self._db.execute(held).first() is not None

    def drop_lease(self, name: str, owner: str) -> None:
        self._db.execute(delete(lease).where(lease.c.name == name, lease.c.owner == owner))

    def drop_leases_ended(self, before: float) -> None:
        self._db.execute(delete(lease).where(lease.c.until < before))

"""The time in SQL. `ports.Clock`."""

from __future__ import annotations

import time

from sqlalchemy import Double, cast, extract, func, select

from ociserver.storage.transaction import SqlTransaction

# As the clock is when it is asked: the transaction's own time would be from before it read what it
# follows.
_now = select(cast(extract("epoch", func.clock_timestamp()), Double))


class ClockSql(SqlTransaction):
    """`ports.Clock`."""

    _asked: float | None = None

    def now(self) -> float:
        if self._asked is None:
            # A file has no clock, and everyone who opens it is on this machine.
            is_server = self._dialect == "postgresql"
            told = self._db.execute(_now).scalar_one() if is_server else time.time()
            self._asked = round(told, 6)
        return self._asked

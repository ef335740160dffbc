"""Refusals that repeat, folded into one event that says how many. Pure.

A stranger makes as many refusals as they like, and the audit is kept for good: what it takes must
not be theirs to choose. So each different one is recorded once in a window, and the rest counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ociserver.auth.records import AuditEvent

WINDOW_SECONDS = 300.0
# Different ones recorded in a window: of all addresses, and of any one.
DISTINCT = 1_000
DISTINCT_OF_ADDRESS = 100
# Stands for an actor, a subject or an address where more are counted together.
SEVERAL = "several"

_Key = tuple[str, str, str, str, str]


@dataclass(slots=True)
class _Fold:
    """What came again, as what `event` says of all of it."""

    event: AuditEvent
    since: float
    until: float
    count: int = 0


class Folding:
    """One worker's refusals of this window. Times are the events' own, seconds since the epoch."""

    def __init__(self) -> None:
        self._folds: dict[_Key, _Fold] = {}
        self._of_address: Counter[str] = Counter()
        self._distinct = 0
        self._ends_at = 0.0

    def is_first(self, event: AuditEvent, address: str) -> bool:
        """Tell whether the event is to be recorded; if not, it is counted.

        Counted with its like: actor, action, subject, outcome and address; with all of its address
        where that had too many different ones; with all of everybody where all of them had.
        """
        if not self._folds:
            self._ends_at = event.at + WINDOW_SECONDS
        key = (event.actor, event.action, event.subject, event.outcome, address)
        spent = self._of_address[address] >= DISTINCT_OF_ADDRESS
        is_first = key not in self._folds and not spent and self._distinct < DISTINCT
        if is_first:
            self._distinct += 1
            self._of_address[address] += 1
        elif key not in self._folds:
            of = address if spent else SEVERAL
            key = (SEVERAL, event.action, SEVERAL, event.outcome, of)
        fold = self._folds.get(key)
        if fold is None:
            actor, _, subject, _, of = key
            of_all = replace(event, actor=actor, subject=subject, detail={"address": of})
            fold = self._folds[key] = _Fold(of_all, event.at, event.at)
        if not is_first:
            fold.count += 1
            fold.until = event.at
        return is_first

    def counted(self, now: float) -> list[AuditEvent]:
        """Return an event for each count, if the window ended before `now`, and begin anew.

        `repeated` of its detail is how many there were beside the one recorded, if one was, `since`
        when that was, and `at` when the last came.
        """
        if now < self._ends_at:
            return []
        found = [
            replace(
                each.event,
                at=each.until,
                detail={**each.event.detail, "repeated": each.count, "since": each.since},
            )
            for each in self._folds.values()
            if each.count
        ]
        self._folds.clear()
        self._of_address.clear()
        self._distinct = 0
        return found

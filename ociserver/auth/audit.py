"""Events on their way into the audit: written together, in the order they happened.

A refusal must not cost more than what it refuses, so events wait for each other in memory for a
moment. Their number is bounded: what finds no room is counted, and the count is an event itself.
Refusals that repeat are counted, too (`folding`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from ociserver.auth.folding import Folding
from ociserver.auth.records import AuditEvent
from ociserver.auth.sites import site
from ociserver.errors import LadingError
from ociserver.ports import Catalog

log = logging.getLogger("lading.audit")

_WAITING = 10_000
_BATCH = 500
# Of the name of an actor or a subject: no principal's is longer, and an index of PostgreSQL keeps
# 2,700.
_NAME_BYTES = 1_200


class Audit:
    """The way into the audit for what the server itself sees: refusals, failures, new rules."""

    def __init__(self, catalog: Catalog, folded: Callable[[], None]) -> None:
        self._catalog = catalog
        self._folded = folded
        self._folding = Folding()
        self._waiting: deque[AuditEvent] = deque()
        self._lost = 0

    def refused(self, event: AuditEvent, address: str) -> None:
        """Have a refusal recorded, or counted if there were too many; `folded` is told of those."""
        if self._folding.is_first(event, site(address)):
            self.note(event)
        else:
            self._folded()

    def note(self, event: AuditEvent) -> None:
        """Have it recorded within a second or so. It is in the log at once."""
        event = replace(event, actor=_text(event.actor), subject=_text(event.subject))
        fields = {
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "outcome": event.outcome,
            **event.detail,
        }
        log.info("audit", extra={"fields": fields})
        if len(self._waiting) >= _WAITING:
            self._lost += 1
        else:
            self._waiting.append(event)

    async def flush(self, *, at_the_end: bool = False) -> None:
        """Record what waits; where the catalog is away it goes on waiting. Raises nothing.

        What was counted is recorded once its time is over, or `at_the_end`.
        """
        for event in self._folding.counted(math.inf if at_the_end else time.time()):
            self.note(event)
        while self._waiting or self._lost:
            batch = [self._waiting[number] for number in range(min(_BATCH, len(self._waiting)))]
            lost = self._lost
            if lost:
                batch.append(_of_lost(lost))
            try:
                await self._catalog.write(
                    lambda tx, batch=batch: tx.record(batch),  # type: ignore[misc]
                    in_turn=True,
                )
            except LadingError as error:
                log.warning("the audit waits", extra={"fields": {"reason": error.message}})
                return
            self._lost -= lost
            for _ in range(len(batch) - bool(lost)):
                self._waiting.popleft()


def _text(text: str) -> str:
    """Return what any database keeps, and keeps in an index, of what somebody sent as a name."""
    kept = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return kept.encode()[:_NAME_BYTES].decode(errors="ignore")


def _of_lost(count: int) -> AuditEvent:
    return AuditEvent(
        at=time.time(),
        actor="lading",
        action="audit",
        subject="",
        outcome="failed",
        detail={"events_lost": count},
    )

"""Acts: who changes something, when, and the transaction in which it is done and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mlext.ports import ModelsCatalog, ModelsTx
from ociserver.admission import Author
from ociserver.auth.records import AuditEvent
from ociserver.auth.rules import Action
from ociserver.errors import Denied
from ociserver.refs import RepositoryName

T = TypeVar("T")

# What follows something differs from it in time, whatever clocks say.
_TICK = 0.000_001


@dataclass(frozen=True, slots=True)
class Act:
    """One change of the model registry; `dated` is when it is made, if not now."""

    tx: ModelsTx
    by: Author
    dated: float | None = None

    @property
    def at(self) -> float:
        """When it is made, by the clock of the catalog: what replicas do is of one order.

        That of the transaction: a change that waited for its turn was not there before, and `?at=`
        must not say that it was. Who never asks, as a push of a mere tag, pays nothing for it.
        """
        return self.tx.now() if self.dated is None else self.dated

    def require(self, action: Action, model: RepositoryName, alias: str | None = None) -> None:
        """Raise Denied unless the rules let them do it."""
        if not self.by.may(action, model, alias):
            what = f"{action} {alias}" if alias else str(action)
            raise Denied(f"no rule lets {self.by.name} {what} in {model}")

    def after(self, last: float | None) -> float:
        """Return when it is done: the time of the transaction, but after what it follows."""
        return self.at if last is None else round(max(self.at, last + _TICK), 6)

    def note(
        self, action: str, subject: str, detail: Mapping[str, object], at: float | None = None
    ) -> None:
        """Append to the audit that it was done, with the request that asked for it."""
        event = AuditEvent(
            at=self.at if at is None else at,
            actor=self.by.name,
            action=action,
            subject=subject,
            outcome="done",
            detail={**detail, "request_id": self.by.request_id},
        )
        self.tx.record([event])


async def act(catalog: ModelsCatalog, by: Author, work: Callable[[Act], T]) -> T:
    """Run `work` as an act of theirs, alone and durably. Raises what it does, and Unavailable."""
    return await catalog.write(lambda tx: work(Act(tx, by)), in_turn=True)

"""A catalog as an earlier release left it, and what must be so once this release took it up."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from ociserver.auth.chain import START, chained, line, verdict
from ociserver.auth.records import AuditEvent, AuditQuestion
from ociserver.ports import Catalog

# Indexes of the audit as this release has it.
FOUND_BY = {f"audit_event_by_{each}" for each in ("time", "subject", "actor", "action", "outcome")}
# More than one page of the migration, with gaps between the numbers, as rollbacks leave them.
_EVENTS = [
    AuditEvent(
        at=number / 7,
        actor="user:ann",
        action="push",
        subject=f"é/b:v{number}",
        outcome="done",
        detail={"b": 2.5, "a": ["\ud800", None, number]},
    )
    for number in range(1, 1_203)
]
_ADD = text(
    "INSERT INTO audit_event (number, at, actor, action, subject, outcome, detail) "
    "VALUES (:number, :at, 'user:ann', 'push', :subject, 'done', :detail)"
)


def leave_unchained(db: Connection) -> None:
    """Make the tables of revision 0004, with an audit."""
    config = Config(attributes={"connection": db})
    config.set_main_option("script_location", "ociserver.storage:migrations")
    command.upgrade(config, "0004")
    db.execute(
        _ADD,
        [
            {
                "number": number * 3,
                "at": event.at,
                "subject": event.subject,
                "detail": f'{{"b": 2.50, "a":["\\ud800", null, {number}]}}',
            }
            for number, event in enumerate(_EVENTS, 1)
        ],
    )


async def holds_it_chained(catalog: Catalog) -> None:
    """The events are there in their order and chained; what is recorded now goes on from them."""
    await catalog.write(lambda tx: tx.record(_EVENTS[:1]), in_turn=True)
    links = await catalog.read(lambda tx: tx.trail(0, 9_999))
    assert links == chained(START, [*_EVENTS, _EVENTS[0]])
    assert verdict(map(line, links)).broken is None
    asked = AuditQuestion(subject="é/b:v7", since=1.0, until=1.1)
    found, more = await catalog.read(lambda tx: tx.latest(asked, None, 9))
    assert ([each.number for each in found], more) == ([7], False)

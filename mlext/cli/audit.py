"""The audit, as the registry shows it to those who may read it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mlext.cli import tables
from mlext.cli.client import place
from mlext.cli.desk import Commands, Desk, number
from mlext.records import rfc3339

_EXAMPLES = """\
  lading audit list
  lading audit list --after 1000 --limit 50 --json
"""
# Said in columns of their own, or by nobody's eye.
_COLUMNS = ("number", "at", "actor", "action", "subject", "outcome")
_KEPT_BACK = frozenset(("previous", "hash"))


def listing(arguments: Sequence[str]) -> int:
    """Run `lading audit list` on what follows these words; return the exit status."""
    parsing = Commands("audit list", "What was done, and refused.", examples=_EXAMPLES)
    parser = parsing.single(_list).parser
    parser.add_argument("--after", metavar="N", type=number, help="those behind this one")
    parser.add_argument("--limit", metavar="N", type=number, help="so many")
    return parsing.run(arguments)


def _list(desk: Desk, options: Namespace) -> int:
    found = desk.registry.get(place("audit"), after=options.after, limit=options.limit)
    desk.show(found, lambda width: events_text(found["events"], width))
    return 0


def events_text(events: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Return events of the audit as a table."""
    rows = [
        [*({**each, "at": _moment(each.get("at"))}.get(key) for key in _COLUMNS), _rest(each)]
        for each in events
    ]
    headings = ("NUMBER", "AT", "BY", "ACTION", "SUBJECT", "OUTCOME", "DETAIL")
    return tables.table(headings, rows, width)


def _moment(at: object) -> object:
    """Return the time of an event, which is seconds since the epoch, as other times are shown."""
    return rfc3339(at) if isinstance(at, float) else at


def _rest(event: Mapping[str, Any]) -> dict[str, Any]:
    detail = event.get("detail")
    flat = dict(detail) if isinstance(detail, Mapping) else {"detail": detail}
    # Where no gate asked for anything, there is nothing to say of the verdict.
    if not (flat.get("verdict") or {}).get("conditions"):
        flat.pop("verdict", None)
    rest = {
        key: value for key, value in event.items() if key not in {*_COLUMNS, *_KEPT_BACK, "detail"}
    }
    return {
        key: value for key, value in {**rest, **flat}.items() if value not in (None, "", {}, [])
    }

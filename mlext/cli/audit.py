"""The audit, as the registry shows it to those who may read it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mlext.cli import tables, times
from mlext.cli.client import place
from mlext.cli.desk import Commands, Desk, count, model

_EXAMPLES = """\
  lading audit list                                       (what happened last)
  lading audit list --model team/fraud --since 2h
  lading audit list --action promote --since 2026-11-25 --until 2026-11-26 --all
  lading audit list --outcome denied --actor robot:ci --json
"""
_OUTCOMES = ("done", "denied", "failed")
_DONE = "done"
# Of a table, what only programs look for comes last, where a terminal cuts it.
_LAST = ("version_id", "evaluation_id", "address", "method", "request_id")


def listing(arguments: Sequence[str]) -> int:
    """Run `lading audit list` on what follows these words; return the exit status."""
    summary = "What was done, and refused, the latest first."
    parsing = Commands("audit list", summary, examples=_EXAMPLES)
    parser = parsing.single(_list).parser
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "--model", dest="subject", metavar="NAME", type=model, help="what it was done to"
    )
    subject.add_argument(
        "--subject", metavar="TEXT", help="the same of what is no model: a gate, a run, user:ann"
    )
    parser.add_argument("--actor", metavar="WHO", help="by whom, such as user:ann or robot:ci")
    parser.add_argument("--action", metavar="WHAT", help="such as promote, approve, login")
    parser.add_argument("--outcome", choices=_OUTCOMES, help="what came of it")
    parser.add_argument("--since", metavar="TIME", type=times.moment, help=times.HELP)
    parser.add_argument("--until", metavar="TIME", type=times.moment, help="before then")
    parser.add_argument("--limit", metavar="N", type=count, help="so many on a page")
    parser.add_argument("--all", action="store_true", help="all pages, not the first")
    return parsing.run(arguments)


def _list(desk: Desk, options: Namespace) -> int:
    asked = {
        key: getattr(options, key)
        for key in ("subject", "actor", "action", "outcome", "since", "until", "limit")
    }
    found = desk.registry.pages(place("audit"), "events", every=options.all, **asked)
    desk.show(found, lambda width: events_text(found["events"], width))
    desk.more(found)
    return 0


def events_text(events: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Return events of the audit as a table."""
    columns = {
        "AT": "at",
        "BY": "actor",
        "ACTION": "action",
        "SUBJECT": "subject",
        "OUTCOME": "outcome",
    }
    if all(each.get("outcome") == _DONE for each in events):
        del columns["OUTCOME"]
    rows = [
        [*(each.get(key) for key in columns.values()), _detail(each), each.get("number")]
        for each in events
    ]
    return tables.table([*columns, "DETAIL", "NUMBER"], rows, width)


def _detail(event: Mapping[str, Any]) -> str:
    detail = event.get("detail")
    flat = dict(detail) if isinstance(detail, Mapping) else {"detail": detail}
    # Where no gate asked for anything, there is nothing to say of the verdict.
    if not (flat.get("verdict") or {}).get("conditions"):
        flat.pop("verdict", None)
    said = _move(flat) if {"alias", "from", "to"} <= flat.keys() else ""
    kept = {key: value for key, value in flat.items() if value not in (None, "", {}, [])}
    last = {key: kept.pop(key) for key in _LAST if key in kept}
    rest = tables.plain({**kept, **last}) if kept or last else ""
    return f"{said} {rest}".strip()


def _move(flat: dict[str, Any]) -> str:
    """Return a move of an alias in few words, which are taken out of the rest."""
    stood, stands = flat.pop("from") or {}, flat.pop("to") or {}
    return f"{flat.pop('alias')}: {stood.get('version', 'nowhere')} -> {stands.get('version')}"

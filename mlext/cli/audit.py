"""The audit, as the registry shows it to those who may read it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlext.cli import tables, times
from mlext.cli.client import place
from mlext.cli.desk import Commands, Desk, count, model
from mlext.records import rfc3339

_EXAMPLES = """\
  lading audit list                                       (what happened last)
  lading audit list --model team/fraud --since 2h
  lading audit list --action promote --since 2026-11-25 --until 2026-11-26
  lading audit list --outcome denied --actor robot:ci --json
"""
_OUTCOMES = ("done", "denied", "failed")
_DONE = "done"
# Of a table, what only programs look for comes last, where a terminal cuts it.
_LAST = ("digest", "version_id", "evaluation_id", "address", "method", "request_id")


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
    # What was asked for is the same in every row.
    told = {key for key in ("subject", "actor") if asked[key] is not None}
    desk.show(found, lambda width: events_text(found["events"], width, told))
    desk.more(found)
    return 0


def events_text(
    events: Sequence[Mapping[str, Any]],
    width: int | None = None,
    told: Collection[str] = (),
) -> str:
    """Return events of the audit as a table, without what is `told` already."""
    named = {"AT": "at", "BY": "actor", "ACTION": "action", "SUBJECT": "subject"}
    shown = {heading: key for heading, key in named.items() if key not in told}
    rows = [[*map(each.get, shown.values()), _detail(each), each.get("number")] for each in events]
    headings = [*shown, "DETAIL", "NUMBER"]
    return tables.table(headings, rows, width, whole=("AT", "BY"), spare=("NUMBER",))


def _detail(event: Mapping[str, Any]) -> str:
    """Return what a person wants to know of an event first, and what else there is after it."""
    detail = event.get("detail")
    flat = dict(detail) if isinstance(detail, Mapping) else {"detail": detail}
    # What failed of it is in the reason.
    flat.pop("verdict", None)
    if isinstance(since := flat.get("since"), float):  # of refusals that were counted
        flat["since"] = rfc3339(since)
    said = [] if event.get("outcome") == _DONE else [f"{tables.plain(event.get('outcome'))}:"]
    if {"alias", "from", "to"} <= flat.keys():
        said.append(_move(flat))
    if reason := flat.pop("reason", ""):
        said.append(tables.plain(reason))
    kept = {key: value for key, value in flat.items() if value not in (None, "", {}, [])}
    last = {key: kept.pop(key) for key in _LAST if key in kept}
    if kept or last:
        said.append(tables.plain({**kept, **last}))
    return " ".join(said)


def _move(flat: dict[str, Any]) -> str:
    """Return a move of an alias in few words, which are taken out of the rest."""
    stood, stands = flat.pop("from") or {}, flat.pop("to") or {}
    way = f"{stood.get('version', 'nowhere')} -> {stands.get('version')}"
    return f"{tables.plain(flat.pop('alias'))}: {way}"

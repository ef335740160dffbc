"""`lading alias`, `promote`, `rollback` and `approve`.

A move says where the alias stood when the command looked, so that of two people who move it at
once one is told, and nobody is surprised.
"""

from __future__ import annotations

import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mlext.cli import tables, times
from mlext.cli.client import REFUSED, USAGE, CommandFailed, of_model
from mlext.cli.desk import Commands, Desk, alias, count, entry, model, number

_ALIAS_EXAMPLES = """\
  lading alias list team/fraud
  lading alias history team/fraud prod
  lading alias show team/fraud prod --at 2026-11-25T03:00:00Z
  lading alias show team/fraud prod --at 2h               (two hours ago)
"""
_PROMOTE_EXAMPLES = """\
  lading promote team/fraud 42 prod --check               (asks, moves nothing)
  lading promote team/fraud 42 prod --reason "f1 is better"
  lading promote team/fraud 42 prod --also shadow=41      (both, or neither)
"""
_ROLLBACK_EXAMPLES = """\
  lading alias history team/fraud prod                    (what was there, when)
  lading rollback team/fraud prod --reason "bad scores"   (one version back)
  lading rollback team/fraud prod --to 40
"""
_APPROVE_EXAMPLES = """\
  lading approve team/fraud 42 prod --comment "looked at the errors"
"""
_NOWHERE = 0


def aliases(arguments: Sequence[str]) -> int:
    """Run `lading alias`; return the exit status."""
    commands = Commands("alias", "Where aliases point, and pointed.", examples=_ALIAS_EXAMPLES)
    listing = commands.add("list", _list, "List the aliases of a model.")
    showing = commands.add("show", _show, "Show where one points, or pointed.")
    telling = commands.add("history", _history, "List the moves of one, the latest first.")
    for one in (listing, showing, telling):
        one.add_argument("name", metavar="NAME", type=model)
    for one in (showing, telling):
        one.add_argument("alias", metavar="ALIAS", type=alias)
    showing.add_argument("--at", metavar="TIME", type=times.moment, help=f"then: {times.HELP}")
    telling.add_argument("--limit", metavar="N", type=count, help="so many on a page")
    telling.add_argument("--all", action="store_true", help="all pages, not the first")
    return commands.run(arguments)


def _list(desk: Desk, options: Namespace) -> int:
    found = desk.registry.pages(of_model(options.name, "aliases"), "aliases")
    keys = ("alias", "version", "updated_at", "updated_by", "reason", "artifact_digest")
    headings = ("ALIAS", "VERSION", "SINCE", "BY", "REASON", "DIGEST")
    rows = [[each[key] for key in keys] for each in found["aliases"]]
    desk.show(found, lambda width: tables.table(headings, rows, width))
    return 0


def _show(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "aliases", options.alias)
    found = desk.registry.get(where, at=options.at)
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def _history(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "aliases", options.alias, "history")
    found = desk.registry.pages(where, "moves", every=options.all, limit=options.limit)
    keys = ("at", "from_version", "version", "by", "reason", "artifact_digest")
    headings = ("AT", "FROM", "TO", "BY", "REASON", "DIGEST")
    rows = [[each[key] for key in keys] for each in found["moves"]]
    desk.show(found, lambda width: tables.table(headings, rows, width))
    desk.more(found)
    return 0


def promote(arguments: Sequence[str]) -> int:
    """Run `lading promote`; return the exit status."""
    summary = "Have an alias point at a version, if its gate lets it."
    parsing = Commands("promote", summary, examples=_PROMOTE_EXAMPLES).single(_promote)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("version", metavar="VERSION", type=number)
    parser.add_argument("alias", metavar="ALIAS", type=alias)
    parser.add_argument("--reason", metavar="TEXT", default="", help="kept with the move")
    parser.add_argument(
        "--expected",
        metavar="VERSION",
        type=_expected,
        help="where it must stand, 0 for nowhere yet (default: where it stands now)",
    )
    parser.add_argument(
        "--also",
        metavar="ALIAS=VERSION",
        type=_pair,
        action="append",
        default=[],
        help="move this one, too: all of them or none",
    )
    parser.add_argument("--check", action="store_true", help="ask the gate, and move nothing")
    parser.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="the same request with this key is done once; give --expected with it",
    )
    return parsing.run(arguments)


def _expected(text: str) -> int:
    return _NOWHERE if text == "0" else number(text)


def _pair(text: str) -> tuple[str, int]:
    name, version = entry(text)
    return alias(name), number(version)


def _promote(desk: Desk, options: Namespace) -> int:
    wanted = {options.alias: options.version} | dict(options.also)
    if len(wanted) <= len(options.also):
        raise CommandFailed("an alias is moved once at a time", USAGE)
    if options.check:
        return _check(desk, options.name, wanted)
    if options.idempotency_key and options.expected is None:
        # It stands elsewhere the second time, and the request would be another one.
        raise CommandFailed("--idempotency-key goes with --expected", USAGE)
    stands = {options.alias: options.expected}
    if options.expected is None or options.also:
        stands = {**_standing(desk, options.name, wanted), **_said(options)}
    if options.expected is None and all(stands[each] == wanted[each] for each in wanted):
        desk.remark(f"{', '.join(wanted)} stood there already; nothing was moved")
        found = [desk.registry.get(of_model(options.name, "aliases", each)) for each in wanted]
        _tell(desk, found, stands)
        return 0
    _move(desk, options, wanted, stands, options.idempotency_key)
    return 0


def _said(options: Namespace) -> dict[str, int]:
    return {} if options.expected is None else {options.alias: options.expected}


def _standing(desk: Desk, name: str, wanted: Mapping[str, int]) -> dict[str, int]:
    found = desk.registry.pages(of_model(name, "aliases"), "aliases")
    known = {each["alias"]: each["version"] for each in found["aliases"]}
    return {each: known.get(each, _NOWHERE) for each in wanted}


def _move(
    desk: Desk,
    options: Namespace,
    wanted: Mapping[str, int],
    stands: Mapping[str, int],
    key: str | None = None,
) -> None:
    """Move them all. Sent again after an answer that was lost, it is still one move."""
    key = key or uuid.uuid4().hex
    where = [options.name, "aliases"]
    if len(wanted) == 1:
        ((name, version),) = wanted.items()
        one = {"version": version, "expected_version": stands[name], "reason": options.reason}
        found = [desk.registry.send("PUT", of_model(*where, name), one, key=key)]
    else:
        moves = [
            {"alias": name, "version": version, "expected_version": stands[name]}
            for name, version in wanted.items()
        ]
        several = {"moves": moves, "reason": options.reason}
        found = desk.registry.send("POST", of_model(*where), several, key=key)["aliases"]
    _tell(desk, found, stands)


def _tell(desk: Desk, found: Sequence[dict[str, Any]], stood: Mapping[str, int]) -> None:
    document = found[0] if len(found) == 1 else {"aliases": found}
    lines = []
    for each in found:
        stood_on, stands = stood[each["alias"]] or "nowhere", each["version"]
        way = f"stays on {stands}" if stood_on == stands else f"{stood_on} -> {stands}"
        lines.append(f"{each['alias']}: {way}  {tables.plain(each['artifact_digest'])}\n")
    desk.show(document, lambda _: "".join(lines))


def _check(desk: Desk, name: str, wanted: Mapping[str, int]) -> int:
    found = [
        desk.registry.get(of_model(name, "aliases", each, "check"), version=version)
        for each, version in wanted.items()
    ]
    document = found[0] if len(found) == 1 else {"checks": found}
    desk.show(document, lambda _: "".join(map(check_text, found)))
    is_fine = all(each["passed"] and each.get("may_promote", True) for each in found)
    return 0 if is_fine else REFUSED


def check_text(found: Mapping[str, Any]) -> str:
    """Return what a gate says of a version, in words."""
    verdict = "passes" if found["passed"] else "does NOT pass"
    said = f"version {found['version']} {verdict} the gate of {found['alias']}"
    conditions = found.get("conditions", [])
    lines = f"{said}\n" if conditions else f"{said}: it asks for nothing\n"
    if not found.get("may_promote", True):
        lines += f"and you may not move {found['alias']}: no rule lets you\n"
    return lines + tables.verdict(conditions)


def rollback(arguments: Sequence[str]) -> int:
    """Run `lading rollback`; return the exit status."""
    summary = "Have an alias point at the version that it pointed at before. Nothing is asked."
    parsing = Commands("rollback", summary, examples=_ROLLBACK_EXAMPLES).single(_rollback)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("alias", metavar="ALIAS", type=alias)
    parser.add_argument("--to", metavar="VERSION", type=number, help="another than the one before")
    parser.add_argument("--reason", metavar="TEXT", default="rollback", help="kept with the move")
    return parsing.run(arguments)


def _rollback(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "aliases", options.alias, "history")
    latest = desk.registry.get(where, limit=1)["moves"][0]
    to = options.to or version_before(latest)
    stands = {options.alias: latest["version"]}
    _move(desk, options, {options.alias: to}, stands)
    return 0


def version_before(latest: Mapping[str, Any]) -> int:
    """Return the version before the present one. Raises CommandFailed where the latest move was
    back already: a second rollback by somebody else would bring back what was bad.
    """
    now, before = int(latest["version"]), latest["from_version"]
    if before is None:
        raise CommandFailed(f"{latest['alias']} stands on its first version, {now}")
    if now < before:
        raise CommandFailed(
            f"{latest['alias']} was moved back already, from {before} to {now}, by {latest['by']} "
            f"at {tables.plain(latest['at'])}; --to {before} undoes that, "
            "another --to goes further back"
        )
    return int(before)


def approve(arguments: Sequence[str]) -> int:
    """Run `lading approve`; return the exit status."""
    summary = "Approve of a version under an alias, as its gate may ask for."
    parsing = Commands("approve", summary, examples=_APPROVE_EXAMPLES).single(_approve)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("version", metavar="VERSION", type=number)
    parser.add_argument("alias", metavar="ALIAS", type=alias)
    parser.add_argument("--comment", metavar="TEXT", default="", help="kept with the approval")
    return parsing.run(arguments)


def _approve(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "versions", options.version, "approvals")
    given = desk.registry.send("POST", where, {"alias": options.alias, "comment": options.comment})
    said = f"{given['approved_by']} approves of version {given['version']} as {given['alias']}\n"
    desk.show(given, lambda _: tables.letters(said.rstrip()) + "\n")
    return 0

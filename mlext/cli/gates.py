"""`lading gate`: what is asked of a version before an alias may point at it."""

from __future__ import annotations

import json
import sys
import tomllib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlext.cli import tables
from mlext.cli.client import USAGE, CommandFailed, place
from mlext.cli.desk import Commands, Desk

_EXAMPLES = """\
  lading gate list
  lading gate put prod.toml                               (as `prod`, or --id)
  lading gate put - --id prod < gate.toml                 (stdin has no name)
  lading gate show prod --json > prod.json
  lading gate drop prod

a gate, as TOML:
  model = "team/**"
  alias = "prod"
  approvals = 2
  lineage = true
  soak = { alias = "staging", seconds = 86400 }
  [[rules]]
  expression = "version.metrics.f1 >= 0.9"
"""
_WHO = ("id", "model", "alias")
# Where pipes and descriptors have their names: `/dev/stdin`, `/dev/fd/63` of `<(…)`.
_NAMELESS = ("/dev/", "/proc/")


def gates(arguments: Sequence[str]) -> int:
    """Run `lading gate`; return the exit status."""
    summary = "What is asked of a version before an alias may point at it."
    commands = Commands("gate", summary, examples=_EXAMPLES)
    commands.add("list", _list, "List them all.")
    showing = commands.add("show", _show, "Show one.")
    putting = commands.add("put", _put, "Set one up, or change it.")
    putting.add_argument("file", metavar="FILE", help="TOML or JSON; - is stdin")
    putting.add_argument("--id", metavar="ID", help="default: `id` in the file, or the file's name")
    dropping = commands.add("drop", _drop, "Take one away.")
    for one in (showing, dropping):
        one.add_argument("id", metavar="ID")
    return commands.run(arguments)


def _list(desk: Desk, _options: Namespace) -> int:
    found = desk.registry.pages(place("gates"), "gates")
    rows = [[*(each.get(key) for key in _WHO), asks(each)] for each in found["gates"]]
    headings = ("ID", "MODEL", "ALIAS", "ASKS FOR")
    desk.show(found, lambda width: tables.table(headings, rows, width))
    return 0


def asks(gate: Mapping[str, Any]) -> str:
    """Return in a line what a gate asks for."""
    parts = []
    for key, value in gate.items():
        match value:
            case _ if key in {*_WHO, "name"} or not value:
                continue
            case True:
                parts.append(key)
            case list():
                parts.append(f"{len(value)} {key if len(value) > 1 else key.removesuffix('s')}")
            case Mapping():
                parts.append(f"{key} ({tables.plain(value)})")
            case _:
                parts.append(f"{value} {key}")
    return ", ".join(parts)


def _show(desk: Desk, options: Namespace) -> int:
    found = desk.registry.get(place("gates", options.id))
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def _put(desk: Desk, options: Namespace) -> int:
    document = _document(options.file)
    gate_id = options.id or document.get("id") or _named(options.file)
    if not isinstance(gate_id, str) or not gate_id:
        raise CommandFailed("what comes from a pipe has no name: say the gate's --id", USAGE)
    said = {key: value for key, value in document.items() if key != "id"}
    found = desk.registry.send("PUT", place("gates", gate_id), said)
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def _named(file: str) -> str:
    """Return the id that the file's name is, empty for a pipe or what else is none."""
    return Path(file).stem if file != "-" and not file.startswith(_NAMELESS) else ""


def _document(file: str) -> dict[str, Any]:
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        found = _parsed(body.decode("utf-8-sig"))
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}", USAGE) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CommandFailed(f"{file} is no gate: {error}", USAGE) from error
    return found


def _parsed(text: str) -> dict[str, Any]:
    """Return what it says, in whichever form: no TOML begins with a brace, and every JSON object
    does. Raises ValueError.
    """
    if not text.strip():
        raise ValueError("it is empty")
    if not text.lstrip().startswith("{"):
        return tomllib.loads(text)
    found: dict[str, Any] = json.loads(text)
    return found


def _drop(desk: Desk, options: Namespace) -> int:
    desk.registry.send("DELETE", place("gates", options.id))
    dropped = {"id": options.id, "status": "dropped"}
    desk.show(dropped, lambda _: f"{tables.plain(options.id)} is no gate any more\n")
    return 0

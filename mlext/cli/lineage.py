"""`lading lineage` and `lading run`: what came from what, as trees."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mlext.cli import tables, times
from mlext.cli.client import USAGE, CommandFailed, of_model, place
from mlext.cli.desk import Commands, Desk, alias, count, each_once, model, number, parameter

_LINEAGE_EXAMPLES = """\
  lading lineage team/fraud 42                            (what it came from)
  lading lineage team/fraud 42 --downstream               (what came from it)
  lading lineage --node dataset:transactions@2026-10 --downstream --alias prod
"""
_RUN_EXAMPLES = """\
  lading run put run-7 --dataset transactions@2026-10 --code 5f2c...(40 digits)
  lading run put run-7 --image reg.example.com/train@sha256:... --param lr=0.001
  lading run put run-7 --finished 2026-11-25T03:00:00Z
  lading run show run-7
"""
_UPSTREAM, _DOWNSTREAM = "upstream", "downstream"
_SAID = ("dataset_version", "code_commit", "container_image", "started_at", "finished_at")


def lineage(arguments: Sequence[str]) -> int:
    """Run `lading lineage`; return the exit status."""
    summary = "What a version, a dataset, a commit or an image came from, or what came from it."
    parsing = Commands("lineage", summary, examples=_LINEAGE_EXAMPLES).single(_lineage)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model, nargs="?")
    parser.add_argument("version", metavar="VERSION", type=number, nargs="?")
    parser.add_argument(
        "--node", metavar="NODE", help="a digest, run:ID, commit:ID or dataset:NAME@VERSION"
    )
    way = parser.add_mutually_exclusive_group()
    for direction, what in (
        (_UPSTREAM, "what it came from (default)"),
        (_DOWNSTREAM, "what came from it"),
    ):
        way.add_argument(
            f"--{direction}", dest="direction", action="store_const", const=direction, help=what
        )
    parser.add_argument("--depth", metavar="N", type=count, help="so many steps at most")
    parser.add_argument(
        "--alias", metavar="ALIAS", type=alias, help="only what leads to versions under this alias"
    )
    parser.set_defaults(direction=_UPSTREAM)
    return parsing.run(arguments)


def _lineage(desk: Desk, options: Namespace) -> int:
    asked: dict[str, object] = {
        "direction": options.direction,
        "depth": options.depth,
        "alias": options.alias,
    }
    if options.node and not options.name:
        found = desk.registry.get(place("lineage"), node=options.node, **asked)
        start = str(found.get("node", options.node))
    elif options.version and not options.node:
        of_version = of_model(options.name, "versions", options.version)
        found = desk.registry.get(f"{of_version}/lineage", **asked)
        start = str(found.get("node") or desk.registry.get(of_version)["artifact_digest"])
    else:
        raise CommandFailed("of what? NAME VERSION, or --node NODE", USAGE)
    desk.show(found, lambda _: lineage_text(found, start, options.direction))
    return 0


def lineage_text(found: Mapping[str, Any], start: str, direction: str) -> str:
    """Return what was found as a tree, and what of it is not there or was cut off."""
    near, far = ("source", "target") if direction == _UPSTREAM else ("target", "source")
    children: dict[str, list[tuple[str, str]]] = {}
    for edge in found["edges"]:
        children.setdefault(edge[near], []).append((edge.get("type", "edge"), edge[far]))
    text = tables.tree(start, children, _names(found))
    if start not in children:
        what = "came from nothing" if direction == _UPSTREAM else "nothing came from it"
        text += f"{what} that is on record\n"
    for node in found.get("dangling", []):
        text += f"nothing is known of {tables.plain(node)}\n"
    return text + ("there is more: it was cut off here\n" if found.get("truncated") else "")


def _names(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what to call each node that is a version, by all the models that it is one of."""
    names: dict[str, list[str]] = {}
    for each in found.get("nodes", []):
        if isinstance(each, Mapping) and each.get("model"):
            under = f" ({', '.join(each['aliases'])})" if each.get("aliases") else ""
            names.setdefault(each["node"], []).append(f"{each['model']} v{each['version']}{under}")
    return {node: f"{', '.join(called)} {node}" for node, called in names.items()}


def run(arguments: Sequence[str]) -> int:
    """Run `lading run`; return the exit status."""
    commands = Commands("run", "The runs that made versions.", examples=_RUN_EXAMPLES)
    putting = commands.add(
        "put", _put, "Record one, as far as it is known; once finished it stays."
    )
    showing = commands.add("show", _show, "Show one.")
    for one in (putting, showing):
        one.add_argument("id", metavar="ID")
    for option, key, what in (
        ("--dataset", "dataset_version", "name@version or a digest, never a floating name"),
        ("--code", "code_commit", "a commit's whole id, with or without address@ before it"),
        ("--image", "container_image", "a digest, or a reference by one"),
    ):
        putting.add_argument(option, dest=key, metavar=option[2:].upper(), help=what)
    for option, what in (
        ("started", times.HELP),
        ("finished", "likewise; nothing of the run changes after it"),
    ):
        putting.add_argument(
            f"--{option}", dest=f"{option}_at", metavar="TIME", type=times.moment, help=what
        )
    putting.add_argument(
        "--param", metavar="NAME=VALUE", type=parameter, action="append", default=[]
    )
    return commands.run(arguments)


def _put(desk: Desk, options: Namespace) -> int:
    document: dict[str, object] = {
        key: value for key in _SAID if (value := getattr(options, key)) is not None
    }
    if options.param:
        document["hyperparams"] = each_once(options.param)
    found = desk.registry.send("PUT", place("runs", options.id), document)
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def _show(desk: Desk, options: Namespace) -> int:
    found = desk.registry.get(place("runs", options.id))
    desk.show(found, lambda width: tables.sections(found, width))
    return 0

"""`lading models`, `versions`, `register`, `evaluate` and `compare`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mlext.cli import tables
from mlext.cli.client import USAGE, CommandFailed, of_model, place
from mlext.cli.desk import (
    Commands,
    Desk,
    count,
    each_once,
    entry,
    measured,
    model,
    number,
    parameter,
)

_MODEL_EXAMPLES = """\
  lading models
  lading models show team/fraud
  lading models describe team/fraud --owner ann@example.com --task ranking
"""
_VERSION_EXAMPLES = """\
  lading versions team/fraud
  lading versions team/fraud --stage staging --sort -metrics.f1 --limit 10
  lading versions team/fraud --filter "metrics.f1 > 0.8 and tags.team = 'a'"
  lading versions --filter "created_at > '2026-11-01'" --json   (of all models)
  lading versions show team/fraud 42
"""
_REGISTER_EXAMPLES = """\
  lading register team/fraud nightly --framework pytorch --metric f1=0.91
  lading register team/fraud sha256:4bf5... --run-id run-7 --tag team=fraud
"""
_EVALUATE_EXAMPLES = """\
  lading evaluate team/fraud 42 --metric f1=0.93 --dataset holdout@3
"""
_COMPARE_EXAMPLES = """\
  lading compare team/fraud 41 42
"""
_ABOUT = ("owner", "task", "description")
# Without one of these first, `lading versions NAME` is `lading versions list NAME`.
_OF_MODELS = frozenset(("list", "show", "describe", "-h", "--help"))
_OF_VERSIONS = frozenset(("list", "show", "-h", "--help"))


def models(arguments: Sequence[str]) -> int:
    """Run `lading models`; return the exit status."""
    commands = Commands("models", "The models of a registry.", examples=_MODEL_EXAMPLES)
    listing = commands.add("list", _list, "List them (also: just `lading models`).")
    listing.add_argument("--limit", metavar="N", type=count, help="so many on a page")
    listing.add_argument("--all", action="store_true", help="all pages, not the first")
    showing = commands.add("show", _show, "Show what is said of one, and its aliases.")
    showing.add_argument("name", metavar="NAME", type=model)
    describing = commands.add("describe", _describe, "Change what is said of one.")
    describing.add_argument("name", metavar="NAME", type=model)
    for about in _ABOUT:
        describing.add_argument(f"--{about}", metavar="TEXT")
    given = arguments if arguments and arguments[0] in _OF_MODELS else ["list", *arguments]
    return commands.run(given)


def _list(desk: Desk, options: Namespace) -> int:
    found = desk.registry.pages(place("models"), "models", every=options.all, limit=options.limit)
    rows = [
        (each["model"], each["latest_version"], each["owner"], each["task"], each["updated_at"])
        for each in found["models"]
    ]
    headings = ("MODEL", "LATEST", "OWNER", "TASK", "UPDATED")
    kept: dict[str, Any] = {"whole": ("MODEL",), "spare": ("TASK", "UPDATED", "OWNER")}
    desk.show(found, lambda width: tables.table(headings, rows, width, **kept))
    desk.more(found)
    return 0


def _show(desk: Desk, options: Namespace) -> int:
    found = desk.registry.get(of_model(options.name))
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def _describe(desk: Desk, options: Namespace) -> int:
    said = {key: value for key in _ABOUT if (value := getattr(options, key)) is not None}
    if not said:
        raise CommandFailed("nothing is said: --owner, --task, --description", USAGE)
    found = desk.registry.send("PATCH", of_model(options.name), said)
    desk.show(found, lambda width: tables.sections(found, width))
    return 0


def versions(arguments: Sequence[str]) -> int:
    """Run `lading versions`; return the exit status."""
    commands = Commands("versions", "The versions of models.", examples=_VERSION_EXAMPLES)
    listing = commands.add("list", _list_versions, "List them (also: `lading versions NAME`).")
    listing.add_argument("name", metavar="NAME", type=model, nargs="?", help="default: any model")
    listing.add_argument("--stage", metavar="ALIAS", help="those that this alias points at")
    listing.add_argument("--filter", metavar="EXPRESSION", help="such as: metrics.f1 > 0.8")
    listing.add_argument(
        "--sort", metavar="KEY", help="such as metrics.f1; with - before it, the greatest first"
    )
    listing.add_argument("--limit", metavar="N", type=count, help="so many on a page")
    listing.add_argument("--all", action="store_true", help="all pages, not the first")
    showing = commands.add("show", _show_version, "Show one, its evaluations and approvals.")
    showing.add_argument("name", metavar="NAME", type=model)
    showing.add_argument("version", metavar="VERSION", type=number)
    given = arguments if arguments and arguments[0] in _OF_VERSIONS else ["list", *arguments]
    return commands.run(_with_sort(given))


def _with_sort(arguments: Sequence[str]) -> list[str]:
    """Return them with `--sort -KEY` as `--sort=-KEY`, which argparse takes for no option."""
    found = list(arguments)
    if "--sort" in found[:-1]:
        at = found.index("--sort")
        found[at : at + 2] = [f"--sort={found[at + 1]}"]
    return found


def _list_versions(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "versions") if options.name else place("versions")
    asked = {
        "stage": options.stage,
        "filter": options.filter,
        "sort": options.sort,
        "limit": options.limit,
    }
    found = desk.registry.pages(where, "versions", every=options.all, **asked)
    desk.show(
        found, lambda width: version_table(found["versions"], width, is_of_any=not options.name)
    )
    desk.more(found)
    return 0


def version_table(
    found: Sequence[Mapping[str, Any]], width: int | None = None, *, is_of_any: bool = False
) -> str:
    """Return versions as a table: of any model, or of one, which needs no column then."""
    columns = {
        "MODEL": "model",
        "VERSION": "version",
        "ALIASES": "aliases",
        "FRAMEWORK": "framework",
        "METRICS": "metrics",
        "CREATED": "created_at",
        "BY": "created_by",
        "DIGEST": "artifact_digest",
    }
    left_out = set() if is_of_any else {"MODEL"}
    if not any(each.get("aliases") for each in found):
        left_out.add("ALIASES")
    shown = {heading: key for heading, key in columns.items() if heading not in left_out}
    rows = ([each.get(key) for key in shown.values()] for each in found)
    spare = [each for each in ("DIGEST", "BY", "FRAMEWORK") if each in shown]
    return tables.table(
        list(shown), rows, width, whole=("MODEL", "ALIASES", "CREATED"), spare=spare
    )


def _show_version(desk: Desk, options: Namespace) -> int:
    where = (options.name, "versions", options.version)
    found = desk.registry.get(of_model(*where))
    measures = desk.registry.pages(of_model(*where, "evaluations"), "evaluations")
    approvals = desk.registry.pages(of_model(*where, "approvals"), "approvals")
    whole = {
        **found,
        "known_metrics": measures["metrics"],
        "evaluations": measures["evaluations"],
        "approvals": approvals["approvals"],
    }
    desk.show(whole, lambda width: tables.sections(whole, width))
    return 0


def register(arguments: Sequence[str]) -> int:
    """Run `lading register`; return the exit status."""
    summary = "Make an artifact that was pushed the next version of its model."
    parsing = Commands("register", summary, examples=_REGISTER_EXAMPLES).single(_register)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("artifact", metavar="DIGEST_OR_TAG")
    parser.add_argument("--framework", metavar="TEXT", default="")
    parser.add_argument("--description", metavar="TEXT", default="")
    parser.add_argument("--run-id", metavar="ID", default="", help="the run that made it")
    for option, kind, form in (
        ("--metric", measured, "NAME=NUMBER"),
        ("--param", parameter, "NAME=VALUE"),
        ("--tag", entry, "NAME=VALUE"),
    ):
        parser.add_argument(option, metavar=form, type=kind, action="append", default=[])
    parser.add_argument(
        "--from",
        dest="sources",
        metavar="TYPE=NODE",
        type=entry,
        action="append",
        default=[],
        help="what it was made from, such as base-model=sha256:...",
    )
    return parsing.run(arguments)


def _register(desk: Desk, options: Namespace) -> int:
    digest = options.artifact
    if ":" not in digest:
        digest = desk.registry.digest_of(options.name, digest)
    document = {
        "artifact_digest": digest,
        "framework": options.framework,
        "description": options.description,
        "run_id": options.run_id,
        "metrics": each_once(options.metric),
        "params": each_once(options.param),
        "tags": each_once(options.tag),
        "lineage": [{"type": kind, "target": node} for kind, node in options.sources],
    }
    where = of_model(options.name, "versions")
    try:
        # Sent twice, the second answer names what the first one made.
        made = desk.registry.send("POST", where, document, repeatable=True)
    except CommandFailed as error:
        if error.code != "version_exists":
            raise
        made = {**error.data, "status": "exists"}
        desk.remark("registered before; what was said of it then stays")
    desk.show(made, lambda _: f"{options.name} version {made['version']}  {digest}\n")
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Run `lading evaluate`; return the exit status."""
    summary = "Record what was measured of a version since it was registered."
    parsing = Commands("evaluate", summary, examples=_EVALUATE_EXAMPLES).single(_evaluate)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("version", metavar="VERSION", type=number)
    parser.add_argument(
        "--metric", metavar="NAME=NUMBER", type=measured, action="append", required=True
    )
    parser.add_argument("--dataset", metavar="TEXT", default="", help="what it was measured on")
    return parsing.run(arguments)


def _evaluate(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "versions", options.version, "evaluations")
    document = {"metrics": each_once(options.metric), "dataset": options.dataset}
    made = desk.registry.send("POST", where, document)
    said = f"{options.name} version {options.version}: {tables.plain(made['metrics'])}\n"
    desk.show(made, lambda _: said)
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Run `lading compare`; return the exit status."""
    summary = "What differs between two versions: metadata, metrics, files."
    parsing = Commands("compare", summary, examples=_COMPARE_EXAMPLES).single(_compare)
    parser = parsing.parser
    parser.add_argument("name", metavar="NAME", type=model)
    parser.add_argument("base", metavar="BASE", type=number)
    parser.add_argument("target", metavar="TARGET", type=number)
    return parsing.run(arguments)


def _compare(desk: Desk, options: Namespace) -> int:
    where = of_model(options.name, "compare")
    found = desk.registry.get(where, base=options.base, target=options.target)
    desk.show(found, lambda width: tables.sections(differing(found), width))
    return 0


def differing(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison without the parts in which nothing is."""
    parts = {
        key: differing(value) if isinstance(value, Mapping) else value
        for key, value in found.items()
    }
    return {key: value for key, value in parts.items() if value not in ({}, [])}

"""`lading`: the one command. Subcommands are named by import string and loaded when called."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from ociserver import __version__

# name -> (module:function, what it does). The function takes the arguments that follow the name.
COMMANDS = {
    "serve": ("ociserver.serve:main", "run the registry"),
    "gc": ("ociserver.gc:main", "drop what nobody needs any more, beside a registry that serves"),
    "scrub": (
        "ociserver.scrub:main",
        "hash blobs again, hold catalog and store against each other",
    ),
    "user": ("ociserver.people:user", "add, list, disable people; give them passwords and groups"),
    "robot": ("ociserver.people:robot", "add, list, disable robots; give them keys and groups"),
    "rules": ("ociserver.access:main", "check a rule file; ask it which rule decides"),
    "key": ("ociserver.access:key", "have tokens signed by a new key"),
    "audit": ("ociserver.trail:main", "print the audit; verify that what was printed is whole"),
    "models": ("mlext.cli.models:models", "list models; show or change what is said of one"),
    "versions": ("mlext.cli.models:versions", "list, find and show versions of models"),
    "register": ("mlext.cli.models:register", "make what was pushed the next version"),
    "evaluate": ("mlext.cli.models:evaluate", "record metrics that were measured later"),
    "compare": ("mlext.cli.models:compare", "tell what differs between two versions"),
    "alias": ("mlext.cli.aliases:aliases", "tell where an alias points, and pointed"),
    "promote": ("mlext.cli.aliases:promote", "have an alias point at a version, or ask its gate"),
    "rollback": ("mlext.cli.aliases:rollback", "have an alias point where it pointed before"),
    "approve": ("mlext.cli.aliases:approve", "approve of a version under an alias"),
    "gate": ("mlext.cli.gates:gates", "set up what is asked before an alias moves"),
    "lineage": ("mlext.cli.lineage:lineage", "tell what came from what"),
    "run": ("mlext.cli.lineage:run", "record the run that made a version"),
    "migrate": ("ociserver.migrate:main", "bring the catalog's schema to this release"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run `lading`; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lading",
        description="An OCI registry that is also the system of record for models.",
        epilog="`lading COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"lading {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    given = sys.argv[1:] if arguments is None else arguments
    chosen, rest = parser.parse_known_args(given[:1]), given[1:]
    module, _, function = COMMANDS[chosen[0].command][0].partition(":")
    status: int = getattr(import_module(module), function)(rest)
    return status

"""`lading rules` and `lading key`: what a rule file says, and the keys that sign tokens."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ociserver.auth.principals import ANYONE, Principal
from ociserver.auth.rulebook import read_rules
from ociserver.auth.rules import Action, Rules, RulesInvalid
from ociserver.errors import LadingError
from ociserver.refs import parse_name
from ociserver.settings import SettingInvalid, add_options, given
from ociserver.stores import existing_catalog

_REFUSED = 1
_USAGE = 2
_DESCRIPTION = "What a rule file says. `serve` takes the file as --rules and follows its changes."


def main(arguments: Sequence[str]) -> int:
    """Run `lading rules`. Exit status: 0; 1 for bad rules, or a no; 2 for what cannot be asked."""
    parser = argparse.ArgumentParser(prog="lading rules", description=_DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    checking = commands.add_parser(
        "check", help="tell whether a file can be used, and all that is wrong"
    )
    checking.add_argument("file", metavar="FILE")
    checking.set_defaults(work=_check)
    explaining = commands.add_parser("explain", help="name the rule that decides")
    explaining.add_argument(
        "principal", metavar="PRINCIPAL", help="user:NAME, robot:NAME, workload:ISSUER or anyone"
    )
    explaining.add_argument(
        "action", metavar="ACTION", choices=[str(each) for each in Action], help=", ".join(Action)
    )
    explaining.add_argument("repository", metavar="REPOSITORY")
    explaining.add_argument(
        "alias", metavar="ALIAS", nargs="?", help="for promote; without it, any alias at all"
    )
    explaining.add_argument(
        "--claim",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of a workload:ISSUER, again for each",
    )
    explaining.add_argument(
        "--group", metavar="GROUP", action="append", help="instead of those in the catalog"
    )
    add_options(explaining, {"rules", "catalog"})
    explaining.set_defaults(work=_explain)
    options = parser.parse_args(arguments)
    try:
        status: int = options.work(options)
    except RulesInvalid as error:
        for problem in error.problems:
            sys.stderr.write(f"lading rules: {problem}\n")
        return _REFUSED
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading rules: {error}\n")
        return _USAGE
    return status


def _check(options: argparse.Namespace) -> int:
    rules = read_rules(Path(options.file))
    sys.stdout.write(f"{len(rules.rules)} rules, {len(rules.issuers)} issuers\n")
    return 0


def _explain(options: argparse.Namespace) -> int:
    parse_name(options.repository)
    settings = given(options, os.environ)
    if settings.rules is None:
        raise SettingInvalid("--rules=FILE names the rules to ask")
    rules = read_rules(Path(settings.rules))
    principal = _principal(options, rules)
    if options.group is None and principal.name.startswith(("user:", "robot:")):

        async def groups() -> frozenset[str]:
            async with existing_catalog(settings) as catalog:
                found = await catalog.read(
                    lambda tx: tx.principal(principal.name.partition(":")[2])
                )
            if found is None or found.full_name != principal.name:
                raise SettingInvalid(f"the catalog has no {principal.name}")
            if found.disabled_at is not None:
                sys.stdout.write(f"{principal.name} is disabled: it cannot log in at all\n")
            return found.groups

        principal = Principal(principal.name, asyncio.run(groups()))
    asked = f"{options.action} in {options.repository}" + (
        f", alias {options.alias}" if options.alias else ""
    )
    rule = rules.of(principal).rule(Action(options.action), options.repository, options.alias)
    if rule is None:
        sys.stdout.write(f"no: no rule lets {principal.name} {asked}\n")
        return _REFUSED
    some = rule.aliases is not None and options.alias is None
    only = f", to {', '.join(rule.aliases or ())} alone" if some else ""
    sys.stdout.write(f"yes: {rule.place} lets {principal.name} {asked}{only}\n")
    return 0


def _principal(options: argparse.Namespace, rules: Rules) -> Principal:
    name = options.principal
    kind, _, rest = name.partition(":")
    if name == ANYONE.name:
        return ANYONE
    if kind == "workload" and rest.partition(":")[0] in rules.issuers:
        claims = dict(each.partition("=")[::2] for each in options.claim)
        full = name if ":" in rest else f"{name}:?"
        return Principal(full, frozenset(options.group or ()), claims)
    if kind in ("user", "robot") and rest:
        return Principal(name, frozenset(options.group or ()))
    raise SettingInvalid(f"{name!r} is none of: user:NAME, robot:NAME, workload:ISSUER, anyone")


def key(arguments: Sequence[str]) -> int:
    """Run `lading key`: have tokens signed by a new key. Exit status: 0, 1, or 2."""
    from ociserver.auth.trust import revoke, rotate  # noqa: PLC0415 - reads the whole of cryptography

    parser = argparse.ArgumentParser(prog="lading key", description="The keys that sign tokens.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    rotating = commands.add_parser("rotate", help="make a new key; it signs from now on")
    rotating.add_argument("--revoke", action="store_true", help="and take no token of older keys")
    add_options(rotating, {"catalog"})
    options = parser.parse_args(arguments)
    try:
        settings = given(options, os.environ)

        async def work() -> None:
            async with existing_catalog(settings) as catalog:
                before = [each.id for each in await catalog.read(lambda tx: tx.signing_keys())]
                # Another's new key, made at this moment, may sign only later: ours signs now.
                while not await rotate(catalog, time.time(), actor="operator"):
                    pass
                if options.revoke:
                    await revoke(catalog, before, actor="operator")

        asyncio.run(work())
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading key: {error}\n")
        return _USAGE
    return 0

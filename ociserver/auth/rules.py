"""Rules: who may do what, on which repositories. Pure; a file of them is a value.

A rule grants, nothing forbids: what no rule grants is refused, whatever order they stand in.
`docs/access.md` is the manual of the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from ociserver.auth.globs import anchored
from ociserver.auth.principals import ANYONE, Principal, is_name
from ociserver.refs import is_repository

_EVERYWHERE = "**"
# What a glob of repositories, and one of aliases, is made of.
REPOSITORY_GLOB = re.compile(r"(?!.*\*{3})[a-z0-9._/*-]+")
ALIAS_GLOB = re.compile(r"(?!.*\*{3})[A-Za-z0-9._*-]+")
_ISSUER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CLAIM = re.compile(r"[A-Za-z0-9_./:-]+")
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*rule[ \t]*\]\]", re.MULTILINE)
_RULE_KEYS = frozenset({"name", "who", "may", "on", "aliases"})
_ISSUER_KEYS = frozenset({"name", "url", "audience", "groups", "keys"})


class RulesInvalid(Exception):
    """The file cannot be used as a whole; `problems` are all that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Action(StrEnum):
    """What a rule may grant."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    REGISTER = "register"
    APPROVE = "approve"
    PROMOTE = "promote"
    READ_AUDIT = "read-audit"
    ADMIN = "admin"


# What is done to an alias, so that a rule may name some.
_OF_ALIASES = frozenset({Action.PROMOTE, Action.APPROVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An OpenID Connect provider whose tokens are taken for who they say (OIDC Core 1.0).

    `groups` is the claim that lists groups; `keys` the address of its key set, where it is not to
    be found by discovery.
    """

    name: str
    url: str
    audience: str
    groups: str | None = None
    keys: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One grant. `place` says where in the file it stands, for a person."""

    place: str
    who: tuple[str, ...]
    may: frozenset[Action]
    on: tuple[str, ...]
    aliases: tuple[str, ...] | None = None
    _matches_who: Callable[[Principal], bool] = field(repr=False, compare=False)
    _matches_on: re.Pattern[str] = field(repr=False, compare=False)
    _matches_alias: re.Pattern[str] | None = field(repr=False, compare=False, default=None)
    _matches_named: re.Pattern[str] | None = field(repr=False, compare=False, default=None)

    def is_for(self, principal: Principal) -> bool:
        """Tell whether the principal is among those it grants to."""
        return self._matches_who(principal)

    def grants(self, action: Action, repository: str, alias: str | None) -> bool:
        """Tell whether it grants this to those it is for; no alias is any alias at all."""
        return (
            action in self.may
            and self._matches_on.fullmatch(repository) is not None
            and (
                alias is None
                or self._matches_alias is None
                or self._matches_alias.fullmatch(alias) is not None
            )
        )

    def names(self, repository: str, alias: str) -> bool:
        """Tell whether it says of this alias by name who may move it there, or approve for it: by
        a glob that is more than stars.
        """
        return (
            self._matches_named is not None
            and self._matches_named.fullmatch(alias) is not None
            and self._matches_on.fullmatch(repository) is not None
        )


class Rights:
    """What one principal may do by one file of rules. Remembers what it was asked."""

    # Repositories one caller asks for while its rights are at hand. There are as many callers as
    # tokens, and whoever has many of them must not fill the memory with names.
    _REMEMBERED = 128

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._decided: dict[tuple[Action, str], Rule | None] = {}

    def rule(self, action: Action, repository: str, alias: str | None = None) -> Rule | None:
        """Return the first rule that grants it, None where none does."""
        if alias is not None:
            return self._find(action, repository, alias)
        key = (action, repository)
        if key not in self._decided:
            if len(self._decided) >= self._REMEMBERED:
                self._decided.clear()
            self._decided[key] = self._find(action, repository, None)
        return self._decided[key]

    def allow(self, action: Action, repository: str, alias: str | None = None) -> bool:
        """Tell whether a rule grants it."""
        return self.rule(action, repository, alias) is not None

    def allow_everywhere(self, action: Action) -> bool:
        """Tell whether a rule grants it on `**`: whatever repository there is or will be."""
        return any(action in each.may and _EVERYWHERE in each.on for each in self._rules)

    def allow_somewhere(self, action: Action) -> bool:
        """Tell whether a rule grants it, wherever."""
        return any(action in each.may for each in self._rules)

    def _find(self, action: Action, repository: str, alias: str | None) -> Rule | None:
        granting = (each for each in self._rules if each.grants(action, repository, alias))
        return next(granting, None)


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole file, in its order."""

    rules: tuple[Rule, ...] = ()
    issuers: Mapping[str, Issuer] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Return the rules that the TOML text holds. Raises RulesInvalid, naming all problems."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RulesInvalid([str(error)]) from error
        except RecursionError as error:
            raise RulesInvalid(["it nests too deeply"]) from error
        problems = [
            f"{key!r} is no part of it; known are: issuer, rule"
            for key in document.keys() - {"issuer", "rule"}
        ]
        issuers = _issuers(_tables(document, "issuer", problems), problems)
        lines = [text.count("\n", 0, found.start()) + 1 for found in _HEADER.finditer(text)]
        rules = []
        for number, table in enumerate(_tables(document, "rule", problems), 1):
            line = f", line {lines[number - 1]}" if number <= len(lines) else ""
            rule = _rule(f"rule {number}{line}", table, issuers, problems)
            if rule is not None:
                rules.append(rule)
        if not rules and not problems:
            # More likely a file that is being written than a registry for nobody.
            problems.append("it holds no [[rule]]: nobody could do anything")
        if problems:
            raise RulesInvalid(problems)
        return cls(tuple(rules), issuers)

    def of(self, principal: Principal) -> Rights:
        """Return what the principal may do."""
        return Rights([each for each in self.rules if each.is_for(principal)])

    def names_alias(self, repository: str, alias: str) -> bool:
        """Tell whether some rule, for whomever, is about this alias there by name."""
        return any(each.names(repository, alias) for each in self.rules)


# Without a rule file everyone may do everything; `serve` then listens on loopback only.
OPEN = Rules(
    (
        Rule(
            place="open mode",
            who=("anyone",),
            may=frozenset(Action),
            on=("**",),
            _matches_who=lambda _: True,
            _matches_on=re.compile(r".*", re.DOTALL),
        ),
    )
)


def _tables(document: Mapping[str, Any], key: str, problems: list[str]) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return found
    problems.append(f"{key!r} is a list of tables: write [[{key}]]")
    return []


def _issuers(tables: Sequence[dict[str, Any]], problems: list[str]) -> dict[str, Issuer]:
    issuers: dict[str, Issuer] = {}
    for number, table in enumerate(tables, 1):
        before = len(problems)
        place = f"issuer {number}"
        _refuse_unknown(place, table, _ISSUER_KEYS, problems)
        problems += [
            f"{place}: {key!r} is missing, or no text"
            for key in ("name", "url", "audience")
            if not isinstance(table.get(key), str) or not table[key]
        ]
        problems += [
            f"{place}: {key!r} is no text"
            for key in ("groups", "keys")
            if not isinstance(table.get(key, ""), str)
        ]
        if len(problems) > before:
            continue
        if not _ISSUER.fullmatch(table["name"]) or table["name"] in issuers:
            problems.append(f"{place}: name {table['name']!r} is of a-z, 0-9, '-', and its alone")
        problems += [
            f"{place}: {key} {table[key]!r} is no https address"
            for key in ("url", "keys")
            if key in table and not _is_address(table[key])
        ]
        if len(problems) == before:
            issuers[table["name"]] = Issuer(**table)
    return issuers


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    on_loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and on_loopback)
    )


def _rule(
    place: str, table: dict[str, Any], issuers: Mapping[str, Issuer], problems: list[str]
) -> Rule | None:
    before = len(problems)
    if isinstance(table.get("name"), str):
        place = f"{place} ({table['name']})"
    _refuse_unknown(place, table, _RULE_KEYS, problems)
    who, may = _texts(place, table, "who", problems), _texts(place, table, "may", problems)
    on = _texts(place, table, "on", problems)
    aliases = _texts(place, table, "aliases", problems) if "aliases" in table else None
    matchers = []
    for each in who:
        try:
            matchers.append(_who(each, issuers))
        except ValueError as error:
            problems.append(f"{place}: {each!r} in 'who' {error}")
    problems += [
        f"{place}: {each!r} in 'may' is unknown; known are: {', '.join(Action)}"
        for each in may
        if each not in set(Action)
    ]
    problems += [
        f"{place}: {each!r} in 'on' is no repository glob, such as team/** or team/*/model"
        for each in on
        if not _can_match(each)
    ]
    problems += [
        f"{place}: {each!r} in 'aliases' is no alias glob, such as staging or canary-*"
        for each in aliases or ()
        if not ALIAS_GLOB.fullmatch(each)
    ]
    if len(problems) > before:
        return None
    named = [each for each in aliases or () if each.strip("*") and _OF_ALIASES & {*may}]
    return Rule(
        place=place,
        who=who,
        may=frozenset(Action(each) for each in may),
        on=on,
        aliases=aliases,
        _matches_who=lambda principal: any(matches(principal) for matches in matchers),
        _matches_on=anchored(on),
        _matches_alias=anchored(aliases) if aliases is not None else None,
        _matches_named=anchored(named) if named else None,
    )


def _can_match(glob: str) -> bool:
    """Tell whether there can be a repository that the glob matches, unlike `/team/**`."""
    # A letter fits wherever something does.
    return REPOSITORY_GLOB.fullmatch(glob) is not None and is_repository(re.sub(r"\*+", "a", glob))


def _refuse_unknown(
    place: str, table: Mapping[str, Any], known: frozenset[str], problems: list[str]
) -> None:
    problems += [
        f"{place}: {key!r} is no key; known are: {', '.join(sorted(known))}"
        for key in sorted(table.keys() - known)
    ]


def _texts(place: str, table: Mapping[str, Any], key: str, problems: list[str]) -> tuple[str, ...]:
    found = table.get(key)
    texts = [found] if isinstance(found, str) else found
    if isinstance(texts, list) and texts and all(isinstance(each, str) for each in texts):
        return tuple(texts)
    problems.append(f"{place}: {key!r} is a text, or a list of them, and not empty")
    return ()


def _who(text: str, issuers: Mapping[str, Issuer]) -> Callable[[Principal], bool]:
    """Return what tells whether a principal is the one named. Raises ValueError, saying why."""
    if text == ANYONE.name:
        return lambda _: True
    kind, _, name = text.partition(":")
    if kind in ("user", "robot") and is_name(name):
        return lambda principal: principal.name == text
    if kind == "group" and name:
        return lambda principal: name in principal.groups
    if kind == "workload":
        return _workload(*name.split(), issuers=issuers)
    raise ValueError(
        "is none of: anyone, user:NAME, robot:NAME, group:NAME, workload:ISSUER CLAIM=GLOB …"
    )


def _workload(*words: str, issuers: Mapping[str, Issuer]) -> Callable[[Principal], bool]:
    if not words or words[0] not in issuers:
        raise ValueError("names no [[issuer]] of this file")
    wanted: dict[str, re.Pattern[str]] = {}
    for word in words[1:]:
        claim, equals, glob = word.partition("=")
        is_glob = bool(glob) and "***" not in glob
        if not equals or not _CLAIM.fullmatch(claim) or claim in wanted or not is_glob:
            raise ValueError(f"has {word!r}, which is no CLAIM=GLOB")
        wanted[claim] = anchored((glob,))
    if not wanted:
        raise ValueError("names no claim: anyone at all may have a token of that issuer")
    prefix = f"workload:{words[0]}:"
    return lambda principal: (
        principal.name.startswith(prefix)
        and all(
            claim in principal.claims and pattern.fullmatch(principal.claims[claim])
            for claim, pattern in wanted.items()
        )
    )

"""What every command has in common: the options that say where and as whom, and how it ends.

Exit status: 0; 1 where the registry refused, or a check failed; 2 for what cannot be asked that
way; 3 where an alias stands elsewhere than was expected; 4 where the registry is out of reach.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from mlext.cli import tables
from mlext.cli.client import USAGE, CommandFailed, Registry
from mlext.cli.credentials import SERVER, address_of
from ociserver.errors import LadingError
from ociserver.refs import parse_name, parse_tag

# As the registry: ten digits are none of its numbers.
_DIGITS = 10
T = TypeVar("T")
_ENDS = """\
exit status: 0; 1 refused, or a check failed; 2 asked wrongly;
3 the alias stands elsewhere; 4 the registry is out of reach

who asks, the first that says so: --user (password: --password-stdin,
LADING_PASSWORD, or a prompt), LADING_TOKEN, LADING_USER and LADING_PASSWORD,
what `docker login` or `oras login` kept"""


class Desk:
    """Where a command asks and answers."""

    def __init__(self, command: str, registry: Registry, *, as_json: bool) -> None:
        self._command = command
        self._as_json = as_json
        self.registry = registry

    def show(self, document: dict[str, Any], text: Callable[[int | None], str]) -> None:
        """Print the document: whole, as JSON, or as text of that many columns for people."""
        if self._as_json:
            sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        else:
            sys.stdout.write(_encodable(text(_columns())))

    def remark(self, sentence: str) -> None:
        """Say to a person what is not the answer."""
        if not self._as_json:
            sys.stderr.write(_encodable(f"lading {self._command}: {tables.letters(sentence)}\n"))

    def more(self, document: dict[str, Any]) -> None:
        """Say that there are more pages, where there are."""
        if document.get("next_cursor"):
            self.remark("there are more: --all")

    def fail(self, error: CommandFailed) -> int:
        """Say what went wrong; return the exit status."""
        if self._as_json and error.problem:
            sys.stderr.write(f"{json.dumps(dict(error.problem))}\n")
            return error.status
        conditions = error.data.get("conditions")
        if not isinstance(conditions, list):
            conditions = []
        # The sentence of a refused gate names all reasons, which the conditions do better.
        said = str(error).partition(": ")[0] + ":" if conditions else str(error)
        sys.stderr.write(_encodable(f"lading {self._command}: {tables.letters(said)}\n"))
        sys.stderr.write(_encodable(tables.verdict(conditions)))
        # Where in a filter it is: the line, and a caret below the place.
        for line in str(error.data.get("context", "")).splitlines():
            sys.stderr.write(_encodable(f"  {tables.letters(line)}\n"))
        return error.status


Work = Callable[[Desk, argparse.Namespace], int]


class Commands:
    """The parser of `lading NAME`, and of what follows."""

    def __init__(self, name: str, summary: str, *, examples: str = "") -> None:
        self._name = name
        self.parser = argparse.ArgumentParser(
            prog=f"lading {name}", description=summary, epilog=_epilog(examples), **_FORMAT
        )
        self._commands: Any = None

    def single(self, work: Work) -> Commands:
        """Have no subcommands: the arguments are added to `parser`."""
        _prepared(self.parser, work)
        return self

    def add(
        self, name: str, work: Work, summary: str, *, examples: str = ""
    ) -> argparse.ArgumentParser:
        """Return the parser of a subcommand, for its arguments."""
        if self._commands is None:
            self._commands = self.parser.add_subparsers(metavar="COMMAND", required=True)
        added: argparse.ArgumentParser = self._commands.add_parser(
            name, help=summary, description=summary, epilog=_epilog(examples), **_FORMAT
        )
        return _prepared(added, work)

    def run(self, arguments: Sequence[str]) -> int:
        """Do what the arguments say; return the exit status."""
        options = self.parser.parse_args(arguments)
        as_json = "json" in vars(options)
        try:
            registry = Registry(address_of(options, os.environ))
        except CommandFailed as error:
            sys.stderr.write(f"lading {self._name}: {error}\n")
            return error.status
        desk = Desk(self._name, registry, as_json=as_json)
        try:
            status: int = options.work(desk, options)
            sys.stdout.flush()
        except CommandFailed as error:
            return desk.fail(error)
        except BrokenPipeError:
            # Who reads has enough. What is still buffered must not fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        finally:
            registry.close()
        return status


class _Help(argparse.RawDescriptionHelpFormatter):
    """What every command takes is listed below, and not in the line that says how this one goes."""

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        own = [each for each in actions if not _COMMON.intersection(each.option_strings)]
        super().add_usage(usage, own, groups, prefix)


_FORMAT: Any = {"formatter_class": _Help}


def _epilog(examples: str) -> str:
    return f"examples:\n{examples.rstrip()}\n\n{_ENDS}" if examples else _ENDS


_CONNECTION: Sequence[tuple[str, dict[str, Any]]] = (
    (
        "--server",
        {"metavar": "URL", "help": f"the registry (default: LADING_SERVER, or {SERVER})"},
    ),
    ("--user", {"metavar": "NAME", "help": "log in as this person or robot"}),
    ("--password-stdin", {"action": "store_true", "help": "read the password from stdin"}),
    (
        "--ca-file",
        {
            "metavar": "FILE",
            "help": "trust this authority alone (default: LADING_CA_FILE, or the system's)",
        },
    ),
    ("--client-cert", {"metavar": "FILE", "help": "a certificate of one's own to show"}),
    ("--client-key", {"metavar": "FILE", "help": "its key, where that is in another file"}),
)


_COMMON = frozenset(("-h", "--timeout", *(option for option, _ in _CONNECTION)))


def _prepared(parser: argparse.ArgumentParser, work: Work) -> argparse.ArgumentParser:
    # None of these is there unless it is given: not even as None.
    absent = argparse.SUPPRESS
    parser.set_defaults(work=work)
    parser.add_argument(
        "--json", action="store_true", default=absent, help="print JSON, whole, for programs"
    )
    where = parser.add_argument_group("where, and as whom")
    for option, details in _CONNECTION:
        where.add_argument(option, default=absent, **details)
    where.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=absent,
        help="how long to wait for an answer, asking again included (default: 60)",
    )
    return parser


def _columns() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _encodable(text: str) -> str:
    """Return the text as far as the terminal's encoding knows it."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return found


def model(text: str) -> str:
    """Return the name of a model, as argparse takes it."""
    try:
        return parse_name(text)
    except LadingError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def alias(text: str) -> str:
    """Return the name of an alias, as argparse takes it."""
    try:
        return parse_tag(text)
    except LadingError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def number(text: str) -> int:
    """Return the number of a version, as argparse takes it: `42` or `v42`."""
    digits = text.removeprefix("v")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) < _DIGITS
    if not is_number or not int(digits):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a version, such as 42")
    return int(digits)


def count(text: str) -> int:
    """Return a number of things, one at least, as argparse takes it."""
    is_number = text.isascii() and text.isdecimal() and len(text) < _DIGITS
    if not is_number or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, such as 50")
    return int(text)


def entry(text: str) -> tuple[str, str]:
    """Return a key and its value, as argparse takes them: `KEY=VALUE`."""
    key, mark, value = text.partition("=")
    if not mark or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def each_once(entries: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Return what was said by several options. Raises CommandFailed for a key said twice."""
    found: dict[str, T] = {}
    for key, value in entries:
        if key in found:
            raise CommandFailed(f"{key!r} is said twice", USAGE)
        found[key] = value
    return found


def measured(text: str) -> tuple[str, float]:
    """Return a key and a number, as argparse takes them: `KEY=NUMBER`."""
    key, value = entry(text)
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{value!r} in {text!r} is no finite number")
    return key, found


def parameter(text: str) -> tuple[str, str | float | int | bool]:
    """Return a key and a value, as argparse takes them: a number, true, false, else a text."""
    key, value = entry(text)
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    is_plain = isinstance(found, bool | int | float) and math.isfinite(found)
    return key, found if is_plain else value

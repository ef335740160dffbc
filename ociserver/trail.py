"""`lading audit`: the audit as lines of JSON, and whether such lines are all that was recorded.

`verify` needs no catalog and no registry. Exit status: 0; 1 where a link of the chain does not
hold; 2 for a wrong setting or argument, or what cannot be read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from ociserver.auth.chain import LINE_BYTES, START, Mark, line, verdict
from ociserver.errors import LadingError
from ociserver.settings import SettingInvalid, add_options, given
from ociserver.stores import existing_catalog

# What asks a registry, as the commands of models do, and what knows what events mean to them.
_OF_MODELS = {
    "list": ("mlext.cli.audit:listing", "look through it, the latest first, as a registry answers"),
    "state": ("mlext.cli.state:state", "tell from an export where an alias stood, and when"),
}
_BROKEN = 1
_USAGE = 2
# Events read at once: so many are in memory.
_PAGE = 500


def main(arguments: Sequence[str]) -> int:
    """Run `lading audit`; return the exit status."""
    if arguments and arguments[0] in _OF_MODELS:
        module, _, function = _OF_MODELS[arguments[0]][0].partition(":")
        status: int = getattr(import_module(module), function)(arguments[1:])
        return status
    options = _parser().parse_args(arguments)
    try:
        status = options.work(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (SettingInvalid, LadingError, OSError) as error:
        sys.stderr.write(f"lading audit: {error}\n")
        return _USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lading audit", description="What was done, and refused.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, summary) in _OF_MODELS.items():
        commands.add_parser(name, help=summary, add_help=False)
    exporting = commands.add_parser("export", help="print events, one line of JSON each")
    exporting.add_argument(
        "--after",
        metavar="NUMBER[:HASH]",
        type=_mark,
        default=START,
        help="begin behind this event, such as the head of an earlier export",
    )
    add_options(exporting, {"catalog"})
    exporting.set_defaults(work=_export)
    verifying = commands.add_parser(
        "verify", help="tell whether an export is whole and as it was recorded, or where not"
    )
    verifying.add_argument("file", metavar="FILE", nargs="?", default="-", help="default: stdin")
    verifying.add_argument(
        "--after",
        metavar="NUMBER[:HASH]",
        type=_mark,
        default=START,
        help="the export begins behind this event; with the hash, it must follow just that one",
    )
    verifying.add_argument(
        "--head",
        metavar="NUMBER:HASH",
        type=_head,
        help="what an earlier `verify` printed: the export must hold that event, or follow it",
    )
    verifying.set_defaults(work=_verify)
    return parser


def _mark(text: str) -> Mark:
    try:
        found = Mark.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER or NUMBER:HASH") from error
    return found if found.number else START


def _head(text: str) -> Mark:
    found = _mark(text)
    if found.hash is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER:HASH")
    return found


def _export(options: argparse.Namespace) -> int:
    settings = given(options, os.environ)

    async def work() -> None:
        async with existing_catalog(settings, make=False) as catalog:
            after = options.after.number
            while links := await catalog.read(
                lambda tx: tx.trail(after, _PAGE)  # noqa: B023 - awaited at once
            ):
                sys.stdout.buffer.writelines(map(line, links))
                after = links[-1].event.number

    asyncio.run(work())
    return 0


def _verify(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        file: BinaryIO = sys.stdin.buffer
        if options.file != "-":
            file = stack.enter_context(Path(options.file).open("rb"))
        found = verdict(_lines(file), options.after, options.head)
    if found.broken is not None:
        sys.stdout.write(f"{found.broken}\n")
        return _BROKEN
    since = f" from {options.after.number + 1} on" if options.after.number else ""
    sys.stdout.write(f"{found.events:,} events{since}, head {found.head}\n")
    return 0


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of one that is too long, only as much as shows that it is."""
    return iter(lambda: file.readline(LINE_BYTES + 2), b"")

"""`lading audit state`: where an alias stood, told from an export of the audit and nothing else.

Like `lading audit verify` it needs no registry, and it believes no export that does not hold. Exit
status: 0; 1 where the alias did not stand anywhere, or a link of the chain does not hold; 2 for a
wrong argument, or what cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from mlext.cli import tables, times
from mlext.records import rfc3339
from mlext.replay import Standing, move_of, standings
from ociserver.auth.chain import LINE_BYTES, verdict

_REFUSED = 1
_USAGE = 2


def state(arguments: Sequence[str]) -> int:
    """Run `lading audit state` on what follows these words; return the exit status."""
    options = _parser().parse_args(arguments)
    moves: list[Standing] = []
    try:
        with ExitStack() as stack:
            file: BinaryIO = sys.stdin.buffer
            if options.export != "-":
                file = stack.enter_context(Path(options.export).open("rb"))
            broken = verdict(_heard(file, options.model, moves)).broken
    except OSError as error:
        sys.stderr.write(f"lading audit: {error}\n")
        return _USAGE
    if broken is not None:
        sys.stderr.write(f"lading audit: {broken}\n")
        return _REFUSED
    found = standings(moves, options.at).get((options.model, options.alias))
    if found is None:
        sys.stderr.write(f"lading audit: {options.model} had no alias {options.alias} then\n")
        return _REFUSED
    shown = {
        "alias": found.alias,
        "version": found.number,
        "artifact_digest": found.digest,
        "updated_by": found.by,
        "updated_at": rfc3339(found.at),
        "reason": found.reason,
    }
    sys.stdout.write(json.dumps(shown) + "\n" if options.json else tables.sections(shown))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lading audit state",
        description="Where an alias stood, as an export of the audit from its beginning tells.",
    )
    parser.add_argument("model", metavar="NAME")
    parser.add_argument("alias", metavar="ALIAS")
    parser.add_argument(
        "--at",
        metavar="TIME",
        type=times.seconds,
        default=math.inf,
        help=f"then: {times.HELP} (default: at the end of the export)",
    )
    parser.add_argument("--export", metavar="FILE", default="-", help="default: stdin")
    parser.add_argument("--json", action="store_true", help="one document, for programs")
    return parser


def _heard(file: BinaryIO, model: str, moves: list[Standing]) -> Iterator[bytes]:
    """Yield the lines to be verified; of each that held, keep it if it moved one of the model."""
    for line in iter(lambda: file.readline(LINE_BYTES + 2), b""):
        yield line
        # Whoever asks for the next has found this one whole.
        move = move_of(line)
        if move is not None and move.model == model:
            moves.append(move)

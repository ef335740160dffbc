"""Where aliases stood at any time, from the audit alone. Pure.

The catalog keeps a history that answers faster (`?at=`); this is how anyone who holds an export can
tell that it answers right, with no registry at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_MOVE = "promote"
_DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an alias of a model stood; `at` is since when, in seconds since the epoch."""

    model: str
    alias: str
    number: int
    digest: str
    at: float
    by: str
    reason: str


def move_of(line: bytes) -> Standing | None:
    """Return where an event took an alias, None where it is no move.

    `line` is one of an export that was verified up to it (`ociserver.auth.chain`).
    """
    event: Mapping[str, Any] = json.loads(line)
    if event["action"] != _MOVE or event["outcome"] != _DONE:
        return None
    said = event["detail"]
    return Standing(
        model=event["subject"],
        alias=said["alias"],
        number=said["to"]["version"],
        digest=said["to"]["digest"],
        at=event["at"],
        by=event["actor"],
        reason=said["reason"],
    )


def standings(moves: Iterable[Standing], at: float) -> dict[tuple[str, str], Standing]:
    """Return where each alias stood at that time, by model and name; `moves` as they are numbered.

    An alias's moves are in the order of their times, whatever the clocks of replicas said.
    """
    return {(each.model, each.alias): each for each in moves if each.at <= at}

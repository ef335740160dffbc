"""Times as people write them at a prompt: in full, as a date, or as so long ago."""

from __future__ import annotations

import re
import time
from argparse import ArgumentTypeError

from mlext.documents import parse_since
from mlext.errors import DocumentInvalid
from mlext.records import rfc3339

# What each --help says of such an option.
HELP = "2026-11-25T03:00:00Z, a date (its beginning, in UTC), or 90m, 2h, 3d ago"
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment(text: str) -> str:
    """Return the time as RFC 3339 writes it, as argparse takes it."""
    return rfc3339(seconds(text))


def seconds(text: str) -> float:
    """Return the time in seconds since the epoch, as argparse takes it."""
    try:
        if ago := _AGO.fullmatch(text):
            found = time.time() - int(ago[1]) * _SECONDS[ago[2]]
            rfc3339(found)  # not what is before there were years
            return found
        return parse_since(text, "TIME")
    except DocumentInvalid as error:
        raise ArgumentTypeError(f"{error.message}, nor so long ago, such as 2h") from error
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(f"{text} ago is before all times") from error

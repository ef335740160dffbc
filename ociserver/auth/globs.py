"""Globs: `*` stands for anything within a path component, `**` for anything at all. Pure.

What is matched comes from strangers, so a glob must not be slow on any text: a pattern that goes
back over every star again and again takes minutes for a name made for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def anchored(globs: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern that fully matches what one of these globs does.

    Its time grows with the square of the text at most, however many stars there are.
    """
    return re.compile("|".join(_expression(each) for each in globs), re.DOTALL)


def _expression(glob: str) -> str:
    """Return the glob as a regular expression in which a part that was found is not sought again.

    A part before a `**` may end as soon as it can: what follows then has the most text left. So
    may what stands before a `*`, as a text without a slash goes on to be one wherever it begins.
    """
    first, *others = glob.split("**")
    if not others:
        return _at_the_end(first)
    *middle, last = others
    found = "".join(f"(?>.*?{_soonest(each)})" for each in middle)
    return f"(?>{_soonest(first)}){found}.*{_at_the_end(last)}"


def _soonest(part: str) -> str:
    literal, *others = map(re.escape, part.split("*"))
    return literal + "".join(f"(?>[^/]*?{each})" for each in others)


def _at_the_end(part: str) -> str:
    before, star, literal = part.rpartition("*")
    return f"{_soonest(before)}[^/]*{re.escape(literal)}" if star else re.escape(literal)

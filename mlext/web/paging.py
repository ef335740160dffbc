"""Pages of lists: which one is asked for, and how it is answered.

The cursor of a list is what its last entry is called, so it stays good whatever is added or taken
away, and tells nobody anything new. Searches have an order that is asked for, and so cursors of
their own (`mlext.pages`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mlext.documents import UNKEPT
from mlext.errors import CursorInvalid
from mlext.pages import LIMIT, LIMIT_MAX
from mlext.web.answers import raw
from mlext.web.asked import whole

T = TypeVar("T")

# What every list takes.
PAGE = ("limit", "cursor")
# Of a page's entries: each may have a text of 5,000 characters in it.
_PAGE_BYTES = 4 * 1024 * 1024
# Nothing is called by more: it would not fit into an address.
_CURSOR_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """So many entries after the one of that name, None for the first of all."""

    limit: int
    after: str | None

    @property
    def more(self) -> int:
        """How many entries to read: one more tells whether there is another page."""
        return self.limit + 1


def asked(request: Request, otherwise: int = LIMIT) -> Asked:
    """Return which page the query asks for. Raises DocumentInvalid, CursorInvalid."""
    limit = whole(request, "limit", otherwise, most=LIMIT_MAX)
    after = request.query_params.get("cursor")
    if after is not None and (not 0 < len(after) <= _CURSOR_MAX or UNKEPT.search(after)):
        raise damaged()
    return Asked(limit, after)


def damaged() -> CursorInvalid:
    """Return what to raise for a cursor that calls nothing by its name."""
    return CursorInvalid("the cursor is none that a page of this list gave")


def number(cursor: str, digits: int) -> int:
    """Return the cursor of a list whose entries are called by numbers, of so many digits at most.

    Raises CursorInvalid.
    """
    if not cursor.isascii() or not cursor.isdecimal() or len(cursor) > digits:
        raise damaged()
    return int(cursor)


def answer(
    page: Asked,
    key: str,
    found: Sequence[T],
    shown: Callable[[T], object],
    called: Callable[[T], object],
    **beside: object,
) -> Response:
    """Return a page of what was found, of which there is one more if there is another page.

    It ends early rather than be large, and has one entry at least. `called` names an entry, for
    the cursor of the next page.
    """
    texts: list[str] = []
    room = _PAGE_BYTES
    for each in found[: page.limit]:
        text = json.dumps(shown(each), ensure_ascii=False)
        room -= len(text.encode())
        if texts and room < 0:
            break
        texts.append(text)
    following = str(called(found[len(texts) - 1])) if len(found) > len(texts) else None
    head = json.dumps({**beside, "next_cursor": following}, ensure_ascii=False)
    return raw(f'{head[:-1]}, "{key}": [{", ".join(texts)}]}}'.encode())

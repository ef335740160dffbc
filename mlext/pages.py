"""Pages of a search: what is asked for, in which order, and where the next page begins. Pure.

A cursor says where the last version of a page stood in the order: its sort values, model and
number. What is registered between two pages moves no other, so none appears twice and none behind
the cursor is passed over; a version whose own sort value changes meanwhile moves with it. A cursor
is no secret and grants nothing: each page is held against the rights of whoever asks for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeGuard

from mlext import filters
from mlext.documents import UNKEPT, WHOLE_MAX, is_finite
from mlext.errors import CursorInvalid, DocumentInvalid, FilterInvalid
from mlext.filters import Expression, Field, Kind, conditions
from mlext.records import Metrics
from ociserver.errors import NameInvalid
from ociserver.refs import RepositoryName, Tag, parse_name, shortened

LIMIT = 50
LIMIT_MAX = 1_000
# More order nothing that these leave equal.
_KEYS_MAX = 5
# Texts are in the order of so many of their first characters: a cursor has to be short.
TEXT_MAX = 200
# Of what one page shows. The largest version alone is a quarter of a megabyte.
BODIES_MAX = 8 * 1024 * 1024
_CURSOR_MAX = 16 * 1024
_SORTED = (Kind.METRIC, Kind.PARAM, Kind.TAG, Kind.ATTRIBUTE)

SortValue = str | float | int | None


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field that versions are ordered by. Those without it come last, either way."""

    field: Field
    descending: bool = False


VERSION = Field(Kind.ATTRIBUTE, "version")
MODEL = Field(Kind.ATTRIBUTE, "model")
# What comes first where nothing is asked for: a model's latest version.
OF_ONE = (SortKey(VERSION, descending=True),)
OF_ALL = (SortKey(MODEL), SortKey(VERSION, descending=True))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a version stands in an order: its values of the order's columns, and which it is."""

    values: tuple[SortValue, ...]
    model: RepositoryName
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search: of one model or of all, after a position. `within` leaves these models only."""

    model: RepositoryName | None
    where: Expression | None
    order: tuple[SortKey, ...]
    after: Position | None = None
    limit: int = LIMIT
    within: Collection[RepositoryName] | None = None

    def mark(self) -> str:
        """Return what a cursor of this search carries: the same for each of its pages."""
        said = [self.model, filters.render(self.where) if self.where else "", _shown(self.order)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A version as a search finds it: `body` is that of `ModelVersion`, `metrics` are as known
    last where an evaluation came after it.
    """

    position: Position
    body: bytes
    aliases: tuple[Tag, ...]
    metrics: Metrics | None

    def shown(self) -> bytes:
        """Return it as the wire shows it, in JSON.

        Most were never evaluated: of those nothing is read, and what is written is all there.
        """
        body = self.body
        if self.metrics is not None:
            body = _written(json.loads(body) | {"metrics": dict(self.metrics)})
        return b'%s, "aliases": %s}' % (body.removesuffix(b"}"), _written(self.aliases))


def _written(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Page:
    """Versions in the query's order, and the model of the one that comes after them, if any."""

    found: tuple[Found, ...]
    following: RepositoryName | None


def parse_sort(text: str) -> tuple[SortKey, ...]:
    """Return the order of `-metrics.f1,created_at`. Raises DocumentInvalid."""
    keys = []
    for each in _split(text):
        name = each.strip()
        is_descending = name.startswith("-")
        try:
            given = filters.parse(f"{name.removeprefix('-')} is null")
        except FilterInvalid as error:
            raise DocumentInvalid(f"sort: {shortened(name)!r} is no field to sort by") from error
        if not isinstance(given, filters.Presence) or given.field.kind not in _SORTED:
            raise DocumentInvalid(f"sort: {shortened(name)!r} is no field to sort by")
        keys.append(SortKey(given.field, is_descending))
    if len(keys) > _KEYS_MAX or len({each.field for each in keys}) < len(keys):
        raise DocumentInvalid(f"sort is at most {_KEYS_MAX} fields, each once")
    return tuple(keys)


# A comma in a quoted key separates nothing.
_KEY = re.compile(r"""(?:`[^`]*`|"[^"]*"|[^,`"])+""")


def _split(text: str) -> list[str]:
    found = _KEY.findall(text)
    if not found or ",".join(found) != text:
        raise DocumentInvalid(f"sort {shortened(text)!r} is not fields, separated by commas")
    return found


def _shown(order: tuple[SortKey, ...]) -> list[list[object]]:
    return [[each.field.kind, each.field.key, each.descending] for each in order]


def cursor(query: Query, last: Position) -> str:
    """Return the cursor of the page after that one."""
    said = {"q": query.mark(), "s": last.values, "m": last.model, "n": last.number}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def parse_cursor(query: Query, text: str) -> Position:
    """Return where the page after that cursor begins. Raises CursorInvalid: damaged, or of another
    search.
    """
    said = _decoded(text)
    if set(said) != {"q", "s", "m", "n"} or not isinstance(said["s"], list):
        raise CursorInvalid("the cursor is damaged")
    if said["q"] != query.mark():
        raise CursorInvalid("the cursor is of another search: filter and sort stay as they were")
    kinds = columns(query.order)
    values, number = said["s"], said["n"]
    if len(values) != len(kinds) or not all(map(_is_one, values, kinds)):
        raise CursorInvalid("the cursor is damaged")
    try:
        model = parse_name(said["m"]) if isinstance(said["m"], str) else None
    except NameInvalid:
        model = None
    if model is None or query.model not in (None, model) or not _is_whole(number):
        raise CursorInvalid("the cursor is damaged")
    return Position(tuple(values), model, number)


def _decoded(text: str) -> dict[str, object]:
    if len(text) > _CURSOR_MAX or not text.isascii():
        raise CursorInvalid("the cursor is damaged")
    try:
        padded = text.encode() + b"=" * (-len(text) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError) as error:
        raise CursorInvalid("the cursor is damaged") from error
    if not isinstance(found, dict):
        raise CursorInvalid("the cursor is damaged")
    return found


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """One column of an order: numbers, whole numbers or texts, and whether some have none."""

    of: type[float | int | str]
    lacking: bool


def columns(order: tuple[SortKey, ...]) -> list[ColumnKind]:
    """Return the columns that an order compares. A parameter has two: those that are numbers come
    before those that are none.
    """
    found: list[ColumnKind] = []
    for each in order:
        match each.field:
            case Field(Kind.METRIC):
                found.append(ColumnKind(float, lacking=True))
            case Field(Kind.PARAM):
                found += [ColumnKind(float, lacking=True), ColumnKind(str, lacking=True)]
            case Field(Kind.ATTRIBUTE, "version"):
                found.append(ColumnKind(int, lacking=False))
            case Field(Kind.ATTRIBUTE, "created_at"):
                found.append(ColumnKind(float, lacking=False))
            case Field(Kind.ATTRIBUTE, "created_by" | "digest" | "model"):
                found.append(ColumnKind(str, lacking=False))
            case _:
                found.append(ColumnKind(str, lacking=True))
    return found


def is_of_model_alone(query: Query) -> bool:
    """Tell whether only changes of the model itself change what a search of it finds.

    Lineage is also what a run says, and that is of no model.
    """
    if query.model is None:
        return False
    asked = conditions(query.where) if query.where is not None else ()
    return all(each.field.kind is not Kind.LINEAGE for each in asked)


def _is_one(value: object, kind: ColumnKind) -> bool:
    if value is None:
        return kind.lacking
    if kind.of is str:
        return isinstance(value, str) and not UNKEPT.search(value)
    if kind.of is int:
        return _is_whole(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < WHOLE_MAX

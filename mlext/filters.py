"""The filter language: what versions are searched by. Pure.

    metrics.f1 > 0.8 and params.optimizer = 'adam' and tags.team in ('fraud', 'risk')
    and not (created_at < '2026-01-01T00:00:00Z') and lineage.dataset = 'clicks@2026-01'

A condition compares one field with what is written, and holds or does not: there is no third
value. Of a version that lacks the field no comparison holds, `!=`, `not in` and `not like` no more
than `=`; `not (…)` is plain negation, so `not (tags.team = 'fraud')` holds of a version without
that tag, and `tags.team != 'fraud'` does not. `is null` asks whether it is lacking. Numbers compare
with numbers and texts with texts: a parameter that is a number has a text too, that of its JSON.
Texts are in the order of their code points; `ilike` ignores the case of ASCII letters.
`stage` and `lineage.…` have any number of values, and a condition holds if one of them does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from mlext.documents import UNKEPT, WHOLE_MAX, parse_since
from mlext.errors import DocumentInvalid, FilterInvalid
from mlext.lineage import KINDS, any_node
from mlext.records import rfc3339
from ociserver.refs import shortened

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.exceptions import UnexpectedInput

# What one request may have the databases do. No person writes as much.
TEXT_MAX = 4 * 1024
CONDITIONS_MAX = 32
DEPTH_MAX = 16
# A pattern is tried at every place for every `%`.
_WILDCARDS_MAX = 8
# Characters of the line that an error shows.
_CONTEXT = 60


class Kind(StrEnum):
    """What a field is of."""

    METRIC = "metrics"
    PARAM = "params"
    TAG = "tags"
    LINEAGE = "lineage"
    STAGE = "stage"
    ATTRIBUTE = "attribute"


# Of the version itself.
ATTRIBUTES = ("version", "framework", "run_id", "created_at", "created_by", "digest", "model")
_KEYED = (Kind.METRIC, Kind.PARAM, Kind.TAG, Kind.LINEAGE)


class Operator(StrEnum):
    """How a field is compared with values."""

    EQUAL = "="
    UNEQUAL = "!="
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="
    IN = "in"
    NOT_IN = "not in"
    LIKE = "like"
    NOT_LIKE = "not like"
    ILIKE = "ilike"
    NOT_ILIKE = "not ilike"


PATTERNS = frozenset((Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE))
# Where a field has several values, "not this one" could mean that one is another or that none is.
_OF_SEVERAL = frozenset((Operator.EQUAL, Operator.IN, Operator.LIKE, Operator.ILIKE))


@dataclass(frozen=True, slots=True)
class Field:
    """`metrics.f1` is METRIC and `f1`; of an attribute `key` is the name, of `stage` empty."""

    kind: Kind
    key: str = ""


Value = str | float | int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field operator values`: one value, or those of a list. Of `created_at` they are seconds
    since the epoch, of `version` whole numbers, of lineage names of nodes.
    """

    field: Field
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Presence:
    """`field is not null`, or `field is null`."""

    field: Field
    present: bool


@dataclass(frozen=True, slots=True)
class Not:
    """`not (inner)`."""

    inner: Expression


@dataclass(frozen=True, slots=True)
class All:
    """`parts[0] and parts[1] …`: two or more."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """`parts[0] or parts[1] …`: two or more."""

    parts: tuple[Expression, ...]


Condition = Comparison | Presence
Expression = Condition | Not | All | Some


# LALR, so that no text takes longer than its length says. A field is one terminal: its key may be
# a word that is a keyword elsewhere.
_GRAMMAR = r"""
?start: either
?either: both (_OR both)*                    -> some
?both: single (_AND single)*                 -> all
?single: NOT single                          -> negated
       | "(" either ")"                      -> nested
       | FIELD COMPARATOR literal            -> compared
       | FIELD NOT? IN "(" literal ("," literal)* ")" -> listed
       | FIELD NOT? (LIKE | ILIKE) STRING    -> likened
       | FIELD IS NOT? NULL                  -> given
literal: NUMBER | STRING

FIELD: /[A-Za-z_]+(\.(`([^`]|``)+`|"([^"]|"")+"|[A-Za-z0-9_]([A-Za-z0-9_.\/:-]*[A-Za-z0-9_])?))?/
COMPARATOR: "=" | "!=" | "<=" | ">=" | "<" | ">"
NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
STRING: /'([^']|'')*'|"([^"]|"")*"/
_AND.2: /and\b/i
_OR.2: /or\b/i
NOT.2: /not\b/i
IN.2: /in\b/i
LIKE.2: /like\b/i
ILIKE.2: /ilike\b/i
IS.2: /is\b/i
NULL.2: /null\b/i
%ignore /[ \t\r\n]+/
"""
_EXPECTED = {
    "FIELD": "a field",
    "COMPARATOR": "a comparator (= != < <= > >=)",
    "NUMBER": "a number",
    "STRING": "a text in quotes",
    "LPAR": "'('",
    "RPAR": "')'",
    "COMMA": "','",
    "$END": "the end",
}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\/:-]*[A-Za-z0-9_])?")
_KEY_MAX = 250


def parse(text: str) -> Expression:
    """Return what the text says. Raises FilterInvalid, with the place, for one that says nothing
    or more than it may.
    """
    if len(text) > TEXT_MAX:
        _refuse(text, TEXT_MAX, f"a filter has at most {TEXT_MAX} characters")
    if unkept := UNKEPT.search(text):
        _refuse(text, unkept.start(), "no version has such a character")
    from lark.exceptions import UnexpectedInput  # noqa: PLC0415 - as _parser

    try:
        found = _parser().parse(text)
    except UnexpectedInput as error:
        names, place = _surprise(error, len(text))
        expected = sorted({_EXPECTED.get(each, each.strip("_").lower()) for each in names})
        _refuse(text, place, f"expected {', '.join(expected)}")
    except _Misplaced as error:
        _refuse(text, error.offset, error.message)
    return found  # type: ignore[return-value] # what the builder returns in place of a tree


def _surprise(error: UnexpectedInput, end: int) -> tuple[set[str], int]:
    """Return what could have stood at which offset."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken  # noqa: PLC0415 - as _parser

    if isinstance(error, UnexpectedToken):
        at_end = error.token.type == "$END"
        return set(error.accepts or error.expected), end if at_end else _offset(error.token)
    allowed = error.allowed if isinstance(error, UnexpectedCharacters) else None
    return set(allowed or ()), error.pos_in_stream or 0


class _Misplaced(Exception):
    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.message = message


def _refuse(text: str, offset: int, message: str) -> NoReturn:
    """Raise FilterInvalid for that place."""
    before = text[:offset]
    line = before.count("\n") + 1
    column = offset - (before.rfind("\n") + 1) + 1
    first = max(column - 1 - _CONTEXT, 0)
    shown = text.split("\n")[line - 1][first : column - 1 + _CONTEXT]
    # No character of it may move the caret, or the terminal.
    shown = "".join(each if each.isprintable() else " " for each in shown)
    raise FilterInvalid(
        f"filter, line {line}, column {column}: {message}",
        detail={
            "line": line,
            "column": column,
            "offset": offset,
            "context": f"{shown}\n{' ' * (column - 1 - first)}^",
        },
    )


@cache
def _parser() -> Lark:
    # Not read before the first filter comes: it takes longer than most of a start.
    from lark import Lark  # noqa: PLC0415

    return Lark(_GRAMMAR, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


class _Builder:
    """Makes the expression while the text is read. Lark calls a rule's method with its parts."""

    def literal(self, parts: Sequence[Token]) -> Token:
        return parts[0]

    def nested(self, parts: Sequence[Expression]) -> Expression:
        return parts[0]

    def negated(self, parts: Sequence[Token | Expression]) -> Expression:
        return _bounded(Not(parts[-1]), _offset(parts[0]))  # type: ignore[arg-type] # NOT, inner

    def all(self, parts: Sequence[Expression]) -> Expression:
        return _bounded(All(tuple(parts)), 0) if len(parts) > 1 else parts[0]

    def some(self, parts: Sequence[Expression]) -> Expression:
        return _bounded(Some(tuple(parts)), 0) if len(parts) > 1 else parts[0]

    def compared(self, parts: Sequence[Token]) -> Expression:
        field, operator, value = parts
        return _comparison(field, Operator(str(operator)), [value])

    def listed(self, parts: Sequence[Token]) -> Expression:
        return _comparison(parts[0], *_worded(parts[1:]))

    def likened(self, parts: Sequence[Token]) -> Expression:
        return _comparison(parts[0], *_worded(parts[1:]))

    def given(self, parts: Sequence[Token]) -> Expression:
        return Presence(_field(parts[0]), present=any(each.type == "NOT" for each in parts))


def _worded(parts: Sequence[Token]) -> tuple[Operator, Sequence[Token]]:
    words = 2 if parts[0].type == "NOT" else 1
    return Operator(" ".join(str(each).lower() for each in parts[:words])), parts[words:]


def _offset(token: object) -> int:
    return int(getattr(token, "start_pos", 0) or 0)


def _bounded(expression: Expression, offset: int) -> Expression:
    """Return it, unless it is too much. Its parts were not, so this goes no deeper than that."""
    if depth(expression) > DEPTH_MAX:
        raise _Misplaced(offset, f"a filter is nested at most {DEPTH_MAX} deep")
    if sum(1 for _ in conditions(expression)) > CONDITIONS_MAX:
        raise _Misplaced(offset, f"a filter has at most {CONDITIONS_MAX} conditions")
    return expression


def _field(token: Token) -> Field:
    name, dot, key = token.partition(".")
    if not dot:
        if name == Kind.STAGE:
            return Field(Kind.STAGE)
        if name in ATTRIBUTES:
            return Field(Kind.ATTRIBUTE, str(name))
        raise _Misplaced(_offset(token), f"there is no field {shortened(name)}: {_FIELDS}")
    kind = next((each for each in _KEYED if each == name), None)
    if kind is None:
        raise _Misplaced(_offset(token), f"there is no field {shortened(token)}: {_FIELDS}")
    key = _unquoted(key) if key[0] in '`"' else str(key)
    if len(key) > _KEY_MAX:
        raise _Misplaced(_offset(token), f"a key has at most {_KEY_MAX} characters")
    if kind is Kind.LINEAGE and key not in KINDS:
        raise _Misplaced(
            _offset(token), f"there is no lineage.{shortened(key)}; known are: {', '.join(KINDS)}"
        )
    return Field(kind, key)


_FIELDS = ", ".join(
    [*(f"{each}.KEY" for each in _KEYED[:-1]), "lineage.TYPE", Kind.STAGE, *ATTRIBUTES]
)


def _unquoted(token: str) -> str:
    quote = token[0]
    return token[1:-1].replace(quote * 2, quote)


def _comparison(name: Token, operator: Operator, tokens: Sequence[Token]) -> Comparison:
    field = _field(name)
    if field.kind in (Kind.STAGE, Kind.LINEAGE) and operator not in _OF_SEVERAL:
        raise _Misplaced(
            _offset(name),
            f"{name} may have several values: write = or in, and not (…) around it",
        )
    if operator in PATTERNS and not _is_text(field):
        raise _Misplaced(_offset(name), f"{name} has no text to liken")
    return Comparison(field, operator, tuple(_value(field, operator, each) for each in tokens))


def _is_text(field: Field) -> bool:
    if field.kind is Kind.ATTRIBUTE:
        return field.key not in ("version", "created_at")
    return field.kind in (Kind.PARAM, Kind.TAG, Kind.STAGE)


def _value(field: Field, operator: Operator, token: Token) -> Value:
    """Return what is written, as what the field is compared with."""
    said = _unquoted(token) if token.type == "STRING" else float(token)
    try:
        if operator in PATTERNS and str(said).count("%") > _WILDCARDS_MAX:
            raise DocumentInvalid(f"a pattern has at most {_WILDCARDS_MAX} of %")  # noqa: TRY301
        return _reading(field)(said)
    except DocumentInvalid as error:
        raise _Misplaced(_offset(token), error.message) from error


def _reading(field: Field) -> Callable[[str | float], Value]:
    """Return what makes a written value one of the field. It raises DocumentInvalid."""
    match field:
        case Field(Kind.METRIC):
            return _as_number
        case Field(Kind.PARAM):
            return lambda said: said if isinstance(said, str) else _as_number(said)
        case Field(Kind.ATTRIBUTE, "version"):
            return _as_whole
        case Field(Kind.ATTRIBUTE, "created_at"):
            return lambda said: parse_since(_as_text(said), "the time")
        case Field(Kind.LINEAGE, kind):
            return lambda said: _as_node(kind, _as_text(said))
        case _:
            return _as_text


def _as_number(said: str | float) -> float:
    if isinstance(said, str):
        raise DocumentInvalid("it is compared with a number, without quotes")
    if not math.isfinite(said):
        raise DocumentInvalid("this number is too large")
    return said


def _as_whole(said: str | float) -> int:
    number = _as_number(said)
    if not number.is_integer() or not 0 <= number < WHOLE_MAX:
        raise DocumentInvalid("it is compared with a whole number, the number of a version")
    return int(number)


def _as_text(said: str | float) -> str:
    if not isinstance(said, str):
        raise DocumentInvalid("it is compared with a text, in quotes")
    return said


def _as_node(kind: str, said: str) -> str:
    # A node's own name is taken for what it is; else it is named as runs and manifests do.
    if said.startswith(("run:", "commit:", "dataset:")):
        return any_node(said)
    return KINDS[kind](said)


def depth(expression: Expression) -> int:
    """Return how many levels of not, and, or are around the innermost condition."""
    match expression:
        case Not(inner):
            return 1 + depth(inner)
        case All(parts) | Some(parts):
            return 1 + max(depth(each) for each in parts)
    return 0


def conditions(expression: Expression) -> Iterator[Condition]:
    """Yield each condition, from left to right."""
    match expression:
        case Not(inner):
            yield from conditions(inner)
        case All(parts) | Some(parts):
            for each in parts:
                yield from conditions(each)
        case Comparison() | Presence():
            yield expression


def together(parts: Sequence[Expression]) -> Expression | None:
    """Return what holds where all of them do, None for none. Raises FilterInvalid: too many."""
    if len(parts) < 2:  # noqa: PLR2004 - one is no conjunction
        return parts[0] if parts else None
    try:
        return _bounded(All(tuple(parts)), 0)
    except _Misplaced as error:
        _refuse("", 0, error.message)


def render(expression: Expression) -> str:
    """Return a text that `parse` makes this expression of."""
    match expression:
        case Not(inner):
            return f"not ({render(inner)})"
        case All(parts):
            return " and ".join(_rendered_part(each) for each in parts)
        case Some(parts):
            return " or ".join(_rendered_part(each) for each in parts)
        case Presence(field, present):
            return f"{_rendered_field(field)} is {'not ' if present else ''}null"
        case Comparison(field, operator, values):
            shown = [_rendered_value(field, each) for each in values]
            is_list = operator in (Operator.IN, Operator.NOT_IN)
            what = f"({', '.join(shown)})" if is_list else shown[0]
            return f"{_rendered_field(field)} {operator} {what}"


def _rendered_part(expression: Expression) -> str:
    text = render(expression)
    return f"({text})" if isinstance(expression, All | Some) else text


def _rendered_field(field: Field) -> str:
    if field.kind not in _KEYED:
        return field.key or field.kind
    key = field.key if _PLAIN_KEY.fullmatch(field.key) else quoted(field.key, "`")
    return f"{field.kind}.{key}"


def _rendered_value(field: Field, value: Value) -> str:
    if field == Field(Kind.ATTRIBUTE, "created_at"):
        return quoted(rfc3339(float(value)))
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str, quote: str = "'") -> str:
    """Return the text as a filter writes it: a value, or with backticks a key."""
    return f"{quote}{text.replace(quote, quote * 2)}{quote}"

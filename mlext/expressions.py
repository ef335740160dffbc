"""Rules in CEL, the Common Expression Language (cel.dev): text becomes a checked expression once,
and is true, false, or fails of facts. Pure. Hostile text and large facts are bounded before
anything runs: `expression_work` says how, docs/decisions/0012 why.

What an expression may name is `FACTS`; `docs/gates.md` tells people what they hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cel_expr_python import cel

from mlext.expression_trees import Name, Node, read_tree, walk
from mlext.expression_work import SCALAR, VALUE, WORK_MAX, Shape, TooMuchWork, refusals, work
from ociserver.errors import LadingError, RequestInvalid

# Characters: a page of rules. One that needs more is several, which are also told apart when they
# fail.
TEXT_MAX = 4_096

# What all facts that expressions name may weigh, as `Shape` counts it: a thousand evaluations
# of ten metrics do not.
_FACTS_MAX = 2_000_000
_DEPTH_MAX = 32
_INT64 = 2**63

_TABLE = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
FACTS: Mapping[str, Any] = {
    "version": _TABLE,
    "evaluations": cel.Type.List(_TABLE),
    "approvals": cel.Type.List(_TABLE),
    "run": cel.Type.DYN,  # a table, or null
    "model": cel.Type.STRING,
    "alias": cel.Type.STRING,
    "now": cel.Type.TIMESTAMP,
}
_LANGUAGE = cel.NewEnv(variables=dict(FACTS))

# The interpreter takes a text from Python up to its first NUL, and none with half a surrogate pair.
_STRANGE = re.compile("[\0\ud800-\udfff]")
_ISSUE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.+)")
_STATUS = re.compile(r"^[A-Z_]+: | \[[A-Z_]+\]$")


class ExpressionInvalid(RequestInvalid):
    """The text is no expression that we evaluate; `line` and `column` count from 1, where known."""

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        place = "" if line is None else f"line {line}, column {column}: "
        super().__init__(place + message, detail={"line": line, "column": column})
        self.line = line
        self.column = column


class ExpressionFailed(LadingError):
    """These facts make it neither true nor false: the message says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. Two of one text are equal."""

    text: str
    _program: Any = field(repr=False, compare=False)
    _tree: Node = field(repr=False, compare=False)
    _names: tuple[str, ...] = field(repr=False, compare=False)

    def evaluate(self, facts: Mapping[str, object] | Sheet) -> bool:
        """Tell whether it is true of the facts, which are JSON's values and, for `now`, a datetime.

        Raises ExpressionFailed: a fact or key is missing, types do not fit, the result is no
        boolean, or it could be more work than WORK_MAX units, about 50 ms.
        """
        sheet = facts if isinstance(facts, Sheet) else Sheet(facts)
        values = sheet.values_for(self._names, self._tree)
        try:
            result = self._program.eval(data=values)
        except RuntimeError as error:
            raise ExpressionFailed(_STATUS.sub("", str(error))) from None
        if result.type() == cel.Type.BOOL:
            return result.value() is True
        if result.type() == cel.Type.ERROR:
            raise ExpressionFailed(_STATUS.sub("", str(result.value())))
        raise ExpressionFailed(f"it is of type {result.type().name()}, neither true nor false")


class Sheet:
    """Facts that several expressions share: each is read once, and WORK_MAX is for all of them."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        self._facts = facts
        self._reader = _Reader()
        self._read: dict[str, tuple[object, Shape]] = {}
        self._work_left = WORK_MAX

    def values_for(self, names: Sequence[str], tree: Node) -> dict[str, object]:
        """Return the facts of these names, once the work on them is known to be within bounds.

        Raises ExpressionFailed: one is missing, is nothing that JSON has, or it is too much work.
        """
        for name in names:
            if name not in self._facts:
                raise ExpressionFailed(f"there is no {name!r} among the facts")
            if name not in self._read:
                self._read[name] = self._reader.read(self._facts[name])
        shapes = {name: self._read[name][1] for name in names}
        try:
            self._work_left -= work(tree, shapes, self._work_left)
        except TooMuchWork:
            raise ExpressionFailed("it is more work on these facts than rules may be") from None
        return {name: self._read[name][0] for name in names}


def compile_expression(text: str) -> Expression:
    """Return the expression. Raises ExpressionInvalid, at the first thing wrong with it."""
    if len(text) > TEXT_MAX:
        raise ExpressionInvalid(f"it is longer than {TEXT_MAX} characters")
    if strange := _STRANGE.search(text):
        raise ExpressionInvalid(f"it holds {strange[0]!r}, which is no character of a text")
    try:
        program = _LANGUAGE.compile(text)
    except RuntimeError as error:
        raise _invalid(str(error)) from None
    if program.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        kind = program.return_type().name()
        raise ExpressionInvalid(f"it is of type {kind}, neither true nor false")
    tree = read_tree(program.serialize())
    for reason in refusals(tree):
        raise ExpressionInvalid(reason)
    try:
        # What is too much with the smallest facts is so by its literals alone.
        work(tree, {})
    except TooMuchWork:
        raise ExpressionInvalid("it is more work than a rule may be, whatever the facts") from None
    named = {node.name for node in walk(tree) if isinstance(node, Name)}
    return Expression(text, program, tree, tuple(name for name in FACTS if name in named))


def _invalid(report: str) -> ExpressionInvalid:
    found = _ISSUE.search(report)
    if found is None:
        message = "it is nested too deep" if "recursion" in report else _STATUS.sub("", report)
        return ExpressionInvalid(message)
    line, column, message = int(found[1]), int(found[2]), found[3]
    if "recursion" in message:
        return ExpressionInvalid("it is nested too deep")
    message = message.removesuffix(" [INVALID_ARGUMENT]")
    if message.startswith("undeclared reference"):
        message = message.removesuffix(" (in container '')") + f"; facts are: {', '.join(FACTS)}"
    return ExpressionInvalid(message, line=line, column=column)


class _Reader:
    """Turns facts into what the interpreter takes, and sees how large they are."""

    def __init__(self) -> None:
        self._left = _FACTS_MAX

    def read(self, value: object, depth: int = 0) -> tuple[object, Shape]:
        """Return the value and its shape."""
        if value is None or isinstance(value, (bool, float)):
            return value, SCALAR
        if isinstance(value, int):
            return _number(value), SCALAR
        if isinstance(value, str):
            return value, Shape.text(self._count(value))
        if isinstance(value, datetime) and value.tzinfo is not None and depth == 0:
            return value, SCALAR
        if depth == _DEPTH_MAX:
            raise ExpressionFailed(f"a fact is nested deeper than {_DEPTH_MAX}")
        if isinstance(value, Mapping):
            return self._read_map(value, depth + 1)
        if isinstance(value, (list, tuple)):
            self._take(VALUE * len(value))
            entries = [self.read(each, depth + 1) for each in value]
            return [each for each, _ in entries], Shape.holding([shape for _, shape in entries])
        raise ExpressionFailed(f"a fact is a {type(value).__name__}, which rules know not")

    def _read_map(self, value: Mapping[Any, object], depth: int) -> tuple[object, Shape]:
        self._take(2 * VALUE * len(value))
        plain, entries, keys, longest = {}, [], 0, 0
        for key, each in value.items():
            plain[str(key)], shape = self.read(each, depth)
            entries.append(shape)
            size = self._count(str(key))
            keys += VALUE + size
            longest = max(longest, size)
        held = Shape.holding(entries)
        entry = Shape.text(longest)
        return plain, Shape(
            held.weight + keys, 0, held.length, entry.or_(held.entry) if held.entry else entry
        )

    def _count(self, text: str) -> int:
        if strange := _STRANGE.search(text):
            raise ExpressionFailed(f"a fact holds {strange[0]!r}, which is no character of a text")
        size = len(text) if text.isascii() else len(text.encode())
        self._take(size)
        return size

    def _take(self, weight: int) -> None:
        self._left -= weight
        if self._left < 0:
            raise ExpressionFailed("the facts are more than rules may handle")


def _number(value: int) -> int | float:
    # JSON has one kind of number. Those that are no int64 become what a double makes of them.
    if -_INT64 <= value < _INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

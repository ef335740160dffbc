"""How much work a CEL expression can be at most, told before it runs. Pure.

The interpreter bounds depth (32), iterations (10,000 in all) and regular expressions (RE2, linear)
but not what one step handles: `[x].map(a, a + a).map(a, a + a)…` doubles a text with each call, and
an equality of lists of lists visits each entry as often as it is written. So each node's work is
summed from above over the tree, with `Shape` in the place of values: sizes of facts are those at
hand, so nothing is refused for what might be. All counts are in units, 5 ns at most where it was
measured (docs/decisions/0012): what a node takes is `_NODE` units, a byte of text one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import starmap
from typing import NamedTuple

from mlext.expression_trees import Call, Constant, Literal, Loop, Message, Name, Node, Select, walk

# 50 ms at most. `version.metrics.f1 >= 0.9` is about 2,000 units.
WORK_MAX = 10_000_000
VALUE = 50
_NODE = 100

# A pattern is compiled at each evaluation: RE2 takes 0.3 us for each instruction of its program.
_PATTERN_MAX = 1_000
_INSTRUCTION = 30
_WIDE = re.compile(r"\\[pP]")  # a class of Unicode: hundreds of ranges of bytes
_CLASS = re.compile(r"[.\[\\]")  # any character: about ten
_REPETITION = re.compile(r"\{(\d+)(?:,(\d*))?\}")

# What gives a scalar, and takes no more than to read its arguments once.
_SCALARS = frozenset(
    {"_&&_", "_||_", "!_", "@not_strictly_false", "_<_", "_<=_", "_>_", "_>=_"}
    | {"_-_", "_*_", "_/_", "_%_", "-_", "startsWith", "endsWith", "size"}
    | {"bool", "int", "uint", "double", "timestamp", "duration"}
    | {"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
_JOINING = frozenset({"_+_", "string", "bytes"})
_OTHERS = frozenset({"_==_", "_!=_", "@in", "contains", "matches", "_?_:_", "_[_]", "dyn", "type"})
_KNOWN = _SCALARS | _JOINING | _OTHERS


class TooMuchWork(Exception):
    """It could take more units than it may."""


class Shape(NamedTuple):
    """What a value is at most, be it a scalar, a text, or a list or map of entries.

    `size` is the bytes of a text, `length` how many entries there are, `entry` bounds each of them
    (a map's keys too). `weight` is all there is to visit in it: `VALUE` for itself, its bytes,
    and its entries, each as often as it stands there, although in memory they may be one.
    """

    weight: int = VALUE
    size: int = 0
    length: int = 0
    entry: Shape | None = None

    @classmethod
    def text(cls, size: int) -> Shape:
        """Return the shape of a text of so many bytes."""
        return cls(VALUE + size, size)

    @classmethod
    def holding(cls, entries: Sequence[Shape]) -> Shape:
        """Return the shape of a list of these."""
        weight = VALUE + sum(each.weight for each in entries)
        entry = reduce(Shape.or_, entries) if entries else None
        return cls(weight, 0, len(entries), entry)

    def or_(self, other: Shape) -> Shape:
        """Return what bounds both."""
        if self is other:
            return self
        entry = self.entry.or_(other.entry) if self.entry and other.entry else None
        return Shape(
            max(self.weight, other.weight),
            max(self.size, other.size),
            max(self.length, other.length),
            entry or self.entry or other.entry,
        )

    def and_(self, other: Shape) -> Shape:
        """Return what bounds one joined to the other."""
        return Shape(
            self.weight + other.weight,
            self.size + other.size,
            self.length + other.length,
            self.or_(other).entry,
        )


SCALAR = Shape()


def refusals(tree: Node) -> list[str]:
    """Return why the expression is none of ours, whatever the facts: empty where it may stand."""
    found = []
    for node in walk(tree):
        match node:
            case Message():
                found.append(f"it makes a {node.name}, and no message is offered")
            case Call(function) if function not in _KNOWN:
                found.append(f"function {function!r} is not offered")
            case Call(function) if function.startswith("get") and len(node.arguments) > 1:
                # A zone is looked up as a file, and may be the path of any file.
                found.append(f"{function} takes no time zone: times are UTC")
            case Call("matches"):
                found += _pattern_refusals(node.arguments[1])
    if _nesting(tree) > 2:  # noqa: PLR2004 - a cross product has two
        found.append("macros are nested deeper than 2")
    return found


def work(tree: Node, facts: Mapping[str, Shape], most: int = WORK_MAX) -> int:
    """Return the units that evaluating it takes at most, given the facts that it names.

    Raises TooMuchWork where that is above `most`.
    """
    meter = _Meter(most)
    meter.add(sum(each.weight for each in facts.values()))  # each is converted once
    meter.shape(tree, facts)
    return meter.spent


class _Meter:
    def __init__(self, most: int) -> None:
        self.spent = 0
        self._most = most
        self._times = 1

    def shape(self, node: Node, names: Mapping[str, Shape]) -> Shape:
        """Return what the node gives, and count what it takes to."""
        self.add(_NODE)
        match node:
            case Constant(size):
                return Shape.text(size)
            case Name(name):
                # Else it is a type, such as `string`.
                return names.get(name, SCALAR)
            case Select():
                found = self.shape(node.operand, names)
                return SCALAR if node.is_test else found.entry or SCALAR
            case Literal():
                held = Shape.holding([self.shape(each, names) for each in node.entries])
                # What comes of facts, or of text, is copied into it.
                self.add(held.weight)
                return held
            case Call():
                return self._called(node, [self.shape(each, names) for each in node.arguments])
            case Loop():
                return self._looped(node, names)
            case Message():
                raise AssertionError(node)  # refused before

    def _called(self, call: Call, given: list[Shape]) -> Shape:
        self.add(_effort(call, given))
        match call.function:
            case "_?_:_":
                return given[1].or_(given[2])
            case "_[_]":
                return given[0].entry or SCALAR
            case "dyn":
                return given[0]
            case function if function in _JOINING:
                return reduce(Shape.and_, given)
            case _:
                return SCALAR

    def _looped(self, loop: Loop, names: Mapping[str, Shape]) -> Shape:
        over, start = self.shape(loop.over, names), self.shape(loop.start, names)
        inside = {**names, loop.variable: over.entry or SCALAR, loop.accumulator: start}
        times, outer = max(over.length, 1), self._times
        self._times *= times
        self.shape(loop.condition, inside)
        stepped = self.shape(loop.step, inside)
        self._times = outer
        # Nobody but the macros can name what is gathered, and they add to it no more than once.
        grown = Shape(
            start.weight + times * max(stepped.weight - start.weight, 0),
            start.size + times * max(stepped.size - start.size, 0),
            start.length + times * max(stepped.length - start.length, 0),
            stepped.entry,
        )
        return self.shape(loop.result, {**names, loop.accumulator: grown})

    def add(self, units: int) -> None:
        """Count so many units, as often as the loops around them turn."""
        self.spent += units * self._times
        if self.spent > self._most:
            raise TooMuchWork


def _effort(call: Call, given: list[Shape]) -> int:
    """Return what the function itself takes of arguments of these shapes."""
    match call.function:
        case "_==_" | "_!=_":
            # It ends where one of them does, and goes into neither unless into both.
            return min(each.weight for each in given)
        case "@in":
            found, within = given
            return within.length + min(found.weight * max(within.length, 1), within.weight)
        case "contains":
            return given[0].size * given[1].size
        case "matches":
            return _instructions(call.arguments[1]) * (given[0].size + _INSTRUCTION)
        case function if function in _JOINING or function in _SCALARS:
            return sum(each.size + _NODE * each.length for each in given)
        case _:
            return 0


def _nesting(node: Node) -> int:
    match node:
        case Loop():
            within = max(_nesting(node.condition), _nesting(node.step))
            return max(1 + within, _nesting(node.over))
        case Select():
            return _nesting(node.operand)
        case Call(_, inner) | Literal(inner):
            return max(map(_nesting, inner), default=0)
        case _:
            return 0


def _pattern_refusals(node: Node) -> list[str]:
    if not isinstance(node, Constant) or node.text is None:
        return ["the pattern of matches is a text, written out"]
    if _instructions(node) > _PATTERN_MAX:
        return ["the pattern of matches is too long, once its repetitions are written out"]
    return []


def _instructions(pattern: Node) -> int:
    """Return how long RE2's program for it is at most: each repetition counts for the whole."""
    if not isinstance(pattern, Constant) or pattern.text is None:
        raise AssertionError(pattern)  # refused before
    text = pattern.text
    size = 10 + len(text) + 10 * len(_CLASS.findall(text)) + 1_000 * len(_WIDE.findall(text))
    counts = starmap(_repeated, _REPETITION.findall(text))
    return reduce(lambda total, count: min(total * count, _PATTERN_MAX + 1), counts, size)


def _repeated(least: str, most: str) -> int:
    # RE2 refuses more than 1,000 of either; digits beyond are not worth the reading.
    return max(int(least[:5]), int(most[:5] or 0), 1)

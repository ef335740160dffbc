"""The tree of a checked CEL expression, read from the form in which the compiler hands it out.

That form is the message `cel.expr.CheckedExpr` (cel-spec, proto/cel/expr/checked.proto and
syntax.proto), in protobuf's wire format. Its numbers are stable by protobuf's own rules, and seven
of them are all we need: that is less than a dependency on protobuf and its generated classes.
Pure. Depth is bounded by the compiler, which refuses more than 32 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: `text` where it is a string, `size` its length in bytes, 0 for a scalar."""

    size: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A fact, a variable of a macro, or a type."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """A field of a value, or whether there is one (`has`)."""

    operand: Node
    is_test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator; the target of a method is its first argument."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A list or map written out; of a map, keys and values in turn."""

    entries: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A protobuf message by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Loop:
    """What a macro such as `exists` or `map` becomes."""

    variable: str
    over: Node
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node


Node = Constant | Name | Select | Call | Literal | Message | Loop


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes right below."""
    match node:
        case Select():
            return (node.operand,)
        case Call():
            return node.arguments
        case Literal():
            return node.entries
        case Loop():
            return (node.over, node.start, node.condition, node.step, node.result)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all that is below it."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        yield here
        waiting.extend(children(here))


def read_tree(serialized: bytes) -> Node:
    """Return the tree in what `Expression.serialize` gave: a CheckedExpr in an Any."""
    checked = _Fields(_Fields(serialized).bytes(2))
    return _node(checked.bytes(4))


class _Fields:
    """One message, its fields by number; of a field that does not repeat, the last one counts."""

    def __init__(self, message: bytes) -> None:
        self.found: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(message):
            key, at = _varint(message, at)
            value: int | bytes
            match key & 7:
                case 0:
                    value, at = _varint(message, at)
                case 2:
                    length, at = _varint(message, at)
                    value, at = message[at : at + length], at + length
                case kind:
                    length = 8 if kind == 1 else 4
                    value, at = message[at : at + length], at + length
            self.found.setdefault(key >> 3, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self.found

    def all(self, number: int) -> list[bytes]:
        return [each for each in self.found.get(number, ()) if isinstance(each, bytes)]

    def bytes(self, number: int) -> bytes:
        found = self.all(number)
        return found[-1] if found else b""

    def text(self, number: int) -> str:
        return self.bytes(number).decode()


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:  # noqa: PLR2004 - the last byte has its high bit clear
            return value, at


def _node(message: bytes) -> Node:
    """Return the node of an Expr, which has exactly one of the fields below, and an id."""
    expr = _Fields(message)
    kind = next(number for number in _KINDS if number in expr)
    return _KINDS[kind](_Fields(expr.bytes(kind)))


def _constant(constant: _Fields) -> Node:
    text, data = constant.bytes(6), constant.bytes(7)
    return Constant(len(text or data), text.decode() if _STRING in constant else None)


def _select(select: _Fields) -> Node:
    return Select(_node(select.bytes(1)), is_test=_TEST_ONLY in select)


def _call(call: _Fields) -> Node:
    arguments = [*call.all(1), *call.all(3)]
    return Call(call.text(2), tuple(_node(each) for each in arguments))


def _list(elements: _Fields) -> Node:
    return Literal(tuple(_node(each) for each in elements.all(1)))


def _struct(struct: _Fields) -> Node:
    if _MESSAGE_NAME in struct:
        return Message(struct.text(1))
    entries = [_Fields(each) for each in struct.all(2)]
    return Literal(tuple(_node(each.bytes(n)) for each in entries for n in (3, 4)))


def _loop(loop: _Fields) -> Node:
    over, start, condition, step, result = (_node(loop.bytes(n)) for n in (2, 4, 5, 6, 7))
    return Loop(loop.text(1), over, loop.text(3), start, condition, step, result)


_MESSAGE_NAME = 1
_TEST_ONLY = 3
_STRING = 6
_KINDS: dict[int, Callable[[_Fields], Node]] = {
    3: _constant,
    4: lambda ident: Name(ident.text(1)),
    5: _select,
    6: _call,
    7: _list,
    8: _struct,
    9: _loop,
}

"""Documents as plain text: tables that fit a terminal, and sections for what has no fixed shape.

What a registry says was written by whoever may write there, so no character of it reaches a
terminal that would be more than a letter on it. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

_DIGEST = re.compile(r"(sha256|sha512):[0-9a-f]{64,128}")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
# As many as git and docker show: a million artifacts differ in them.
_HEX = 12
_GAP = "  "
# A column that is cut below this says nothing any more.
_NARROWEST = 8
# A time is 20 wide, a short digest 19.
_WHOLE = 20
_CUT = "..."
_DIGITS = 6


def plain(value: object) -> str:
    """Return the value as a person reads it: on one line, times to the second, digests short."""
    if value is None or value in ("", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.{_DIGITS}g}"
        case Mapping():
            return " ".join(f"{plain(key)}={plain(each)}" for key, each in value.items())
        case list() | tuple():
            return ", ".join(map(plain, value))
    text = letters(str(value))
    text = _DIGEST.sub(lambda found: found[0][: found[0].index(":") + 1 + _HEX], text)
    return _MOMENT.sub(r"\1 \2Z", text)


def letters(text: str) -> str:
    """Return the text with a question mark for each character that is more than a letter."""
    return "".join(each if each.isprintable() else "?" for each in text)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    width: int | None = None,
    *,
    whole: Collection[str] = (),
    spare: Sequence[str] = (),
) -> str:
    """Return rows under headings. Where that is wider than `width` columns of a terminal, the
    widest are cut; None is for no terminal, where nothing is.

    Before others are cut to nothing, those that are `spare` are left out, the first of them first;
    `whole` are cut after all others.
    """
    lines = [list(headings), *([plain(each) for each in row] for row in rows)]
    if width is not None:
        for heading in spare:
            if not _has_room(lines, width, whole):
                place = lines[0].index(heading)
                lines = [line[:place] + line[place + 1 :] for line in lines]
    widths = _widths(lines)
    if width is not None:
        _narrow(widths, width - _gaps(widths), [each in whole for each in lines[0]])
    return "".join(f"{_line(line, widths)}\n" for line in lines)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(columns, column)) for column in zip(*lines, strict=True)]


def _gaps(widths: Sequence[int]) -> int:
    return len(_GAP) * (len(widths) - 1)


def _has_room(lines: Sequence[Sequence[str]], width: int, whole: Collection[str]) -> bool:
    """Tell whether no column need be cut to less than a time is wide."""
    widths = _widths(lines)
    least = [
        each if heading in whole else min(each, _WHOLE)
        for heading, each in zip(lines[0], widths, strict=True)
    ]
    return sum(least) + _gaps(widths) <= width


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    fitted = (_fitted(cell, width) for cell, width in zip(cells, widths, strict=True))
    return _GAP.join(fitted).rstrip()


def _narrow(widths: list[int], most: int, whole: Sequence[bool]) -> None:
    # First what somebody wrote: half a time, a digest or a name is of no use.
    others = [each for each, is_whole in enumerate(whole) if not is_whole]
    written = [each for each in others if widths[each] > _WHOLE]
    for columns_to_cut in (written, others, range(len(widths))):
        while sum(widths) > most:
            widest = max(columns_to_cut, key=widths.__getitem__, default=None)
            if widest is None or widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1


def _fitted(text: str, width: int) -> str:
    wide = columns(text)
    if wide > width:
        kept, wide = "", len(_CUT)
        for each in text:
            if wide + columns(each) > width:
                break
            kept, wide = kept + each, wide + columns(each)
        text = kept + _CUT
    return text + " " * (width - wide)


def columns(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )


def details(pairs: Mapping[str, object]) -> str:
    """Return one line for each key and its value."""
    names = {key: _words(key) for key in pairs}
    wide = max(map(columns, names.values()), default=0)
    return "".join(f"{_fitted(names[key], wide)}  {plain(pairs[key])}\n" for key in pairs)


def sections(document: Mapping[str, Any], width: int | None = None) -> str:
    """Return a document of any shape: what is one value first, then a section for each part."""
    simple = {key: value for key, value in document.items() if not _is_part(value)}
    parts = [details(simple)] if simple else []
    for key, value in document.items():
        if _is_part(value):
            parts.append(f"{_words(key)}:\n{_indented(_part(value, width))}")
    return "\n".join(parts)


def _is_part(value: object) -> bool:
    return isinstance(value, Mapping | list) and bool(value)


def _part(value: Mapping[str, Any] | list[Any], width: int | None) -> str:
    within = None if width is None else width - 2
    if isinstance(value, list):
        if all(isinstance(each, Mapping) for each in value):
            return _records(value, within)
        return "".join(f"{plain(each)}\n" for each in value)
    rows = list(value.values())
    if all(isinstance(each, Mapping) for each in rows) and _are_alike(rows):
        return _records([{"": key, **each} for key, each in value.items()], within)
    return sections(value, within)


def _are_alike(found: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether they are rows of one table: the same keys, each with one value."""
    kinds = {frozenset(each) for each in found}
    is_flat = not any(_is_part(value) for each in found for value in each.values())
    return len(kinds) == 1 and frozenset() not in kinds and is_flat


def _records(found: Sequence[Mapping[str, Any]], width: int | None) -> str:
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = ([each.get(key) for key in keys] for each in found)
    return table([_words(key) for key in keys], rows, width)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def _words(key: str) -> str:
    return plain(key).replace("_", " ") if key else ""


def verdict(conditions: Sequence[Mapping[str, Any]]) -> str:
    """Return every condition of a gate, whether it is met, and why or why not."""
    lines = []
    for each in conditions:
        mark = "passed" if each.get("passed") else "FAILED"
        gate = f" [{plain(each['gate'])}]" if each.get("gate") else ""
        text = plain(each["text"]) if each.get("text") else plain(each.get("kind", "a condition"))
        lines.append(f"  {mark}  {text}: {plain(each.get('reason'))}{gate}\n")
    return "".join(lines)


def tree(
    root: str, children: Mapping[str, Sequence[tuple[str, str]]], named: Mapping[str, str]
) -> str:
    """Return what can be reached from the root, each node once with what is below it.

    `children` are (kind of edge, node) of a node; `named` is what to call a node.
    """
    lines = [plain(named.get(root, root))]
    seen = {root}
    # (prefix of its line, prefix of lines below it, kind, node); the last is next.
    ahead = _below(root, "", children)
    while ahead:
        lead, under, kind, node = ahead.pop()
        more = ""
        if node in seen and children.get(node):
            more = "  (above)"
        lines.append(f"{lead}{plain(kind)}: {plain(named.get(node, node))}{more}")
        if node not in seen:
            seen.add(node)
            ahead += _below(node, under, children)
    return "".join(f"{line}\n" for line in lines)


def _below(
    node: str, under: str, children: Mapping[str, Sequence[tuple[str, str]]]
) -> list[tuple[str, str, str, str]]:
    found = list(children.get(node, ()))
    marks = [("|- ", "|  ")] * (len(found) - 1) + [("`- ", "   ")]
    return [
        (under + lead, under + rest, kind, child)
        for (lead, rest), (kind, child) in reversed(list(zip(marks, found, strict=False)))
    ]

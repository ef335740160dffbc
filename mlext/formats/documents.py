"""JSON that a stranger wrote, read as it may be: any value of any type may stand anywhere. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from mlext.formats.reading import Unreadable

# More digits make no number of ours, and Python refuses to read thousands at all.
_DIGITS = 20
_TEXT_MAX = 1024
_COUNT_MAX = 2**63


def loaded(text: bytes, *, unique: bool = False) -> dict[str, Any]:
    """Return a JSON object. Raises Unreadable where it is none, or not in UTF-8; or where it has a
    key twice and they are to be `unique`.
    """
    try:
        document = json.loads(
            text.decode("utf-8"),
            parse_constant=_not_json,
            parse_int=_whole_number,
            object_pairs_hook=_unique if unique else None,
        )
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not JSON in UTF-8: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise Unreadable("is not a JSON object")
    return document


def section(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under the key, empty where there is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def items(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list under the key."""
    value = document.get(key)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(document: Mapping[str, Any], key: str) -> str | None:
    """Return the text under the key, shortened; None where there is none worth showing."""
    return tidy(document.get(key))


def texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the texts under the key: one, or a list of them."""
    value = document.get(key)
    found = [tidy(each) for each in (value[:100] if isinstance(value, list) else [value])]
    return tuple(each for each in found if each)


def count(document: Mapping[str, Any], key: str) -> int | None:
    """Return the number under the key where it is whole and not negative."""
    value = document.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_MAX:
        return value
    return None


def tidy(value: Any) -> str | None:
    """Return a text fit to be shown: printable, in one line, shortened; None for all else."""
    if not isinstance(value, str):
        return None
    shown = "".join(each if each.isprintable() else " " for each in value[: 2 * _TEXT_MAX])
    return " ".join(shown.split())[:_TEXT_MAX] or None


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name stands there twice")
    return document

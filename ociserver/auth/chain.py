"""The audit's hash chain, and what is wrong with an export of it. Pure.

An event's hash covers the event and the hash of the one before, so nothing that was recorded can be
changed, taken out or put elsewhere without every later hash changing too: whoever noted one of
those, a *head*, finds out. The form of what is hashed never changes, as the hashes are kept.

That form is JSON with sorted keys, no spaces and nothing but ASCII. It is RFC 8785's but for that
last: a detail may hold half a surrogate pair, which has no UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from ociserver.auth.records import AuditEvent, AuditLink

# What stands for the hash of the event before the first.
GENESIS = "0" * 64
# No line of an export is longer: what somebody may send and have recorded is less than a manifest.
LINE_BYTES = 16 * 1024 * 1024

_HASH = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_HASHED = ("number", "at", "actor", "action", "subject", "outcome", "detail")
_KEYS = frozenset({*_HASHED, "previous", "hash"})
# Of a hash, in words for people.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the chain: an event's number and, where it is known, its hash."""

    number: int
    hash: str | None

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Read `NUMBER:HASH` or `NUMBER`. Raises ValueError."""
        number, colon, found = text.partition(":")
        if not _NUMBER.fullmatch(number) or (colon and not _HASH.fullmatch(found)):
            raise ValueError(text)
        return cls(int(number), found if colon else None)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}" if self.hash is not None else f"{self.number}"


START = Mark(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Break:
    """The first link of an export that does not hold: in which line, and what is wrong there."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line:,}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many events held, the last of them, and what broke after it."""

    events: int
    head: Mark
    broken: Break | None


def chained(last: Mark, events: Sequence[AuditEvent]) -> list[AuditLink]:
    """Return the events as they follow `last`, numbered; what is no JSON in a detail is made so."""
    previous = last.hash or GENESIS
    links = []
    for number, event in enumerate(events, last.number + 1):
        event = replace(event, at=float(event.at), detail=_as_json(event.detail), number=number)  # noqa: PLW2901
        found = link(previous, event)
        links.append(AuditLink(event=event, previous=previous, hash=found))
        previous = found
    return links


def link(previous: str, event: AuditEvent) -> str:
    """Return the hash of an event as it was recorded, in hex, after an event of that hash."""
    return _hash(previous, {name: getattr(event, name) for name in _HASHED})


def line(each: AuditLink) -> bytes:
    """Return the event's line of an export, the newline included."""
    fields = {name: getattr(each.event, name) for name in _HASHED}
    return _canonical({**fields, "previous": each.previous, "hash": each.hash}) + b"\n"


def first_break(
    lines: Iterable[bytes], after: Mark = START, head: Mark | None = None
) -> Break | None:
    """Return the first link of an export that does not hold; see `verdict`."""
    return verdict(lines, after, head).broken


def verdict(lines: Iterable[bytes], after: Mark = START, head: Mark | None = None) -> Verdict:
    """Walk an export, line by line, to its end or to the first link that does not hold.

    `after` is the event that the export begins behind; where its hash is not known, the first line
    is believed. `head` was noted earlier: only that tells an export which ends too soon, or whose
    last events were all hashed anew, from a good one.
    """
    walk = _Walk(after, head)
    rest = iter(lines)
    for each in rest:
        what = walk.step(each, rest)
        if what is not None:
            return Verdict(walk.events, walk.last, Break(walk.events + 1, what))
    what = walk.end()
    return Verdict(walk.events, walk.last, None if what is None else Break(walk.events + 1, what))


class _Walk:
    """How far an export held."""

    def __init__(self, after: Mark, head: Mark | None) -> None:
        self._after = after
        self._head = head
        self.last = after
        self.events = 0

    def step(self, text: bytes, rest: Iterator[bytes]) -> str | None:
        """Take a line that holds, or return what is wrong; `rest` may be read up then."""
        row = _read(text)
        if row is None:
            return "this is no event of an export"
        what = self._misplaced(row.number, rest) or self._unlinked(row) or self._unlike_head(row)
        if what is None:
            self.last = Mark(row.number, row.hash)
            self.events += 1
        return what

    def end(self) -> str | None:
        """Return what is missing at the end, as far as the head tells."""
        head, last = self._head, self.last
        if head is None:
            return None
        if head.number > last.number:
            missing = _numbered(last.number + 1, head.number)
            return f"{missing} missing, up to the head that was noted: the export ends too soon"
        same = head.number == last.number and last.hash in (head.hash, None)
        if self.events or same:
            return None
        return f"the head that was noted, {head.number}, is not what the export begins behind"

    def _misplaced(self, number: int, rest: Iterator[bytes]) -> str | None:
        due = self.last.number + 1
        if number == due:
            return None
        if number < due:
            again = "again" if number > self._after.number else "out of its order"
            return f"event {number} stands here {again}, where event {due} should"
        if any(row is not None and row.number == due for row in map(_read, rest)):
            return f"event {number} stands here out of its order: event {due} comes later"
        what = f"{_numbered(due, number - 1)} missing before event {number}"
        if self.events or self._after != START:
            return what
        return f"{what}; an export that was made to begin there is verified with --after"

    def _unlinked(self, row: _Row) -> str | None:
        before = self.last.hash
        if before is not None and row.previous != before:
            return (
                f"event {row.number} does not follow what stands before it, which was changed or "
                f"hashed anew: it names {_short(row.previous)} as the hash before, which is "
                f"{_short(before)}"
            )
        if row.hash != row.computed:
            return (
                f"event {row.number} was changed: its hash would be {_short(row.computed)}, "
                f"and it has {_short(row.hash)}"
            )
        if not row.verbatim:
            return f"event {row.number} is written otherwise than an export writes it"
        return None

    def _unlike_head(self, row: _Row) -> str | None:
        head = self._head
        if head is None or head.number > row.number or (self.events and head.number < row.number):
            return None
        if head.number == row.number:
            if head.hash in (row.hash, None):
                return None
            return (
                f"event {row.number} has the hash {_short(row.hash)}, and the head that was noted "
                f"{_short(head.hash or '')}: it was hashed anew, or one before it"
            )
        if (head.number, head.hash) == (row.number - 1, row.previous):
            return None
        return f"the head that was noted, {head.number}, does not stand before event {row.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A line that has the form of an event; `computed` is the hash that it should have."""

    number: int
    previous: str
    hash: str
    computed: str
    verbatim: bool


def _read(text: bytes) -> _Row | None:
    if len(text) > LINE_BYTES:
        return None
    text = text.removesuffix(b"\n")
    try:
        fields: Any = json.loads(text.decode("ascii"))
        if type(fields) is not dict or fields.keys() != _KEYS or type(fields["number"]) is not int:
            return None
        previous, found = fields["previous"], fields["hash"]
        if not all(type(each) is str and _HASH.fullmatch(each) for each in (previous, found)):
            return None
        return _Row(
            number=fields["number"],
            previous=previous,
            hash=found,
            computed=_hash(previous, {name: fields[name] for name in _HASHED}),
            # A key that is there twice, say, is read as one thing here and another elsewhere.
            verbatim=_canonical(fields) == text,
        )
    except (ValueError, RecursionError):
        return None


def _hash(previous: str, fields: Mapping[str, object]) -> str:
    return sha256(previous.encode("ascii") + _canonical(fields)).hexdigest()


def _canonical(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _as_json(detail: Mapping[str, object]) -> dict[str, object]:
    """Return what will be read of it; numbers that JSON has no form for become text."""
    read: dict[str, object] = json.loads(json.dumps(dict(detail)), parse_constant=str)
    return read


def _numbered(first: int, last: int) -> str:
    return f"event {first} is" if first == last else f"events {first} to {last} are"


def _short(text: str) -> str:
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else repr(text)

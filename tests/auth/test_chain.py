"""The audit's hash chain: whatever is done to an export, the first link that it breaks is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from ociserver.auth.chain import (
    GENESIS,
    LINE_BYTES,
    START,
    Break,
    Mark,
    chained,
    first_break,
    line,
    link,
    verdict,
)
from ociserver.auth.records import AuditEvent, AuditLink

TEXT = some.text(some.characters(codec="utf-8"), max_size=8)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=6,
)
EVENT = some.builds(
    AuditEvent,
    at=some.floats(0, 1e11) | some.integers(0, 2_000_000_000),
    actor=TEXT,
    action=TEXT,
    subject=TEXT,
    outcome=some.sampled_from(["done", "denied", "failed"]),
    detail=some.dictionaries(some.text(max_size=8), JSON, max_size=3),
)
EXPORTED = some.lists(EVENT, min_size=2, max_size=8).map(
    lambda events: [line(each) for each in chained(START, events)]
)
# Which of them, once it is known how many there are.
WHICH = some.integers(0, 1_000_000)


def event(number: int = 1, **fields: Any) -> AuditEvent:
    made = AuditEvent(
        at=1.5, actor="user:ann", action="push", subject=f"a/b:v{number}", outcome="done"
    )
    return replace(made, **fields)


def exported(events: list[AuditEvent], last: Mark = START) -> list[bytes]:
    return [line(each) for each in chained(last, events)]


def eight(last: Mark = START) -> list[bytes]:
    return exported([event(number) for number in range(1, 9)], last)


def mark(text: bytes) -> Mark:
    fields = json.loads(text)
    return Mark(fields["number"], fields["hash"])


def changed(text: bytes, **fields: object) -> bytes:
    """The line with other values, written as an export writes it; its hash stays as it was."""
    found = {**json.loads(text), **fields}
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def hashed_anew(text: bytes, **fields: object) -> bytes:
    found = json.loads(changed(text, **fields))
    names = ("number", "at", "actor", "action", "subject", "outcome", "detail")
    again = AuditEvent(**{name: found[name] for name in names})
    return line(
        AuditLink(event=again, previous=found["previous"], hash=link(found["previous"], again))
    )


def broken(lines: list[bytes], **known: Mark) -> Break:
    found = first_break(lines, **known)
    assert found is not None
    return found


# -- what holds


@given(EXPORTED, WHICH)
def test_an_export_holds_as_a_whole_and_in_parts(lines: list[bytes], cut: int) -> None:
    head = mark(lines[-1])
    assert verdict(lines, head=head) == verdict(lines)
    assert (verdict(lines).events, verdict(lines).head) == (len(lines), head)
    cut %= len(lines)
    after = mark(lines[cut - 1]) if cut else START
    for begin in (after, Mark(after.number, None) if cut else START):
        found = verdict(iter(lines[cut:]), begin, head)
        assert (found.broken, found.events, found.head) == (None, len(lines) - cut, head)
    assert first_break(lines, head=after if cut else None) is None


@given(some.lists(EVENT, max_size=5))
def test_a_link_is_the_same_before_and_after_an_export(events: list[AuditEvent]) -> None:
    for each in chained(START, events):
        fields = json.loads(line(each))
        read = replace(each.event, at=fields["at"], detail=fields["detail"])
        assert link(fields["previous"], read) == fields["hash"] == each.hash
        # No number is in it that other readers of JSON refuse.
        json.loads(line(each), parse_constant=pytest.fail)


def test_the_form_that_is_hashed_never_changes() -> None:
    # With a number, as it is read: such a time was recorded before they were rounded.
    said = {"b": [1, 2.50, None], "a": "\0\ud800"}
    one = replace(event(subject="é", detail=said), at=0.1 + 0.2, number=1)
    written = (
        rb'{"action":"push","actor":"user:ann","at":0.30000000000000004,'
        rb'"detail":{"a":"\u0000\ud800","b":[1,2.5,null]},"number":1,"outcome":"done",'
        rb'"subject":"\u00e9"}'
    )
    [made] = chained(START, [one])
    assert made.previous == GENESIS
    assert made.hash == sha256(GENESIS.encode() + written).hexdigest()
    assert made.hash == "77b2ef571b71f9c5450589cb3db91e8bc2dfc0bd60ae9bc1d6888cc8a76b00a0"


def test_an_export_of_nothing_has_the_head_that_it_began_behind() -> None:
    assert str(verdict([]).head) == f"0:{GENESIS}"
    assert str(verdict([], after=Mark(7, None)).head) == "7"
    assert first_break([]) is None


# -- what does not


@given(EXPORTED, WHICH, EVENT)
def test_an_edited_event_is_found(lines: list[bytes], which: int, other: AuditEvent) -> None:
    head = mark(lines[-1])
    which %= len(lines)
    fields = json.loads(line(chained(START, [other])[0]))
    new = {key: fields[key] for key in ("at", "actor", "action", "subject", "outcome", "detail")}
    forged = changed(lines[which], **new)
    assume(forged != lines[which])
    found = broken([*lines[:which], forged, *lines[which + 1 :]])
    assert found.line == which + 1
    assert found.what.startswith(f"event {which + 1} was changed")
    # Hashed anew, it holds; what follows, or the head, no longer does.
    lines[which] = hashed_anew(lines[which], **new)
    found = broken(lines, head=head)
    last = which == len(lines) - 1
    assert found.line == which + (1 if last else 2)
    assert f"event {found.line} {'has the hash' if last else 'does not follow'}" in found.what


@given(EXPORTED, WHICH, WHICH, some.integers(0, 255))
def test_any_byte_that_is_changed_is_found(
    lines: list[bytes], which: int, where: int, byte: int
) -> None:
    which %= len(lines)
    text = bytearray(lines[which])
    # The end of the line is no part of it.
    where %= len(text) - 1
    assume(text[where] != byte)
    text[where] = byte
    lines[which] = bytes(text)
    assert broken(lines).line == which + 1


@given(EXPORTED, WHICH)
def test_a_removed_event_is_found(lines: list[bytes], which: int) -> None:
    head = mark(lines[-1])
    which %= len(lines)
    del lines[which]
    found = broken(lines, head=head)
    assert found.line == which + 1
    assert found.what.startswith(f"event {which + 1} is missing")


@given(EXPORTED, WHICH, WHICH)
def test_swapped_events_are_found(lines: list[bytes], one: int, two: int) -> None:
    one, two = sorted((one % len(lines), two % len(lines)))
    assume(one != two)
    lines[one], lines[two] = lines[two], lines[one]
    assert broken(lines) == Break(
        one + 1,
        f"event {two + 1} stands here out of its order: event {one + 1} comes later",
    )


@given(EXPORTED, WHICH, WHICH)
def test_a_repeated_event_is_found(lines: list[bytes], which: int, where: int) -> None:
    which %= len(lines)
    where = which + 1 + where % (len(lines) - which)
    lines.insert(where, lines[which])
    assert broken(lines) == Break(
        where + 1, f"event {which + 1} stands here again, where event {where + 1} should"
    )


@given(EXPORTED, WHICH, EVENT, some.integers(-1, 12), some.booleans())
def test_an_inserted_event_is_found(
    lines: list[bytes], where: int, other: AuditEvent, number: int, anew: bool
) -> None:
    # Behind the last, hashed anew, it would be what any recorder adds.
    where %= len(lines)
    before = mark(lines[where - 1]) if where else START
    [made] = chained(before, [other])
    forged = line(made)
    if not anew:
        forged = changed(forged, number=number, hash="0" * 64)
    assume(forged != lines[where])
    found = broken([*lines[:where], forged, *lines[where:]])
    assert found.line in ((where + 1, where + 2) if anew else (where + 1,))


@given(EXPORTED, WHICH)
def test_an_export_that_ends_too_soon_is_found_by_the_head(lines: list[bytes], cut: int) -> None:
    cut %= len(lines)
    assert first_break(lines[:cut]) is None
    found = broken(lines[:cut], head=mark(lines[-1]))
    assert found.line == cut + 1
    assert found.what.endswith("the export ends too soon")


def without(*which: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [each for number, each in enumerate(lines, 1) if number not in which]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(4, 5, 6), "line 4: events 4 to 6 are missing before event 7"),
        (
            without(1, 2),
            "line 1: events 1 to 2 are missing before event 3; an export that was made to",
        ),
        (lambda x: [x[0], x[1].replace(b"ann", b"eve"), *x[2:]], "line 2: event 2 was changed: "),
        (
            lambda x: [x[0], hashed_anew(x[1], actor="user:eve"), *x[2:]],
            "line 3: event 3 does not follow what stands before it, which was changed or hashed",
        ),
        (
            lambda x: [x[0], x[1].replace(b'"action"', b'"action":"pull","action"'), *x[2:]],
            "line 2: event 2 is written otherwise than an export writes it",
        ),
        (lambda x: [x[0], b" " + x[1]], "line 2: event 2 is written otherwise than"),
        (lambda x: [x[0], x[1][:-1] + b"\r\n"], "line 2: event 2 is written otherwise than"),
        (lambda x: [x[0], x[1][:40]], "line 2: this is no event of an export"),
        (lambda x: [x[0], changed(x[1], note=1)], "line 2: this is no event of an export"),
        (lambda x: [x[0], changed(x[1], number="2")], "line 2: this is no event of an export"),
        (lambda x: [x[0], changed(x[1], number=True)], "line 2: this is no event of an export"),
        (lambda x: [x[0], changed(x[1], previous=None)], "line 2: this is no event of an export"),
        (lambda x: [*x, b"\n"], "line 9: this is no event of an export"),
        (lambda x: [*x, b"[" * 100_000], "line 9: this is no event of an export"),
        (lambda x: [*x, b"9" * 10_000], "line 9: this is no event of an export"),
        (lambda x: [*x, b" " * (LINE_BYTES + 1)], "line 9: this is no event of an export"),
        (lambda x: [*x, "é".encode()], "line 9: this is no event of an export"),
    ],
)
def test_a_break_is_told_in_one_clear_line(
    change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    assert str(broken(change(eight()))).startswith(said)


# -- heads and places to begin behind


def test_a_part_must_follow_just_what_it_is_said_to_follow() -> None:
    lines = eight()
    other = Mark(3, "f" * 64)
    assert first_break(lines[3:], after=mark(lines[2])) is None
    assert "event 4 does not follow" in str(broken(lines[3:], after=other))
    assert str(broken(lines[3:], after=Mark(2, None))).startswith("line 1: event 3 is missing")
    assert str(broken(lines[3:], after=Mark(4, None))) == (
        "line 1: event 4 stands here out of its order, where event 5 should"
    )


def test_a_head_that_was_noted_is_looked_for_wherever_it_stands() -> None:
    lines = eight()
    for head in map(mark, lines):
        assert first_break(lines, head=head) is None
        assert str(broken(lines, head=replace(head, hash="f" * 64))).startswith(
            f"line {head.number}: event {head.number} has the hash "
        )
    part = lines[3:]
    assert first_break(part, after=Mark(3, None), head=mark(lines[2])) is None
    assert "does not stand before event 4" in str(
        broken(part, after=Mark(3, None), head=Mark(3, "f" * 64))
    )
    assert "the head that was noted, 2, does not stand before event 4" in str(
        broken(part, after=Mark(3, None), head=mark(lines[1]))
    )
    assert first_break([], after=mark(lines[2]), head=mark(lines[2])) is None
    for other in (Mark(3, "f" * 64), mark(lines[1])):
        assert "is not what the export begins behind" in str(
            broken([], after=mark(lines[2]), head=other)
        )
    assert str(broken([], head=Mark(2, "f" * 64))) == (
        "line 1: events 1 to 2 are missing, up to the head that was noted: "
        "the export ends too soon"
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", ":", "x", "-1", "1:", "1:abc", f"1:{'F' * 64}", "9" * 30])
def test_what_is_no_mark_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Mark.parse(text)


def test_a_mark_is_read_as_it_is_written() -> None:
    for text in (f"12:{'a' * 64}", "12"):
        assert str(Mark.parse(text)) == text

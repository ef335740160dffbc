"""What `ports.Catalog` promises of the audit: events in order, in a chain that tells of changes."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from ociserver.auth.chain import GENESIS, Break, first_break, line, link, verdict
from ociserver.auth.records import AuditEvent, AuditLink, AuditQuestion, Outcome
from ociserver.errors import Unavailable
from ociserver.ports import Catalog, CatalogTx
from tests.contracts.catalog import Make, after, told

# Runs a statement past all code of ours.
RawSql = Callable[[str], object]

# What it takes to change the audit after all.
UNGUARDED = {
    "SqliteCatalog": [f"DROP TRIGGER audit_event_{each}" for each in ("unchanged", "undeleted")],
    "PostgresCatalog": ["DROP TRIGGER audit_event_unchanged ON audit_event"],
}


def event(number: int, **fields: object) -> AuditEvent:
    return AuditEvent(
        at=float(number),
        actor="user:ann",
        action="push",
        subject=f"a/b:v{number}",
        outcome="done",
        detail=fields,
    )


def subjects(events: Sequence[AuditEvent]) -> list[str]:
    return [each.subject for each in events]


class AuditContract:
    """Run against both databases."""

    def test_events_are_read_by_number_as_they_were_recorded(self, make: Make) -> None:
        odd = AuditEvent(
            at=0.1 + 0.2,
            actor="anyone",
            action="login",
            subject="é\u2028",
            outcome="denied",
            detail={"why": "\0 é \ud800", "tries": 3, "in": ["a", None, {"b": 2.5}]},
            number=1_000,
        )

        def change(tx: CatalogTx) -> None:
            tx.record([event(1), odd])
            tx.record([])
            tx.record([event(2), event(3)])

        def look(tx: CatalogTx) -> Sequence[AuditEvent]:
            return tx.events(0, 99)

        found = after(make, change, look)
        assert [replace(each, number=0) for each in found] == [
            event(1),
            replace(odd, number=0),
            event(2),
            event(3),
        ]
        assert [each.number for each in found] == [1, 2, 3, 4]

    def test_pages_of_events_go_on_after_the_last(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            tx.record([event(number) for number in range(7)])

        def look(tx: CatalogTx) -> list[str]:
            seen: list[AuditEvent] = []
            while page := tx.events(seen[-1].number if seen else 0, 3):
                assert len(page) == min(3, 7 - len(seen))
                seen += page
            return subjects(seen)

        assert after(make, change, look) == subjects([event(number) for number in range(7)])

    def test_who_reads_on_from_the_last_event_misses_none(self, make: Make) -> None:
        async def story(one: Catalog, two: Catalog, reader: Catalog) -> None:
            async def write(number: int) -> None:
                events = [event(number), event(number + 1)]
                await (one, two)[number // 2 % 2].write(
                    lambda tx: tx.record(events), in_turn=number % 20 > 0
                )

            writing = asyncio.gather(*(write(number) for number in range(0, 200, 2)))
            seen: list[AuditEvent] = []
            done = False
            while not done:
                done = writing.done()
                last = seen[-1].number if seen else 0
                seen += await reader.read(lambda tx, n=last: tx.events(n, 999))  # type: ignore[misc]
            await writing
            assert [each.number for each in seen] == list(range(1, 201))
            ordered = subjects([event(number) for number in range(200)])
            assert sorted(subjects(seen)) == sorted(ordered)
            # What was recorded together stands together.
            assert subjects(seen[1::2]) == [
                ordered[ordered.index(each) + 1] for each in subjects(seen[::2])
            ]

        told(make, story, workers=3)

    def test_events_are_chained_from_the_first_on_and_across_pages(self, make: Make) -> None:
        odd: Any = {
            "why": "\0 é \ud83d\ude00 \ud800",
            "n": math.nan,
            "in": (1, 2.50, 1e300),
            10: 1,
            9: 2,
        }

        def change(tx: CatalogTx) -> None:
            tx.record([event(1), replace(event(2), detail=odd), replace(event(3), at=3)])
            tx.record([event(number) for number in range(4, 8)])
            tx.record([])

        def look(tx: CatalogTx) -> list[AuditLink]:
            whole = [*tx.trail(0, 99)]
            for limit in (1, 2, 3, 7):
                paged: list[AuditLink] = []
                while page := tx.trail(len(paged), limit):
                    assert len(page) == min(limit, 7 - len(paged))
                    paged += page
                assert paged == whole
            assert [each.event for each in whole] == tx.events(0, 99)
            assert tx.trail(0, 0) == tx.trail(7, 9) == tx.trail(99, 9) == []
            return whole

        links = after(make, change, look)
        assert links[0].previous == GENESIS
        for before, each in pairwise(links):
            assert each.previous == before.hash
        for each in links:
            assert each.hash == link(each.previous, each.event)
        assert links[1].event.detail == {
            "why": "\0 é 😀 \ud800", "n": "NaN", "in": [1, 2.5, 1e300], "10": 1, "9": 2
        }  # fmt: skip
        found = verdict(map(line, links))
        assert (found.broken, str(found.head)) == (None, f"7:{links[-1].hash}")

    def test_events_are_found_from_the_last_by_all_that_is_asked(self, make: Make) -> None:
        # By their time, not by their number; of two at one time the higher number is the later.
        times = (1.0, 3.0, 2.0, 2.0, 5.0, 4.0)
        who = ("a", "b", "a", "a", "b", "a")
        what = ("push", "push", "promote", "push", "promote", "promote")
        outcomes: Sequence[Outcome] = ("done", "denied", "done", "denied", "failed", "done")
        every = [
            AuditEvent(at=at, actor=by, action=done, subject=f"m{at:.0f}", outcome=outcome)
            for at, by, done, outcome in zip(times, who, what, outcomes, strict=True)
        ]
        asked: list[tuple[AuditQuestion, list[int]]] = [
            (AuditQuestion(), [5, 6, 2, 4, 3, 1]),
            (AuditQuestion(actor="a"), [6, 4, 3, 1]),
            (AuditQuestion(action="promote"), [5, 6, 3]),
            (AuditQuestion(subject="m2"), [4, 3]),
            (AuditQuestion(outcome="denied"), [2, 4]),
            (AuditQuestion(actor="a", action="promote", outcome="done"), [6, 3]),
            (AuditQuestion(subject="m2", actor="a", action="push", outcome="denied"), [4]),
            (AuditQuestion(since=2.0, until=4.0), [2, 4, 3]),
            (AuditQuestion(actor="a", until=4.0), [4, 3, 1]),
            (AuditQuestion(actor="é"), []),
        ]

        def look(tx: CatalogTx) -> None:
            for question, numbers in asked:
                for limit in range(1, 8):
                    seen: list[AuditEvent] = []
                    more = True
                    while more:
                        page, more = tx.latest(question, seen[-1] if seen else None, limit)
                        assert len(page) == min(limit, len(numbers) - len(seen))
                        seen += page
                    assert [each.number for each in seen] == numbers, question
                    assert [replace(each, number=0) for each in seen] == [
                        every[number - 1] for number in numbers
                    ]

        after(make, lambda tx: tx.record(every), look)

    def test_pages_of_large_events_are_short_and_miss_none(self, make: Make) -> None:
        def change(tx: CatalogTx) -> None:
            tx.record([event(number, text="x" * 300_000) for number in range(1, 31)])
            tx.record([event(31, text="x" * 6_000_000), event(32)])

        def look(tx: CatalogTx) -> None:
            links: list[AuditLink] = []
            sizes = []
            while page := tx.trail(len(links), 999):
                links += page
                sizes.append(len(page))
            assert [each.event.number for each in links] == [*range(1, 33)]
            assert sizes[0] == 13
            assert 1 in sizes
            assert verdict(map(line, links)).broken is None
            seen: list[int] = []
            last, more = None, True
            while more:
                found, more = tx.latest(AuditQuestion(), last, 999)
                assert 0 < len(found) < 15
                seen += [each.number for each in found]
                last = found[-1]
            assert seen == [*range(32, 0, -1)]

        after(make, change, look)

    @pytest.mark.parametrize("page", [1, 2, 9])
    def test_an_event_that_was_taken_out_past_all_triggers_is_missed(
        self, make: Make, raw: RawSql, page: int
    ) -> None:
        async def story(catalog: Catalog) -> Break | None:
            await catalog.write(lambda tx: tx.record([event(number) for number in range(1, 6)]))
            for statement in UNGUARDED[type(catalog).__name__]:
                await asyncio.to_thread(raw, statement)
            await asyncio.to_thread(raw, "DELETE FROM audit_event WHERE number = 3")
            lines: list[bytes] = []
            number = 0
            while links := await catalog.read(lambda tx: tx.trail(number, page)):  # noqa: B023
                lines += map(line, links)
                number = links[-1].event.number
            return first_break(lines)

        assert told(make, story) == Break(3, "event 3 is missing before event 4")

    def test_an_event_of_a_write_that_failed_never_was(self, make: Make) -> None:
        async def story(catalog: Catalog) -> None:
            def work(tx: CatalogTx) -> None:
                tx.record([event(1)])
                raise Unavailable("refused")

            with pytest.raises(Unavailable):
                await catalog.write(work)
            await catalog.write(lambda tx: tx.record([event(2)]))
            found = await catalog.read(lambda tx: tx.events(0, 9))
            assert subjects(found) == ["a/b:v2"]

        told(make, story)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE audit_event SET actor = 'nobody'",
            "DELETE FROM audit_event",
            "DELETE FROM audit_event WHERE subject = 'a/b:v1'",
            """INSERT INTO audit_event SELECT * FROM audit_event WHERE true
            ON CONFLICT (number) DO UPDATE SET actor = 'nobody'""",
        ],
    )
    def test_no_statement_changes_the_audit(self, make: Make, raw: RawSql, statement: str) -> None:
        async def story(catalog: Catalog) -> None:
            await catalog.write(lambda tx: tx.record([event(1), event(2)]))
            before = await catalog.read(lambda tx: tx.events(0, 9))
            with pytest.raises((sqlite3.DatabaseError, asyncpg.PostgresError), match="append-only"):
                await asyncio.to_thread(raw, statement)
            assert await catalog.read(lambda tx: tx.events(0, 9)) == before

        told(make, story)

    # -- secrets

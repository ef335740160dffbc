# The audit as one looks through it at 3 a.m.: the latest first, and by what it was about.
from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ociserver.auth.chain import verdict
from ociserver.auth.records import AuditEvent
from ociserver.storage.sqlite import SqliteCatalog
from tests.access import Guarded, guarded
from tests.mlext.commands import Commands
from tests.mlext.models import Modelling
from tests.wire.raw import eventually

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "register", "approve", "promote"]
on = "team/**"

[[rule]]
who = "robot:ci"
may = ["pull", "promote"]
on = "team/**"
aliases = ["staging"]

[[rule]]
who = "user:bob"
may = "read-audit"
on = "**"
"""
EXPORT = {"Accept": "application/x-ndjson"}
MODEL, OTHER = "team/fraud", "team/" + "long/" * 20 + "name"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A registry in which ann and ci did something, and ci was refused something."""
    with guarded(tmp_path_factory.mktemp("looked-through")) as served:
        served.change_rules(RULES)
        with served.client() as client:
            client.auth = served.basic("ann")
            models = Modelling(client)
            for name in (MODEL, OTHER):
                models.register(name)
            models.register(MODEL)
            assert models.promote(MODEL, "prod", 1).status_code == 200
            assert models.promote(MODEL, "prod", 2, reason="f1 is better").status_code == 200
            client.auth = served.basic("ci")
            assert models.promote(MODEL, "staging", 2).status_code == 200
            for name in (MODEL, OTHER):
                assert models.promote(name, "prod", 1).status_code == 403
        eventually(lambda: [each[3] for each in served.events()].count("denied") == 2)
        yield served


@pytest.fixture(scope="module")
def reader(registry: Guarded) -> Iterator[httpx.Client]:
    with registry.client() as client:
        client.auth = registry.basic("bob")
        yield client


def events(reader: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    answer = reader.get("/v1/audit", params=asked)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def told(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(each["actor"], each["action"], each["outcome"]) for each in found]


def test_the_latest_comes_first(reader: httpx.Client) -> None:
    found = events(reader)
    times = [each["at"] for each in found]
    assert times == sorted(times, reverse=True)
    assert len({each["number"] for each in found}) == len(found) > 8


def test_events_are_found_by_what_they_are_about(reader: httpx.Client) -> None:
    of_model = events(reader, subject=MODEL)
    assert told(of_model) == [
        ("robot:ci", "promote", "denied"),
        ("robot:ci", "promote", "done"),
        ("user:ann", "promote", "done"),
        ("user:ann", "promote", "done"),
        ("user:ann", "register", "done"),
        ("user:ann", "register", "done"),
    ]
    assert events(reader, subject=MODEL, actor="user:ann") == of_model[2:]
    assert events(reader, subject=MODEL, actor="robot:ci", outcome="done") == of_model[1:2]
    assert events(reader, subject=MODEL, action="register", limit=1) == of_model[4:5]
    # A long name is found whole, what was refused in it, too.
    assert told(events(reader, subject=OTHER)) == [
        ("robot:ci", "promote", "denied"),
        ("user:ann", "register", "done"),
    ]
    assert events(reader, subject="team/frau") == []
    assert events(reader, actor="nobody", action="promote") == []
    second = of_model[2]["at"]
    assert events(reader, subject=MODEL, since=second) == of_model[:3]
    assert events(reader, subject=MODEL, until=second) == of_model[3:]
    # By the time that is shown, whoever recorded it.
    for each in events(reader):
        assert each in events(reader, since=each["at"], limit=1_000)
        assert each not in events(reader, until=each["at"], limit=1_000)
    tomorrow = str(datetime.now(UTC).date() + timedelta(days=1))
    assert events(reader, subject=MODEL, until=tomorrow) == of_model
    assert events(reader, subject=MODEL, since=tomorrow) == []


def test_a_run_that_was_refused_is_found_as_one_that_was_put(
    registry: Guarded, reader: httpx.Client
) -> None:
    for who, status in (("ann", 200), ("ci", 403)):
        with registry.client() as client:
            client.auth = registry.basic(who)
            assert client.put("/v1/runs/run-7", json={}).status_code == status
    eventually(lambda: len(events(reader, subject="run-7")) == 2)
    refused, put = told(events(reader, subject="run-7"))
    assert (refused[0], refused[2]) == ("robot:ci", "denied")
    assert put == ("user:ann", "run", "done")


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_go_on_where_the_last_ended_whatever_came_since(
    registry: Guarded, reader: httpx.Client, limit: int
) -> None:
    with registry.client() as client:
        client.auth = registry.basic("ann")
        models = Modelling(client)
        model = models.name()
        numbers = itertools.cycle((models.register(model), models.register(model)))
        for alias in "bcdefa":
            assert models.promote(model, alias, next(numbers)).status_code == 200
        asked: dict[str, Any] = {"subject": model, "action": "promote"}
        every = events(reader, **asked)
        seen: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            more = {"cursor": cursor} if cursor else {}
            page = reader.get("/v1/audit", params={**asked, **more, "limit": limit}).json()
            seen += page["events"]
            cursor = page["next_cursor"]
            assert models.promote(model, "a", next(numbers)).status_code == 200
    assert len(every) == 6
    assert seen == every


def test_what_no_text_may_hold_is_shown_all_the_same(
    registry: Guarded, reader: httpx.Client
) -> None:
    odd = AuditEvent(
        at=1.0, actor="odd", action="x", subject="", outcome="done", detail={"why": "\ud800é"}
    )

    async def record() -> None:
        catalog = SqliteCatalog(registry.data / "catalog.db")
        await catalog.write(lambda tx: tx.record([odd]))
        await catalog.aclose()

    asyncio.run(record())
    [found] = events(reader, actor="odd")
    assert found["detail"] == {"why": "\ud800é"}
    assert found["at"] == "1970-01-01T00:00:01.000000Z"


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (
            {"colour": "red"},
            "document_invalid",
            "known are: subject, actor, action, outcome, since",
        ),
        ({"outcome": "fine"}, "document_invalid", "is none of: done, denied, failed"),
        ({"since": "yesterday"}, "document_invalid", "nor a date, such as 2026-11-25"),
        ({"subject": "\0"}, "document_invalid", "subject has a character"),
        ({"actor": ["a", "b"]}, "document_invalid", "given once"),
        ({"limit": "1001"}, "document_invalid", "from 1 to 1000"),
        ({"after": "3"}, "document_invalid", "after is not for a list (application/json)"),
        ({"cursor": "0"}, "cursor_invalid", "none that a page"),
        ({"cursor": "x"}, "cursor_invalid", "none that a page"),
        ({"cursor": "9" * 18}, "cursor_invalid", "none that a page"),
    ],
)
def test_what_is_asked_wrongly_is_400(
    reader: httpx.Client, asked: dict[str, Any], code: str, said: str
) -> None:
    answer = reader.get("/v1/audit", params=asked)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == code
    assert said in answer.json()["detail"]


def test_an_export_is_whole_from_the_first_on(reader: httpx.Client) -> None:
    exported = reader.get("/v1/audit", headers=EXPORT)
    lines = exported.content.splitlines(keepends=True)
    found = verdict(lines)
    assert (found.broken, found.events) == (None, len(lines))
    assert [json.loads(each)["number"] for each in lines] == [*range(1, len(lines) + 1)]
    rest = reader.get("/v1/audit", headers=EXPORT, params={"after": 3, "limit": 2})
    assert rest.content.splitlines(keepends=True) == lines[3:5]
    for narrowed in ({"subject": MODEL}, {"cursor": "3"}, {"since": "2026-01-01"}):
        refused = reader.get("/v1/audit", headers=EXPORT, params=narrowed)
        assert refused.status_code == 400
        assert "is not for an export (application/x-ndjson)" in refused.json()["detail"]
    for after in ("-1", "x", str(2**63)):
        refused = reader.get("/v1/audit", headers=EXPORT, params={"after": after})
        assert refused.status_code == 400
        assert f"from 0 to {2**63 - 1}" in refused.json()["detail"]


def test_who_may_not_read_it_reads_none_of_it(registry: Guarded) -> None:
    with registry.client() as client:
        for name in ("ann", "ci"):
            client.auth = registry.basic(name)
            for headers in ({}, EXPORT):
                answer = client.get("/v1/audit", headers=headers, params={"actor": f"user:{name}"})
                assert answer.status_code == 403, answer.text
    with registry.client() as nobody:
        assert nobody.get("/v1/audit").status_code == 401


@pytest.fixture
def lading(registry: Guarded, tmp_path: Path) -> Commands:
    return Commands(registry.url, home=str(tmp_path))


def test_the_command_finds_what_the_door_finds(
    registry: Guarded, reader: httpx.Client, lading: Commands
) -> None:
    bob = {"LADING_USER": "bob", "LADING_PASSWORD": registry.secrets["bob"]}
    listed = lading.json("audit", "list", "--model", MODEL, "--outcome", "denied", **bob)
    assert listed["events"] == events(reader, subject=MODEL, outcome="denied")
    promoted = ("audit", "list", "--model", MODEL, "--action", "promote", "--since", "1h")
    heading, *rows = lading.done(*promoted, **bob).splitlines()
    assert heading.split() == ["AT", "BY", "ACTION", "DETAIL", "NUMBER"]
    who, what = zip(*(row.split("  promote  ") for row in rows), strict=True)
    assert [each.split()[-1] for each in who] == ["robot:ci"] * 2 + ["user:ann"] * 2
    assert what[0].startswith(f"denied: no rule lets robot:ci promote prod in {MODEL} address=")
    assert what[1].startswith("staging: nowhere -> 2 a test request_id=")
    assert what[2].startswith("prod: 1 -> 2 f1 is better request_id=")
    assert what[3].startswith("prod: nowhere -> 1 a test request_id=")
    short = lading("audit", "list", "--limit", 2, **bob)
    assert len(short.out.splitlines()) == 3
    assert short.err == "lading audit list: there are more: --all\n"
    whole = lading.json("audit", "list", "--limit", 2, "--all", "--model", MODEL, **bob)
    assert whole == {"events": events(reader, subject=MODEL), "next_cursor": None}
    assert (
        lading.json("audit", "list", "--model", MODEL, "--until", "2020-01-01", **bob)["events"]
        == []
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "yesterday"),
        ("--outcome", "fine"),
        ("--limit", "0"),
        ("--limit", "v5"),
        ("--model", "Team"),
        ("--model", "a", "--subject", "b"),
    ],
)
def test_what_cannot_be_asked_is_told_at_once(lading: Commands, options: tuple[str, ...]) -> None:
    ended = lading("audit", "list", *options)
    assert (ended.status, ended.out) == (2, "")
    assert "lading audit list: error: " in ended.err

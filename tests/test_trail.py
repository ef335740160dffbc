"""`lading audit`, as an operator and an auditor run it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ociserver.auth.chain import GENESIS
from ociserver.auth.records import AuditEvent
from ociserver.storage.sqlite import SqliteCatalog
from tests.postgres import PostgresServer

LADING = str(Path(sys.executable).with_name("lading"))
EVENTS = 1_203


def audit(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    environment = {key: value for key, value in os.environ.items() if key[:7] != "LADING_"}
    ended = subprocess.run(
        [LADING, "audit", *arguments],
        input=stdin, capture_output=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A catalog whose audit is longer than a page of the export."""
    path = tmp_path_factory.mktemp("trail") / "catalog.db"
    events = [
        AuditEvent(
            at=float(number),
            actor="user:é",
            action="push",
            subject=f"a:v{number}",
            outcome="done",
            detail={"n": number},
        )
        for number in range(EVENTS)
    ]

    async def fill() -> None:
        catalog = SqliteCatalog(path)
        await catalog.write(lambda tx: tx.record(events), in_turn=True)
        await catalog.aclose()

    asyncio.run(fill())
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def export(catalog: str) -> str:
    status, printed, said = audit("export", "--catalog", catalog)
    assert (status, said) == (0, "")
    return printed


def test_an_export_is_a_line_for_each_event_and_verifies(export: str, tmp_path: Path) -> None:
    lines = [json.loads(each) for each in export.splitlines()]
    assert [each["number"] for each in lines] == list(range(1, EVENTS + 1))
    assert lines[7]["detail"] == {"n": 7}
    assert lines[0]["previous"] == GENESIS
    head = f"{EVENTS}:{lines[-1]['hash']}"
    (tmp_path / "audit.ndjson").write_text(export)
    said = f"1,203 events, head {head}\n"
    assert audit("verify", str(tmp_path / "audit.ndjson")) == (0, said, "")
    for arguments in ((), ("-",), ("-", "--head", head)):
        assert audit("verify", *arguments, stdin=export.encode()) == (0, said, "")


def test_a_later_export_goes_on_behind_the_head_of_an_earlier_one(
    catalog: str, export: str
) -> None:
    lines = export.splitlines(keepends=True)
    head = f"600:{json.loads(lines[599])['hash']}"
    for after in (head, "600"):
        status, printed, _ = audit("export", "--after", after, "--catalog", catalog)
        assert (status, printed) == (0, "".join(lines[600:]))
    part = "".join(lines[600:]).encode()
    status, said, _ = audit("verify", "--after", head, stdin=part)
    assert status == 0
    assert said.startswith("603 events from 601 on, head 1203:")
    assert audit("verify", "--after", f"600:{'f' * 64}", stdin=part)[0] == 1
    status, said, _ = audit("verify", stdin=part)
    assert status == 1
    assert said.startswith("line 1: events 1 to 600 are missing before event 601; ")
    assert audit("export", "--after", "9999", "--catalog", catalog) == (0, "", "")


def test_the_first_broken_link_is_named(export: str) -> None:
    status, said, _ = audit("verify", stdin=export.replace("a:v99", "a:v98", 1).encode())
    assert status == 1
    assert said.startswith("line 100: event 100 was changed: ")
    assert said.count("\n") == 1
    cut = "".join(export.splitlines(keepends=True)[:-3])
    last = json.loads(export.splitlines()[-1])
    head = f"{last['number']}:{last['hash']}"
    assert audit("verify", stdin=cut.encode())[0] == 0
    status, said, _ = audit("verify", "--head", head, stdin=cut.encode())
    assert status == 1
    assert said.startswith("line 1,201: events 1201 to 1203 are missing, up to the head that was")


def test_what_is_no_text_at_all_is_no_event_and_is_not_read_whole() -> None:
    with Path("/dev/zero").open("rb") as endless:
        ended = subprocess.run(
            [LADING, "audit", "verify"], stdin=endless, capture_output=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stdout) == (1, b"line 1: this is no event of an export\n")


def test_a_reader_that_has_enough_ends_the_export_quietly(catalog: str) -> None:
    ended = subprocess.run(
        f"{LADING} audit export --catalog {catalog} | head -n 1",
        shell=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stdout.count(b"\n") == 1
    assert ended.stderr == b""


def test_an_event_that_was_changed_in_the_catalog_is_found_in_its_export(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"

    async def fill() -> None:
        catalog = SqliteCatalog(path)
        event = AuditEvent(at=1.0, actor="user:ann", action="x", subject="", outcome="denied")
        await catalog.write(lambda tx: tx.record([event] * 3), in_turn=True)
        await catalog.aclose()

    asyncio.run(fill())
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER audit_event_unchanged")
        database.execute("UPDATE audit_event SET outcome = 'done' WHERE number = 2")
    database.close()
    _, printed, _ = audit("export", "--catalog", f"sqlite:///{path}")
    status, said, _ = audit("verify", stdin=printed.encode())
    assert status == 1
    assert said.startswith("line 2: event 2 was changed: ")


def test_an_export_comes_from_postgresql_too(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    environment = {**os.environ, "LADING_CATALOG": url}
    for command in (["migrate"], ["robot", "add", "ci"], ["key", "rotate"]):
        subprocess.run([LADING, *command], check=True, capture_output=True, env=environment)
    status, printed, _ = audit("export", "--catalog", url)
    assert status == 0
    assert [json.loads(each)["action"] for each in printed.splitlines()] == [
        "add-robot",
        "rotate-key",
    ]
    assert audit("verify", stdin=printed.encode())[1].startswith("2 events, head 2:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "--catalog", "sqlite:////nowhere/c.db"), "there is nothing at /nowhere/c.db"),
        (("export", "--catalog", "postgresql://u@127.0.0.1:1/x"), "out of reach"),
        (("export", "--after", "x"), "'x' is not NUMBER or NUMBER:HASH"),
        (("verify", "/nowhere"), "/nowhere"),
        (("verify", "--head", "7"), "'7' is not NUMBER:HASH"),
        (("verify", "--head", f"7:{'F' * 64}"), "is not NUMBER"),
        ((), "COMMAND"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], said: str) -> None:
    status, printed, error = audit(*arguments)
    assert (status, printed) == (2, "")
    assert said in error
    assert "Traceback" not in error

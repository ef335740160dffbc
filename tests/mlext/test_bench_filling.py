"""What the bench writes past the program is what the program writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench import filling, material
from bench.population import ALIASES, Population
from ociserver.auth.chain import first_break
from ociserver.storage.sqlite import prepare_catalog
from tests.serving import Served, push_blob

POPULATION = Population(models=2, each=4)
# What a running registry keeps for itself, and what a second push of the same blob leaves.
OWN = {"alembic_version", "discarded", "lease", "secret", "signing_key"}
TIMES = {"at", "created_at", "updated_at", "touched_at", "linked_at"}
# Random, or made from what is.
DRAWN = {"key", "hash", "version_id", "request_id"}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of a registry that was asked for all of it."""
    served = Served(tmp_path_factory.mktemp("registered")).start()
    with served.client() as client:
        for of in range(POPULATION.models):
            _register(client, of)
    served.stop()
    return served.data / "catalog.db"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "catalog.db"
    prepare_catalog(path)
    filling.into_sqlite(path, filling.of_lading(POPULATION))
    return path


def _register(client: httpx.Client, of: int) -> None:
    versions = list(POPULATION.versions(of))
    model = versions[0].model
    push_blob(client, model, material.CONFIG)
    for each in versions:
        pushed = client.put(
            f"/v2/{model}/manifests/{each.digest}",
            content=each.manifest,
            headers={"Content-Type": material.MANIFEST},
        )
        assert pushed.status_code == 201
        document = {
            "artifact_digest": each.digest,
            "framework": filling.FRAMEWORK,
            "metrics": each.metrics,
            "tags": each.tags,
        }
        made = client.post(f"/v1/models/{model}/versions", json=document)
        assert made.status_code == 201
    for alias, behind in ALIASES.items():
        said = {"version": versions[-1 - behind].number, "reason": filling.REASON}
        assert client.put(f"/v1/models/{model}/aliases/{alias}", json=said).status_code == 200


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every table's rows, without what differs each time they are made."""
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    found = {}
    for (name,) in names.fetchall():
        if name in OWN or name.startswith("sqlite_"):
            continue
        rows = [_timeless(dict(row), name) for row in db.execute(f'SELECT * FROM "{name}"')]
        found[name] = sorted(rows, key=repr)
    db.close()
    return found


def _timeless(row: dict[str, Any], table: str = "") -> dict[str, Any]:
    drawn = DRAWN | TIMES | ({"id"} if table == "model_version" else set())
    kept = {key: value for key, value in row.items() if key not in drawn}
    if table in ("model_version", "audit_event"):
        key = "body" if table == "model_version" else "detail"
        kept[key] = sorted(_timeless(json.loads(kept[key])).items())
    return kept


def test_a_filled_catalog_has_what_registration_and_promotion_leave(
    registered: Path, filled: Path
) -> None:
    expected, found = _content(registered), _content(filled)

    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert len(found["model_version"]) == POPULATION.models * POPULATION.each


def test_times_and_numbers_have_the_types_that_the_program_gives_them(
    registered: Path, filled: Path
) -> None:
    for table in _content(registered):
        types = [set(_types(path, table)) for path in (registered, filled)]
        assert types[0] == types[1], table


def _types(path: Path, table: str) -> Iterator[tuple[str, ...]]:
    db = sqlite3.connect(path)
    columns = [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]
    asked = ", ".join(f'typeof("{each}")' for each in columns)
    yield from db.execute(f'SELECT {asked} FROM "{table}"').fetchall()
    db.close()


def test_the_filled_audit_is_whole(tmp_path: Path, filled: Path) -> None:
    served = Served(tmp_path)
    (tmp_path / "catalog.db").write_bytes(filled.read_bytes())
    served.start()
    with served.client() as client:
        exported = client.get("/v1/audit", headers={"Accept": "application/x-ndjson"})
        prod = client.get("/v1/models/model-00001/aliases/prod").json()
    served.stop()

    assert first_break(exported.content.splitlines(keepends=True)) is None
    events = POPULATION.models * (POPULATION.each + len(ALIASES))
    assert len(exported.content.splitlines()) == events
    assert prod["version"] == POPULATION.each - ALIASES["prod"]

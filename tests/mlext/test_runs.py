# Runs: which came first, a run or a version that names it, is told whatever clocks say.
from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlext import versions
from mlext.acts import Act
from mlext.ports import ModelsTx
from mlext.records import ModelVersion, Registration, Run
from ociserver.refs import parse_name
from ociserver.storage.sqlite import SqliteCatalog
from tests.faults.models import artifact
from tests.mlext.acting import TRANSACTION, as_models, author, pushed
from tests.mlext.models import Modelling

MODEL = parse_name("team/one")
ANN, BOB, CAROL = map(author, ("user:ann", "user:bob", "user:carol"))


def naming(act: Act) -> None:
    asked = Registration(digest=pushed(act, MODEL, artifact()), run_id="r")
    versions.register(act, MODEL, asked)


def test_a_clock_that_is_behind_puts_no_run_before_who_named_it_first(tmp_path: Path) -> None:
    def seen(tx: ModelsTx) -> tuple[Run | None, list[ModelVersion | None], list[Run | None]]:
        numbers = (1, 2, 3)
        return (
            tx.run("r"),
            [tx.version(MODEL, each) for each in numbers],
            [tx.run_of(MODEL, each) for each in numbers],
        )

    async def story() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db", TRANSACTION)
        models = as_models(catalog)
        try:
            await models.write(lambda tx: naming(Act(tx, BOB, 100.0)))
            await models.write(lambda tx: versions.put_run(Act(tx, ANN, 50.0), "r", {}))
            for by in (ANN, CAROL):
                await models.write(lambda tx, by=by: naming(Act(tx, by, 50.0)))  # type: ignore[misc]
            run, (early, _, late), of = await models.read(seen)
        finally:
            await catalog.aclose()
        assert run is not None
        assert early is not None
        assert late is not None
        assert early.created_at < run.created_at < late.created_at
        assert of == [None, run, run]

    asyncio.run(story())


@pytest.mark.parametrize("key", ["started_at", "finished_at"])
def test_a_run_is_not_over_before_it_is(models: Modelling, key: str) -> None:
    name = models.name()
    late = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    refused = models.client.put(f"/v1/runs/{name}", json={key: late})
    assert (refused.status_code, refused.json()["code"]) == (400, "document_invalid")
    assert f"{key} {late[:10]}" in refused.text
    # Clocks are never quite the same.
    now = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert models.client.put(f"/v1/runs/{name}", json={key: now}).status_code == 200

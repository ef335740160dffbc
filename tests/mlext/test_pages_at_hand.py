# A page of one model's versions that was just shown is answered from memory: nothing may be old.
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ociserver.storage.postgres import migrate
from tests.mlext.at_hand import comes_from_memory
from tests.mlext.models import Modelling
from tests.postgres import PostgresServer
from tests.serving import Served

DOORS = ["/v1/models/{}/versions", "/v2/{}/_lading/versions"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Modelling]:
    """An open registry on each catalog: each has its own way to tell that a page is old."""
    options: tuple[str, ...] = ()
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.new_database()
        asyncio.run(migrate(url))
        options = ("--catalog", url)
    served = Served(tmp_path_factory.mktemp("pages"), options).start()
    try:
        with served.client() as client:
            yield Modelling(client)
    finally:
        served.stop()


@pytest.fixture
def model(models: Modelling) -> str:
    """A model of three versions, prod on the first."""
    name = models.name()
    for number in range(3):
        models.register(name, metrics={"f1": number / 10}, run_id=f"{name}-{number}")
    assert models.promote(name, "prod", 1).status_code == 200
    return name


def shown(models: Modelling, target: str, **asked: Any) -> list[int]:
    """Return the numbers of a page; asked twice, the second time from memory."""
    found = []
    for _ in range(2):
        page = models.client.get(target, params=asked)
        assert page.status_code == 200, page.text
        found.append([each["version"] for each in page.json()["versions"]])
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("current", [True, False])
def test_a_page_at_hand_is_that_of_the_long_way(
    models: Modelling, model: str, door: str, method: str, current: bool
) -> None:
    target = door.format(model)
    other = models.client.get(f"{target}?limit=2&stage=prod")
    headers = {"if-none-match": other.headers["etag"]} if current else {}
    cold = comes_from_memory(
        models.client, method, f"{target}?stage=prod&limit=2", "versions", headers
    )
    assert cold.status_code == (304 if current else 200)
    assert cold.headers["cache-control"] == "private, no-cache"
    assert cold.headers["etag"] == other.headers["etag"]


def registered(models: Modelling, model: str) -> None:
    models.register(model, metrics={"f1": 0.9})


def evaluated(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/versions/1/evaluations"
    assert models.client.post(place, json={"metrics": {"f1": 0.9}}).status_code == 201


def moved(models: Modelling, model: str) -> None:
    assert models.promote(model, "prod", 2).status_code == 200


def moved_by_a_push(models: Modelling, model: str) -> None:
    version = models.client.get(f"/v2/{model}/manifests/v2")
    pushed = models.client.put(
        f"/v2/{model}/manifests/prod",
        content=version.content,
        headers={"Content-Type": version.headers["content-type"]},
    )
    assert pushed.status_code == 201


def registered_by_a_push(models: Modelling, model: str) -> None:
    models.artifact(model, **{"io.lading.metrics": '{"f1": 0.9}'})


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (registered, "?limit=49"),
        (registered, "?sort=-metrics.f1"),
        (registered_by_a_push, "?filter=metrics.f1>0.5"),
        (evaluated, "?limit=49"),
        (evaluated, "?stage=prod"),
        (evaluated, "?filter=metrics.f1>0.5"),
        (moved, "?limit=49"),
        (moved, "?stage=prod"),
        (moved_by_a_push, "?stage=prod"),
    ],
)
def test_every_change_is_in_the_next_page(
    models: Modelling,
    model: str,
    door: str,
    change: Callable[[Modelling, str], None],
    asked: str,
) -> None:
    target = door.format(model) + asked
    for _ in range(2):
        before = models.client.get(target)
    change(models, model)
    after = models.client.get(target, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200, after.text
    assert after.json() != before.json()


def test_a_filter_by_lineage_sees_what_a_run_says(models: Modelling, model: str) -> None:
    target = f"/v1/models/{model}/versions"
    asked = {"filter": "lineage.dataset = 'clicks@7'"}
    assert shown(models, target, **asked) == []
    run = models.client.put(f"/v1/runs/{model}-1", json={"dataset_version": "clicks@7"})
    assert run.status_code in {200, 201}, run.text
    assert shown(models, target, **asked) == [2]


def test_a_model_that_comes_is_seen(models: Modelling) -> None:
    name = models.name()
    target = f"/v1/models/{name}/versions"
    for _ in range(2):
        assert models.client.get(target).status_code == 404
    models.register(name)
    assert shown(models, target) == [1]

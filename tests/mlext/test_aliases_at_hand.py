# An alias that was just resolved is answered from memory: nothing may tell, and nothing may be old.
# What holds of pages of versions, too (`test_pages_at_hand.py`), is asked of both here.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.mlext.at_hand import comes_from_memory
from tests.mlext.models import Modelling
from tests.serving import Served

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "register", "promote"]
on = "team/**"
"""
ANYONE = """
[[rule]]
who = "anyone"
may = "pull"
on = "team/**"
"""


@pytest.fixture
def model(models: Modelling) -> str:
    """A model of two versions, prod on the first."""
    name = models.name()
    for _ in range(2):
        models.register(name)
    assert models.promote(name, "prod", 1).status_code == 200
    return name


@pytest.mark.parametrize("door", ["/v1/models/{}/aliases/prod", "/v2/{}/_lading/aliases/prod"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("current", [True, False])
def test_an_answer_at_hand_is_that_of_the_long_way(
    models: Modelling, model: str, door: str, method: str, current: bool
) -> None:
    headers = {"if-none-match": '"1.1"'} if current else {}
    target = door.format(model)
    cold = comes_from_memory(models.client, method, target, "alias", headers)
    assert cold.status_code == (304 if current else 200)
    assert cold.headers["cache-control"] == "public, max-age=10"
    assert cold.headers["etag"] == '"1.1"'


def test_every_move_is_seen_by_the_next_get(models: Modelling, model: str) -> None:
    target = f"/v1/models/{model}/aliases/prod"
    for number in (2, 1) * 10:
        assert models.promote(model, "prod", number).status_code == 200
        for _ in range(2):
            assert models.client.get(target).json()["version"] == number


def test_a_past_moment_is_not_answered_with_the_present(models: Modelling, model: str) -> None:
    target = f"/v1/models/{model}/aliases/prod"
    before = models.client.get(target).json()
    models.promote(model, "prod", 2)
    models.client.get(target)
    for _ in range(2):
        then = models.client.get(target, params={"at": before["updated_at"]})
        assert then.json()["version"] == 1


def numbers(client: httpx.Client, target: str) -> list[int]:
    return [each["version"] for each in client.get(target).json()["versions"]]


def test_a_move_is_seen_through_every_worker(tmp_path: Path) -> None:
    served = Served(tmp_path, workers=2).start()
    try:
        with served.client() as client:
            models = Modelling(client)
            name = models.name()
            for _ in range(2):
                models.register(name)
            for number in (1, 2) * 5:
                last = models.register(name)
                assert models.promote(name, "prod", number).status_code == 200
                for _ in range(4):
                    # Each connection is some worker's.
                    with served.client() as other:
                        for _ in range(2):
                            found = other.get(f"/v1/models/{name}/aliases/prod").json()
                            assert found["version"] == number
                            page = f"/v1/models/{name}/versions"
                            assert numbers(other, page) == [*range(last, 0, -1)]
                            assert numbers(other, f"{page}?stage=prod") == [number]
    finally:
        served.stop()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Guarded]:
    with guarded(tmp_path) as served:
        served.change_rules(RULES)
        yield served


def test_rules_hold_for_what_is_at_hand(registry: Guarded) -> None:
    with registry.client() as ann, registry.client() as anyone:
        ann.auth = registry.basic("ann")
        models = Modelling(ann)
        name = models.name()
        models.register(name)
        models.promote(name, "prod", 1)
        target, page = f"/v1/models/{name}/aliases/prod", f"/v1/models/{name}/versions"

        def pages(status: int) -> None:
            assert ann.get(page).status_code == 200
            assert anyone.get(page).status_code == status

        for _ in range(3):
            pages(401)
            assert ann.get(target).headers["cache-control"] == "private, max-age=10"
            assert anyone.get(target).status_code == 401

        registry.change_rules(RULES + ANYONE)
        for _ in range(3):
            pages(200)
            assert anyone.get(target).headers["cache-control"] == "public, max-age=10"
            assert ann.get(target).headers["cache-control"] == "public, max-age=10"

        registry.change_rules(RULES)
        for _ in range(3):
            pages(401)
            assert anyone.get(target).status_code == 401
            assert ann.get(target).headers["cache-control"] == "private, max-age=10"

# What stands in the query of a request is read the same way at every door.
from __future__ import annotations

import pytest

from tests.mlext.models import Modelling


@pytest.fixture(scope="module")
def model(models: Modelling) -> str:
    """A model with an alias that has moved."""
    name = models.name()
    models.promote(name, "prod", models.register(name))
    return name


@pytest.mark.parametrize(
    ("place", "key", "bounds"),
    [
        ("/v1/audit", "limit", (1, 1_000)),
        ("/v1/models/{}/versions", "limit", (1, 1_000)),
        ("/v1/models/{}/versions/1/lineage", "depth", (1, 50)),
        ("/v1/models/{}/aliases/prod/history", "limit", (1, 1_000)),
    ],
)
def test_a_number_out_of_its_bounds_is_told_them(
    models: Modelling, model: str, place: str, key: str, bounds: tuple[int, int]
) -> None:
    least, most = bounds
    for good in bounds:
        answer = models.client.get(place.format(model), params={key: good})
        assert answer.status_code == 200, answer.text
    for bad in (least - 1, most + 1, "", "x", "1.0", "²", "+1", "9" * 5_000):
        answer = models.client.get(place.format(model), params={key: bad})
        assert answer.status_code == 400, answer.text
        assert answer.json()["code"] == "document_invalid"
        assert f"from {least} to {most}" in answer.json()["detail"]


@pytest.mark.parametrize("cursor", ["Team/X", "a\0b", "a b", "x" * 300])
def test_a_cursor_that_names_no_model_is_400(models: Modelling, cursor: str) -> None:
    answer = models.client.get("/v1/models", params={"cursor": cursor})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "cursor_invalid"


def test_moves_go_on_behind_the_cursor(models: Modelling, model: str) -> None:
    models.promote(model, "prod", models.register(model))
    place = f"/v1/models/{model}/aliases/prod/history"
    first = models.client.get(place).json()["moves"]
    assert first[0]["move"] > 1
    behind = models.client.get(place, params={"cursor": first[0]["move"]}).json()["moves"]
    assert behind == first[1:]

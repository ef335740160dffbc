# Lists come in pages, each bounded, and what a door does not know it is told by refuses it.
from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from mlext.web import paging
from mlext.web.places import DOCUMENTS
from ociserver.web.document import operations, whole
from tests.mlext.commands import Commands
from tests.mlext.models import Modelling

# What a signed address has beside its signature is nobody's business here.
SIGNED = "/v1/downloads/"
VALUES = {"number": "1", "alias": "prod", "digest": "sha256:" + "0" * 64, "name": "never/there"}
DOCUMENT = whole(DOCUMENTS)
DOORS = {
    (path, method): said
    for path, method, said in operations(DOCUMENT)
    if (path.startswith("/v1/") or "/_lading" in path) and not path.startswith(SIGNED)
}


def documented(path: str, method: str, where: str = "query") -> set[str]:
    """Return the parameters there that the document gives the operation."""
    given = [
        *DOCUMENT["paths"][path].get("parameters", []),
        *DOORS[path, method].get("parameters", []),
    ]
    named = DOCUMENT["components"]["parameters"]
    found = [named[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in given]
    return {each["name"] for each in found if each["in"] == where}


@pytest.mark.parametrize(("path", "method"), sorted(DOORS))
def test_a_parameter_that_is_not_documented_is_refused_at_every_door(
    models: Modelling, path: str, method: str
) -> None:
    place = re.sub(r"{(\w+)}", lambda found: VALUES.get(found[1], "x"), path)
    answer = models.client.request(method.upper(), place, params={"colour": "red"})
    assert answer.status_code == 400, answer.text
    if method == "head":
        return
    body = answer.json()
    said = body["detail"] if path.startswith("/v1/") else body["errors"][0]["message"]
    head, _, known = said.partition("; ")
    assert head == "the parameter 'colour' is unknown"
    names = known.removeprefix("known are: ").split(", ")
    assert ({*names} if names != ["none is taken here"] else set()) == documented(path, method)


def test_a_move_with_a_parameter_that_nobody_knows_moves_nothing(models: Modelling) -> None:
    model = models.name()
    models.register(model)
    place = f"/v1/models/{model}/aliases/prod"
    body = {"version": 1}
    assert models.client.put(place, json=body, params={"dry_run": "true"}).status_code == 400
    assert models.client.get(place).status_code == 404
    assert models.client.put(place, json=body).status_code == 200
    # Also where the answer is at hand: `att` would have been told where the alias stands now.
    for _ in range(2):
        assert models.client.get(place).status_code == 200
        assert models.client.get(place, params={"att": "2020-01-01"}).status_code == 400
        assert models.client.get(f"{place}?at=2020-01-01&at=2026-01-01").status_code == 400


@pytest.fixture(scope="module")
def model(models: Modelling) -> str:
    """A model with some of everything that is listed."""
    name = models.name()
    for _ in range(2):
        models.register(name)
    for step in range(7):
        assert models.promote(name, "prod", step % 2 + 1).status_code == 200
    for alias in ("blue", "canary", "green", "staging"):
        assert models.promote(name, alias, 1).status_code == 200
        given = {"alias": alias, "comment": f"as {alias}"}
        approved = models.client.post(f"/v1/models/{name}/versions/1/approvals", json=given)
        assert approved.status_code == 201
    for number in range(5):
        measured = {"metrics": {"f1": number / 10}}
        made = models.client.post(f"/v1/models/{name}/versions/1/evaluations", json=measured)
        assert made.status_code == 201
        gate = {"model": name, "alias": "never", "lineage": True}
        assert models.client.put(f"/v1/gates/{name}-{number}", json=gate).status_code == 200
    return name


LISTS = {
    "aliases": "/v1/models/{}/aliases",
    "moves": "/v1/models/{}/aliases/prod/history",
    "approvals": "/v1/models/{}/versions/1/approvals",
    "evaluations": "/v1/models/{}/versions/1/evaluations",
    "gates": "/v1/gates",
    "models": "/v1/models",
}


def page(models: Modelling, place: str, **asked: Any) -> dict[str, Any]:
    answer = models.client.get(place, params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def followed(
    models: Modelling, place: str, key: str, limit: int, between: Callable[[], object] = lambda: 0
) -> list[Any]:
    """Return what all pages of so many have, with something done between each two."""
    found: list[Any] = []
    asked: dict[str, Any] = {"limit": limit}
    while True:
        one = page(models, place, **asked)
        found += one[key]
        if one["next_cursor"] is None:
            assert len(one[key]) <= limit
            return found
        assert len(one[key]) == limit
        asked["cursor"] = one["next_cursor"]
        between()


@pytest.mark.parametrize(("key", "place"), LISTS.items())
def test_pages_of_any_size_are_the_whole_list(
    models: Modelling, model: str, key: str, place: str
) -> None:
    place = place.format(model)
    every = page(models, place, limit=1_000)
    assert every["next_cursor"] is None
    assert len(every[key]) > 3 or key == "models"
    for limit in (1, 2, 3, len(every[key]), len(every[key]) + 1):
        if limit <= 1_000:
            assert followed(models, place, key, limit) == every[key]
    assert page(models, place)[key] == every[key][:50]


def test_what_comes_while_one_reads_neither_hides_nor_repeats_anything(models: Modelling) -> None:
    model = models.name()
    numbers = itertools.cycle((models.register(model), models.register(model)))
    for alias in ("b", "f", "h", "d"):
        models.promote(model, alias, next(numbers))
    for number in range(4):
        metrics = {"f1": number / 10}
        models.client.post(f"/v1/models/{model}/versions/1/evaluations", json={"metrics": metrics})
    aliases, evaluations = (LISTS[key].format(model) for key in ("aliases", "evaluations"))
    # One comes behind the cursor, one before it, and the one that it is called by moves.
    new = iter("ackgzvwy")

    def move() -> None:
        assert models.promote(model, next(new), 1).status_code == 200
        assert models.promote(model, "d", next(numbers)).status_code == 200

    names = [each["alias"] for each in followed(models, aliases, "aliases", 2, move)]
    assert names == sorted(set(names))
    assert {"b", "d", "f", "h"} <= {*names}

    def measure() -> None:
        assert models.client.post(evaluations, json={"metrics": {"f1": 1}}).status_code == 201

    seen = followed(models, evaluations, "evaluations", 1, measure)
    assert [each["metrics"]["f1"] for each in seen] == [0.3, 0.2, 0.1, 0.0]


@pytest.mark.parametrize("place", LISTS.values())
def test_a_page_that_nobody_can_give_is_400(models: Modelling, model: str, place: str) -> None:
    for limit in ("0", "1001", "", "x", "-1"):
        answer = models.client.get(place.format(model), params={"limit": limit})
        assert answer.status_code == 400, answer.text
        assert "from 1 to 1000" in answer.json()["detail"]
    for cursor in ("", "\0"):
        answer = models.client.get(place.format(model), params={"cursor": cursor})
        assert answer.status_code == 400, answer.text
        assert answer.json()["code"] == "cursor_invalid"


@pytest.mark.parametrize(
    ("key", "cursor"),
    [
        ("approvals", "prod"),
        ("evaluations", "ev_" + "0" * 32),
        ("moves", "x"),
        ("moves", "²"),
        ("moves", "-1"),
        ("moves", "9" * 5_000),
    ],
)
def test_a_cursor_of_nothing_is_400(models: Modelling, model: str, key: str, cursor: str) -> None:
    answer = models.client.get(LISTS[key].format(model), params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


def test_a_page_of_large_entries_is_short_and_has_a_next_one() -> None:
    found = [f"{number}{'ü' * 1_000_000}" for number in range(5)]

    def told(limit: int, *entries: str) -> tuple[int, str | None]:
        asked = paging.Asked(limit, None)
        answer = paging.answer(asked, "texts", entries, str, lambda each: each[0], beside="é")
        document = json.loads(bytes(answer.body))
        assert document["texts"] == [*entries[: len(document["texts"])]]
        assert document["beside"] == "é"
        return len(document["texts"]), document["next_cursor"]

    assert told(50, *found) == (2, "1")
    assert told(50, *found[:2]) == (2, None)
    assert told(1, *found[:2]) == (1, "0")
    assert told(50, "a" * 9_000_000, "b") == (1, "a")
    assert told(50) == (0, None)


def test_commands_that_print_a_whole_list_follow_its_pages(models: Modelling) -> None:
    lading = Commands(str(models.client.base_url))
    model = models.name()
    models.register(model)
    names = [f"a{number:04}" for number in range(1_050)]
    for start in range(0, len(names), 50):
        moves = [{"alias": each, "version": 1} for each in names[start : start + 50]]
        moved = models.client.post(f"/v1/models/{model}/aliases", json={"moves": moves})
        assert moved.status_code == 200, moved.text
    assert [each["alias"] for each in lading.json("alias", "list", model)["aliases"]] == names
    assert lading("promote", model, 1, names[-1]).err.endswith("nothing was moved\n")
    shown = models.client.get(f"/v1/models/{model}").json()["aliases"]
    assert shown == dict.fromkeys(names[:1_000], 1)
    # A page of evaluations ends near 4 MiB.
    metrics = {f"{each:0240}": float(each) for each in range(900)}
    place = f"/v1/models/{model}/versions/1/evaluations"
    for _ in range(25):
        assert models.client.post(place, json={"metrics": metrics}).status_code == 201
    assert len(models.client.get(place).json()["evaluations"]) < 25
    assert len(lading.json("versions", "show", model, 1)["evaluations"]) == 25

# Finding versions on the wire: parameters, pages, cursors, and rights.
from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlext import filters, pages
from mlext.errors import CursorInvalid, DocumentInvalid
from mlext.filters import Field, Kind
from mlext.pages import OF_ONE, Position, Query, SortKey, cursor, parse_cursor, parse_sort
from ociserver.refs import parse_name
from tests.access import guarded
from tests.mlext.models import Modelling
from tests.mlext.population import orders

RULES = """
[[rule]]
who = "robot:ci"
may = ["pull", "push", "register", "promote"]
on = "**"

[[rule]]
who = "user:bob"
may = "pull"
on = "open/**"
"""


def found(models: Modelling, place: str, **asked: Any) -> list[int]:
    answer = models.client.get(place, params=asked)
    assert answer.status_code == 200, answer.text
    return [each["version"] for each in answer.json()["versions"]]


@pytest.fixture(scope="module")
def model(models: Modelling) -> str:
    """A model of four versions."""
    name = models.name()
    models.register(name, metrics={"f1": 0.5}, tags={"team": "fraud"}, run_id="run-of-1")
    models.register(name, metrics={"f1": 0.9, "loss": 1}, tags={"team": "risk", "a b": "c:d"})
    models.register(name, params={"optimizer": "adam"}, framework="jax")
    models.register(name, metrics={"f1": 0.7}, lineage=[{"type": "dataset", "target": "clicks@1"}])
    assert models.promote(name, "staging", 2).status_code == 200
    models.client.post(f"/v1/models/{name}/versions/1/evaluations", json={"metrics": {"f1": 0.95}})
    return name


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [4, 3, 2, 1]),
        ({"sort": "version", "limit": 2}, [1, 2]),
        # As known last; the one without it is last either way.
        ({"sort": "-metrics.f1"}, [1, 2, 4, 3]),
        ({"sort": "metrics.f1"}, [4, 2, 1, 3]),
        ({"stage": "staging"}, [2]),
        ({"stage": "prod"}, []),
        ({"tag": "team:fraud"}, [1]),
        ({"tag": "team"}, [2, 1]),
        ({"tag": ["team", "a b:c:d"]}, [2]),
        ({"metric": "f1>0.6"}, [4, 2, 1]),
        ({"metric": ["f1 >= 0.7", "loss"]}, [2]),
        ({"run_id": "run-of-1"}, [1]),
        ({"created_after": "2020-01-01T00:00:00Z"}, [4, 3, 2, 1]),
        ({"created_before": "2020-01-01T00:00:00Z"}, []),
        ({"created_after": "2020-01-01", "created_before": "9999-12-31"}, [4, 3, 2, 1]),
        ({"filter": "created_at < '2020-01-01'"}, []),
        ({"filter": "metrics.f1 > 0.8 and tags.team = 'risk'"}, [2]),
        ({"filter": "lineage.dataset = 'clicks@1'"}, [4]),
        ({"filter": "framework = 'jax' or version = 1", "tag": "team"}, [1]),
        ({"filter": "not (metrics.f1 > 0)"}, [3]),
    ],
)
@pytest.mark.parametrize("door", ["/v1/models/{}/versions", "/v2/{}/_lading/versions"])
def test_versions_of_a_model_are_found(
    models: Modelling, model: str, door: str, asked: dict[str, Any], expected: list[int]
) -> None:
    assert found(models, door.format(model), **asked) == expected


def test_a_version_is_shown_as_it_is_with_what_is_known_now(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/versions"
    [shown] = models.client.get(place, params={"stage": "staging"}).json()["versions"]
    assert shown == {**models.client.get(f"{place}/2").json(), "aliases": ["staging"]}
    [evaluated] = models.client.get(place, params={"filter": "version = 1"}).json()["versions"]
    assert evaluated["metrics"] == {"f1": 0.95}
    assert evaluated["aliases"] == []


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        ({"colour": "red"}, "document_invalid", "known are: stage, tag, metric"),
        ({"limit": "0"}, "document_invalid", "1 to 1000"),
        ({"limit": "1001"}, "document_invalid", "1 to 1000"),
        ({"limit": "9" * 5000}, "document_invalid", "1 to 1000"),
        ({"limit": "x"}, "document_invalid", "1 to 1000"),
        ({"sort": "colour"}, "document_invalid", "colour"),
        ({"sort": ""}, "document_invalid", "sort"),
        ({"sort": "stage"}, "document_invalid", "stage"),
        ({"sort": "version,version"}, "document_invalid", "once"),
        ({"sort": ["version", "version"]}, "document_invalid", "once"),
        ({"filter": "metrics.f1 >"}, "filter_invalid", "line 1, column 13"),
        ({"filter": ""}, "filter_invalid", "column 1"),
        ({"tag": ":x"}, "document_invalid", "KEY:VALUE"),
        ({"tag": "a:\0"}, "document_invalid", "tag"),
        ({"metric": "f1>high"}, "document_invalid", "metric"),
        ({"metric": ""}, "document_invalid", "KEY"),
        ({"metric": "f1>1 or version=1"}, "document_invalid", "metric"),
        ({"metric": "f1>1 or stage is null"}, "document_invalid", "metric"),
        ({"limit": "00000000050"}, "document_invalid", "1 to 1000"),
        (
            {"created_after": "yesterday"},
            "document_invalid",
            "or 2026-11-25T04:00:00+01:00, nor a date, such as 2026-11-25",
        ),
        ({"tag": [f"t{n}" for n in range(33)]}, "filter_invalid", "32"),
        ({"cursor": "x"}, "cursor_invalid", "damaged"),
    ],
)
def test_what_is_asked_wrongly_is_400(
    models: Modelling, model: str, asked: dict[str, Any], code: str, reason: str
) -> None:
    for place in (f"/v1/models/{model}/versions", "/v1/versions"):
        answer = models.client.get(place, params=asked)
        assert answer.status_code == 400, answer.text
        assert answer.json()["code"] == code
        assert reason in answer.json()["detail"]


def test_a_filter_is_told_where_it_is_wrong(models: Modelling, model: str) -> None:
    answer = models.client.get(
        f"/v1/models/{model}/versions", params={"filter": "metrics.f1 > 0.8 and team = 'x'"}
    )
    assert answer.json()["data"]["column"] == 22
    assert answer.json()["data"]["context"] == f"metrics.f1 > 0.8 and team = 'x'\n{' ' * 21}^"


def test_a_model_without_versions_is_unknown(models: Modelling) -> None:
    assert models.client.get(f"/v1/models/{models.name()}/versions").status_code == 404


def test_pages_stand_still_while_versions_arrive(models: Modelling) -> None:
    model = models.name()
    place = f"/v1/models/{model}/versions"
    for number in range(7):
        models.register(model, metrics={"f1": number % 3} if number != 3 else {})
    asked: dict[str, Any] = {"sort": "-metrics.f1", "limit": 2}
    before = found(models, place, sort="-metrics.f1")
    seen: list[int] = []
    while True:
        page = models.client.get(place, params=asked).json()
        seen += [each["version"] for each in page["versions"]]
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
        models.register(model, metrics={"f1": 9})
        models.register(model)
    assert [each for each in seen if each <= 7] == before
    assert len(set(seen)) == len(seen)


def test_a_cursor_is_of_its_own_search(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/versions"
    asked: dict[str, Any] = {"limit": 1, "sort": "-metrics.f1", "filter": "version > 0"}
    cursor_ = models.client.get(place, params=asked).json()["next_cursor"]
    assert found(models, place, **{**asked, "cursor": cursor_, "limit": 3}) == [2, 4, 3]
    for change in ({"sort": "metrics.f1"}, {"filter": "version > 1"}, {"tag": "team"}):
        answer = models.client.get(place, params={**asked, **change, "cursor": cursor_})
        assert answer.status_code == 400
        assert answer.json()["code"] == "cursor_invalid"
    elsewhere = models.client.get("/v1/versions", params={**asked, "cursor": cursor_})
    assert elsewhere.status_code == 400


def test_a_cursor_that_was_tampered_with_is_no_fault_of_ours(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/versions"
    asked: dict[str, Any] = {"limit": 1, "sort": "-metrics.f1,params.lr,tags.a"}
    given_ = models.client.get(place, params=asked).json()["next_cursor"]
    said = json.loads(base64.urlsafe_b64decode(given_ + "=" * (-len(given_) % 4)))
    changes: tuple[dict[str, Any], ...] = (
        {"n": -1},
        {"n": 2**40},
        {"n": True},
        {"n": "1"},
        {"m": "../x"},
        {"m": None},
        {"m": "other"},
        {"q": "0"},
        {"s": []},
        {"s": ["x", None, None, None]},
        {"s": [float("inf"), None, None, None]},
        {"s": [10**400, None, None, None]},
        {"s": [0.5, None, "\ud800", None]},
        {"s": [0.5, None, "\0", None]},
        {"s": {"a": 1}},
        {"more": 1},
    )
    for change in changes:
        text = base64.urlsafe_b64encode(json.dumps({**said, **change}).encode()).decode()
        answer = models.client.get(place, params={**asked, "cursor": text})
        assert answer.status_code == 400, change
        assert answer.json()["code"] == "cursor_invalid"


def test_versions_of_all_models_are_found(models: Modelling) -> None:
    mark = models.name().partition("/")[2]
    names = sorted(models.name() for _ in range(3))
    for name in names:
        for number in range(2):
            models.register(name, tags={"mark": mark}, metrics={"f1": number})

    def keys(**asked: Any) -> list[tuple[str, int]]:
        answer = models.client.get("/v1/versions", params={"tag": f"mark:{mark}", **asked})
        assert answer.status_code == 200, answer.text
        return [(each["model"], each["version"]) for each in answer.json()["versions"]]

    assert keys() == [(name, number) for name in names for number in (2, 1)]
    assert {number for _, number in keys(sort="-metrics.f1")[:3]} == {2}
    assert keys(filter=f"model = '{names[1]}'", sort="version") == [(names[1], 1), (names[1], 2)]


def test_nobody_finds_what_they_may_not_pull(tmp_path: Path) -> None:
    with guarded(tmp_path) as served, served.client() as client:
        served.change_rules(RULES)
        client.auth = served.basic("ci")
        models = Modelling(client)
        for name in ("hidden/first", "open/one", "hidden/last", "open/two"):
            models.register(name, metrics={"f1": 0.5})
            models.register(name, metrics={"f1": 0.9})

        def asked(**parameters: Any) -> dict[str, Any]:
            answer = httpx.get(
                f"{served.url}/v1/versions", params=parameters, auth=served.basic("bob")
            )
            assert answer.status_code == 200, answer.text
            shown: dict[str, Any] = answer.json()
            return shown

        page = asked(sort="-metrics.f1", limit=2)
        assert {each["model"] for each in page["versions"]} == {"open/one", "open/two"}
        assert len(page["versions"]) == 2
        rest = asked(sort="-metrics.f1", limit=2, cursor=page["next_cursor"])
        assert {each["model"] for each in rest["versions"]} == {"open/one", "open/two"}
        assert rest["next_cursor"] is None
        # That there is another which matches is not told either.
        oracle = asked(filter="model = 'open/two' and version = 2 or model = 'hidden/last'",
                       sort="-model", limit=1)  # fmt: skip
        assert [each["model"] for each in oracle["versions"]] == ["open/two"]
        assert oracle["next_cursor"] is None
        assert asked(filter="model = 'hidden/last'")["versions"] == []
        whole = client.get("/v1/versions", params={"limit": 8}).json()
        assert len({each["model"] for each in whole["versions"]}) == 4
        of_one = httpx.get(f"{served.url}/v1/models/hidden/last/versions", auth=served.basic("bob"))
        assert of_one.status_code in (403, 404)


# -- orders and cursors, apart from any server

MODEL = parse_name("a/b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "-metrics.f1, created_at",
            (
                SortKey(Field(Kind.METRIC, "f1"), descending=True),
                SortKey(Field(Kind.ATTRIBUTE, "created_at")),
            ),
        ),
        ("tags.`a,b`", (SortKey(Field(Kind.TAG, "a,b")),)),
        ('-params."a""b"', (SortKey(Field(Kind.PARAM, 'a"b'), descending=True),)),
    ],
)
def test_an_order_is_read(text: str, expected: tuple[SortKey, ...]) -> None:
    assert parse_sort(text) == expected


@given(st.text(max_size=40) | st.text(alphabet="-,.`\"'()metrics ", max_size=40))
@settings(deadline=None)
def test_any_text_is_an_order_or_refused(text: str) -> None:
    with suppress(DocumentInvalid):
        assert parse_sort(text)


@given(st.text() | st.binary(max_size=200).map(lambda each: base64.b64encode(each).decode()))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    query = Query(model=MODEL, where=None, order=OF_ONE)
    with pytest.raises(CursorInvalid):
        parse_cursor(query, text)


@given(orders, st.data())
def test_a_cursor_says_where_a_page_ended(order: tuple[SortKey, ...], data: st.DataObject) -> None:
    where = filters.parse("metrics.f1 > 0")
    query = Query(model=None, where=where, order=order)
    values: list[st.SearchStrategy[Any]] = []
    for kind in pages.columns(order):
        value: Any = {
            float: st.floats(allow_nan=False, allow_infinity=False),
            int: st.integers(0, 2**31 - 1),
            str: st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        }[kind.of]
        values.append(st.none() | value if kind.lacking else value)
    position = Position(tuple(data.draw(each) for each in values), MODEL, 7)
    assert parse_cursor(query, cursor(query, position)) == position
    other = Query(model=MODEL, where=where, order=order)
    with pytest.raises(CursorInvalid):
        parse_cursor(other, cursor(query, position))

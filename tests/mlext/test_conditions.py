# Conditions: a call that changes something compares them or refuses, by every door.
from __future__ import annotations

import re
from itertools import product

import pytest

from tests.mlext.models import Modelling
from tests.mlext.test_lists import DOORS, documented
from tests.table import table

CONDITIONS = {
    "If-Match": '"1.1"',
    "If-None-Match": "*",
    "If-Unmodified-Since": "Wed, 25 Nov 2026 03:00:00 GMT",
}
COMPARED = {("alias", "PUT", "If-Match"), ("alias", "PUT", "If-None-Match")}
REFUSED = [
    (route.path, method, condition)
    for route in table()
    for method in sorted({*route.endpoint.doors} - {"GET", "HEAD"})  # type: ignore[attr-defined]
    for condition in CONDITIONS
    if route.path.startswith("/v1/") or "/_lading" in route.path
    if (route.endpoint.label, method, condition) not in COMPARED  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(("path", "method", "condition"), REFUSED)
def test_what_is_not_compared_is_refused(
    models: Modelling, path: str, method: str, condition: str
) -> None:
    place = re.sub(r"{.*?}", "1", path)
    headers = {condition: CONDITIONS[condition]}
    refused = models.client.request(method, place, headers=headers, json={})
    assert refused.status_code == 400, refused.text
    assert f"{condition} is not compared" in refused.text
    if path.startswith("/v1/"):
        assert refused.json()["code"] == "condition_refused"


def test_several_moves_say_each_what_they_expect(models: Modelling) -> None:
    model = models.name()
    models.register(model)
    etag = models.promote(model, "blue", 1).headers["etag"]
    models.register(model)
    document = {"moves": [{"alias": "blue", "version": 2}]}
    place = f"/v1/models/{model}/aliases"
    refused = models.client.post(place, json=document, headers={"If-Match": etag})
    assert refused.status_code == 400
    assert "expected_version" in refused.json()["detail"]
    assert models.client.get(f"{place}/blue").json()["version"] == 1


def test_a_read_goes_on_as_it_did(models: Modelling) -> None:
    model = models.name()
    models.register(model)
    since = {"If-Unmodified-Since": CONDITIONS["If-Unmodified-Since"]}
    assert models.client.get(f"/v1/models/{model}", headers=since).status_code == 200
    # Of a write it says nothing (RFC 9110, 13.1.3).
    modified = {"If-Modified-Since": CONDITIONS["If-Unmodified-Since"]}
    described = models.client.patch(f"/v1/models/{model}", json={"owner": "a"}, headers=modified)
    assert described.status_code == 200


def test_what_is_compared_is_in_the_document() -> None:
    compared = {
        ((path, method), condition)
        for (path, method), condition in product(DOORS, CONDITIONS)
        if method not in {"get", "head"} and condition in documented(path, method, "header")
    }
    doors = ["/v1/models/{name}/aliases/{alias}", "/v2/{name}/_lading/aliases/{alias}"]
    assert compared == {
        ((door, method.lower()), condition) for door in doors for _, method, condition in COMPARED
    }

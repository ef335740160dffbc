"""The token endpoint over the wire: what it gives, to whom, and for what it is shown."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.serving import push_blob
from tests.wire.build import image, put_manifest
from tests.wire.raw import eventually

PULL_PUSH = "repository:team/a:pull,push"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("tokens")) as served:
        with served.client() as client:
            client.auth = served.basic("ann")
            push_blob(client, "team/a", b"config")
            put_manifest(client, "team/a", "v1", image(b"config"))
        yield served


@pytest.fixture
def client(registry: Guarded) -> Iterator[httpx.Client]:
    with registry.client() as made:
        yield made


def test_a_token_comes_in_both_names_with_its_times(
    registry: Guarded, client: httpx.Client
) -> None:
    answer = client.get("/token", params={"scope": PULL_PUSH}, auth=registry.basic("ann"))
    found = answer.json()
    assert found["token"] == found["access_token"]
    assert found["expires_in"] >= 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["issued_at"])
    assert "refresh_token" not in found
    assert answer.headers["cache-control"] == "no-store"


def test_oauth_by_password_and_by_refresh_token_that_turns(
    registry: Guarded, client: httpx.Client
) -> None:
    form = {"grant_type": "password", "service": "lading", "client_id": "test"}
    mine = {"username": "ann", "password": registry.secrets["ann"], "scope": PULL_PUSH}
    first = client.post("/token", data={**form, **mine, "access_type": "offline"}).json()
    assert first["scope"] == "repository:team/a:pull,push"
    assert first["token_type"] == "Bearer"
    refreshing = {"grant_type": "refresh_token", "service": "lading", "scope": PULL_PUSH}
    shown = {**refreshing, "refresh_token": first["refresh_token"]}
    # As docker does: the same again and again.
    for _ in range(2):
        again = client.post("/token", data=shown).json()
        assert "refresh_token" not in again
        headers = {"Authorization": f"Bearer {again['access_token']}"}
        assert client.get("/v2/team/a/tags/list", headers=headers).status_code == 200
    turned = client.post("/token", data={**shown, "access_type": "offline"}).json()
    assert turned["refresh_token"] != first["refresh_token"]
    # Whoever comes second with it has a token by it, and nothing that lasts.
    late = client.post("/token", data={**shown, "access_type": "offline"}).json()
    assert late["access_token"]
    assert "refresh_token" not in late
    following = {**refreshing, "refresh_token": turned["refresh_token"]}
    assert client.post("/token", data=following).status_code == 200
    for bad in ("", "x", "x" * 500):
        assert client.post("/token", data={**refreshing, "refresh_token": bad}).status_code == 401


def test_a_refresh_token_that_was_replaced_long_ago_ends_its_family(
    registry: Guarded, client: httpx.Client
) -> None:
    asked = {"scope": PULL_PUSH, "offline_token": "true"}
    first = client.get("/token", params=asked, auth=registry.basic("ann")).json()["refresh_token"]
    turning = {"grant_type": "refresh_token", "access_type": "offline"}
    second = client.post("/token", data={**turning, "refresh_token": first}).json()["refresh_token"]
    with sqlite3.connect(registry.data / "catalog.db") as database:
        database.execute("UPDATE refresh_token SET replaced_at = replaced_at - 3600")
    database.close()
    assert client.post("/token", data={**turning, "refresh_token": first}).status_code == 401
    assert client.post("/token", data={**turning, "refresh_token": second}).status_code == 401

    assert ("lading", "end-login", "user:ann", "done") in registry.events()
    failed = ("unknown", "login", "127.0.0.1", "failed")
    eventually(lambda: failed in registry.events())


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 400),
        ({"grant_type": "magic"}, 400),
        ({"grant_type": "password"}, 401),
        ({"grant_type": "password", "username": "ann", "password": "no"}, 401),
        ({"grant_type": "password", "username": "nobody", "password": "no"}, 401),
        ({"grant_type": "password", "username": "\x00", "password": "\udcff"}, 401),
    ],
)
def test_a_form_that_gives_nothing(client: httpx.Client, form: dict[str, str], status: int) -> None:
    body = httpx.QueryParams({k: v.encode("utf-8", "replace").decode() for k, v in form.items()})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/token", content=str(body), headers=headers).status_code == status


def test_a_form_must_be_one_and_is_bounded(client: httpx.Client) -> None:
    assert client.post("/token", json={"grant_type": "password"}).status_code == 400
    assert client.post("/token", data={"x": "y" * 100_000}).status_code == 413
    many = "&".join(f"a{number}=1" for number in range(1000))
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/token", content=many, headers=headers).status_code == 400


def test_the_keys_are_shown_without_their_secret_half(client: httpx.Client) -> None:
    [key] = client.get("/.well-known/jwks.json").json()["keys"]
    assert key["alg"] == "ES256"
    assert key["kid"]
    assert "d" not in key


# -- what changes while it runs

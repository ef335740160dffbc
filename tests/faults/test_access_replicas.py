"""Two replicas with rules on one PostgreSQL: who is let in by one is let in by the other, a key
and a refresh token are everyone's, and a rule file is its replica's alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest

from ociserver import access
from ociserver.storage.postgres import migrate
from tests.access import RULES, Guarded, run
from tests.postgres import PostgresServer
from tests.serving import digest_of, push_blob
from tests.wire.build import image, put_manifest
from tests.wire.raw import eventually

Pair = tuple[Guarded, Guarded]
SCOPE = "repository:team/a:pull"
PATH = "/v2/team/a/manifests/v1"
# 100 ms are promised; the rest is what a busy machine adds.
PROMISED_SECONDS = 2.0


@pytest.fixture(scope="module")
def pair(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url, data = postgres.new_database(), tmp_path_factory.mktemp("replicas")
    asyncio.run(migrate(url))
    options = ("--catalog", url, "--blobs", f"file:///{data}/shared")
    first, second = Guarded(data / "one", options), Guarded(data / "two", options)
    try:
        second.join(first.admit())
        with first.client() as client:
            client.auth = first.basic("ann")
            push_blob(client, "team/a", b"config")
            put_manifest(client, "team/a", "v1", image(b"config"))
        yield first, second
    finally:
        for each in (first, second):
            each.stop()


def statuses(pair: Pair, **how: object) -> set[int]:
    """What both answer to a pull by one who says so who they are."""
    found = set()
    for each in pair:
        with each.client() as client:
            found.add(client.get(PATH, **how).status_code)  # type: ignore[arg-type]
    return found


def test_who_is_added_is_let_in_by_both_and_who_is_disabled_by_neither(pair: Pair) -> None:
    catalog = pair[0].catalog
    rules = RULES.replace('"robot:ci"', '"robot:ci", "robot:eve"')
    for each in pair:
        each.change_rules(rules)
    try:
        secret = pair[0].secrets["eve"] = run("robot", "add", "eve", catalog=catalog)
        eve = httpx.BasicAuth("eve", secret)
        assert statuses(pair, auth=eve) == {200}
        # Each has one of its own and takes the other's; by now both remember all three.
        bearers = [each.bearer("eve", SCOPE) for each in pair]
        for headers in bearers:
            assert statuses(pair, headers=headers) == {200}
        run("robot", "disable", "eve", catalog=catalog)
        began = time.monotonic()
        for how in ({"auth": eve}, *({"headers": headers} for headers in bearers)):
            eventually(lambda how=how: statuses(pair, **how) == {401})  # type: ignore[misc]
        assert time.monotonic() - began < PROMISED_SECONDS
        for each in pair:
            with each.client() as client:
                assert client.get("/token", auth=eve).status_code == 401
    finally:
        for each in pair:
            each.change_rules(RULES)


def rotate(pair: Pair, *options: str) -> None:
    assert access.key(["rotate", *options, "--catalog", pair[0].catalog]) == 0


def key_of(headers: dict[str, str]) -> str:
    """Return which key signed the token."""
    token = headers["Authorization"].removeprefix("Bearer ")
    return str(jwt.get_unverified_header(token)["kid"])


def test_a_new_key_signs_on_both_and_what_the_old_one_signed_stays_good(pair: Pair) -> None:
    before = [each.bearer("bob", SCOPE) for each in pair]
    rotate(pair)
    signer, other = pair

    def fresh() -> dict[str, str] | None:
        headers = signer.bearer("bob", SCOPE)
        return headers if key_of(headers) not in map(key_of, before) else None

    new = eventually(fresh, PROMISED_SECONDS)
    # The other may not have heard of the key: the token that it cannot judge has it look.
    with other.client() as client:
        assert client.get(PATH, headers=new).status_code == 200
        shown = client.get("/.well-known/jwks.json").json()["keys"]
    assert {key_of(new), *map(key_of, before)} <= {key["kid"] for key in shown}
    for headers in (*before, new):
        assert statuses(pair, headers=headers) == {200}
    eventually(lambda: key_of(other.bearer("bob", SCOPE)) == key_of(new), PROMISED_SECONDS)


def test_what_a_revoked_key_signed_is_taken_by_neither(pair: Pair) -> None:
    old = [each.bearer("bob", SCOPE) for each in pair]
    for headers in old:
        assert statuses(pair, headers=headers) == {200}
    rotate(pair, "--revoke")
    began = time.monotonic()
    for headers in old:
        eventually(lambda headers=headers: statuses(pair, headers=headers) == {401})  # type: ignore[misc]
    assert time.monotonic() - began < PROMISED_SECONDS
    for each in pair:
        eventually(lambda each=each: statuses(pair, headers=each.bearer("bob", SCOPE)) == {200})  # type: ignore[misc]


def test_of_many_who_show_a_refresh_token_at_once_one_is_given_the_next(pair: Pair) -> None:
    with pair[0].client() as client:
        asked = {"scope": SCOPE, "offline_token": "true"}
        given = client.get("/token", params=asked, auth=pair[0].basic("bob")).json()
    form = {
        "grant_type": "refresh_token",
        "refresh_token": given["refresh_token"],
        "access_type": "offline",
        "scope": SCOPE,
    }

    def show(number: int) -> dict[str, str]:
        with pair[number % 2].client() as client:
            answer = client.post("/token", data=form)
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(show, range(8)))
    for each in answers:
        headers = {"Authorization": f"Bearer {each['access_token']}"}
        assert statuses(pair, headers=headers) == {200}
    [following] = [each["refresh_token"] for each in answers if "refresh_token" in each]
    with pair[1].client() as client:
        assert client.post("/token", data={**form, "refresh_token": following}).status_code == 200


def test_a_rule_file_is_its_replica_s_alone(pair: Pair) -> None:
    first, second = pair
    bob = first.bearer("bob", SCOPE)
    assert statuses(pair, headers=bob) == {200}
    first.change_rules(RULES.replace("user:bob", "user:nobody"))
    try:
        time.sleep(0.5)
        with first.client() as one, second.client() as two:
            assert one.get(PATH, headers=bob).status_code == 404
            assert two.get(PATH, headers=bob).status_code == 200
    finally:
        first.change_rules(RULES)
    assert statuses(pair, headers=bob) == {200}


def test_what_may_not_be_known_is_refused_before_anything_is_looked_up(
    pair: Pair, postgres: PostgresServer
) -> None:
    # It takes as long for what is there as for what is not: nobody has asked which it is.
    first = pair[0]
    digest = digest_of(b"config")
    places = ("manifests/v1", f"manifests/{digest}", f"blobs/{digest}", "tags/list",
              f"referrers/{digest}")  # fmt: skip
    stranger = first.bearer(None)
    with first.client() as client, postgres.hanging():
        client.headers.update(stranger)
        client.timeout = httpx.Timeout(5)
        for place in places:
            there = client.get(f"/v2/team/a/{place}")
            absent = client.get(f"/v2/team/b/{place}")
            assert (there.status_code, absent.status_code) == (401, 401)
            assert len(there.content) == len(absent.content)
        mount = f"/v2/team/a/blobs/uploads/?mount={digest}&from=team/a"
        assert client.post(mount).status_code == 401


def test_both_write_to_one_audit(pair: Pair, postgres: PostgresServer) -> None:
    names = ("stranger-one", "stranger-two")
    for name, each in zip(names, pair, strict=True):
        with each.client() as client:
            assert client.get("/token", auth=httpx.BasicAuth(name, "guess")).status_code == 401
    database = pair[0].catalog.rpartition("/")[2]

    def recorded() -> list[object]:
        rows = postgres.rows(
            "SELECT actor, outcome FROM audit_event WHERE action = 'login' ORDER BY number",
            database,
        )
        return [actor for actor, outcome in rows if actor in names and outcome == "failed"]

    eventually(lambda: sorted(map(str, recorded())) == list(names))

"""Rules, logins and tokens over the wire: who gets in, who does not, and what they are told."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access import RULES, Guarded, guarded, run
from tests.serving import digest_of, push_blob
from tests.wire.build import image, put_manifest
from tests.wire.raw import eventually

PULL_PUSH = "repository:team/a:pull,push"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as served:
        with served.client() as client:
            client.headers.update(served.bearer("ann", PULL_PUSH, "repository:public/a:pull,push"))
            push_image(client, "team/a")
            push_image(client, "public/a")
        yield served


@pytest.fixture
def client(registry: Guarded) -> Iterator[httpx.Client]:
    with registry.client() as made:
        yield made


def push_image(client: httpx.Client, repository: str) -> None:
    config = b"config of " + repository.encode()
    push_blob(client, repository, config)
    put_manifest(client, repository, "v1", image(config))


def code(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def test_who_says_nothing_is_asked_for_a_token(registry: Guarded, client: httpx.Client) -> None:
    answer = client.get("/v2/")
    assert (answer.status_code, code(answer)) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == (
        f'Bearer realm="{registry.url}/token",service="lading"'
    )
    for method, path, actions in (
        ("GET", "manifests/v1", "pull,push"),
        ("HEAD", f"blobs/{digest_of(b'')}", "pull,push"),
        ("POST", "blobs/uploads/", "pull,push"),
        ("DELETE", "manifests/v1", "pull,push,delete"),
    ):
        answer = client.request(method, f"/v2/team/a/{path}")
        assert answer.status_code == 401
        assert f'scope="repository:team/a:{actions}"' in answer.headers["www-authenticate"]


def test_a_token_opens_what_it_was_asked_for_and_the_rules_grant(
    registry: Guarded, client: httpx.Client
) -> None:
    client.headers.update(registry.bearer("ann", PULL_PUSH))
    assert client.get("/v2/").status_code == 200
    assert client.get("/v2/team/a/manifests/v1").status_code == 200
    assert client.get("/v2/team/a/tags/list").json()["tags"] == ["v1"]
    assert client.post("/v2/team/a/blobs/uploads/").status_code == 202
    # The rules would let her; the token was not asked for it.
    for method, path in (("GET", "/v2/team/b/tags/list"), ("DELETE", "/v2/team/a/manifests/v1")):
        answer = client.request(method, path)
        assert (answer.status_code, code(answer)) == (401, "UNAUTHORIZED")
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_a_manifest_at_hand_is_given_to_nobody_else(
    registry: Guarded, client: httpx.Client
) -> None:
    path = "/v2/team/a/manifests/v1"
    ann = registry.bearer("ann", PULL_PUSH)
    for _ in range(3):
        assert client.get(path, headers=ann).status_code == 200
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer x"}).status_code == 401
    other = registry.bearer("ann", "repository:public/a:pull")
    for _ in range(2):
        assert client.get(path, headers=other).status_code == 401
    both = [("Authorization", ann["Authorization"]), ("Authorization", "Bearer x")]
    assert client.get(path, headers=both).status_code == 401


def test_who_may_pull_and_not_push_is_told_so(registry: Guarded, client: httpx.Client) -> None:
    client.headers.update(registry.bearer("bob", PULL_PUSH))
    assert client.get("/v2/team/a/manifests/v1").status_code == 200
    answer = client.post("/v2/team/a/blobs/uploads/")
    assert (answer.status_code, code(answer)) == (403, "DENIED")
    assert "user:bob" in answer.json()["errors"][0]["message"]


def test_what_is_forbidden_and_what_is_not_there_look_the_same(
    registry: Guarded, client: httpx.Client
) -> None:
    with registry.client() as ann:
        ann.headers.update(registry.bearer("ann", PULL_PUSH))
        blob = push_blob(ann, "team/a", b"config of team/a")
    rules = RULES + '[[rule]]\nwho = "user:bob"\nmay = ["pull", "push"]\non = "bob/**"\n'
    with in_force(registry, rules):
        scopes = [f"repository:{name}:pull,push" for name in ("secret/a", "team/a", "bob/x")]
        for headers in (registry.bearer(None, *scopes), {}):
            answers = [
                client.get(f"/v2/{name}/{path}", headers=headers)
                for name in ("team/a", "team/none")
                for path in ("manifests/v1", f"blobs/{blob}", "tags/list", f"referrers/{blob}")
            ]
            assert {each.status_code for each in answers} == {401}
        bob = registry.bearer("bob", *scopes)
        answer = client.get("/v2/secret/a/manifests/v1", headers=bob)
        assert (answer.status_code, code(answer)) == (404, "NAME_UNKNOWN")


def test_who_logged_in_cannot_tell_a_forbidden_repository_from_none(
    registry: Guarded, client: httpx.Client
) -> None:
    config = digest_of(b"config of team/a")
    manifest = digest_of(image(b"config of team/a"))
    doors = [
        ("GET", "manifests/v1"),
        ("HEAD", "manifests/v1"),
        ("GET", f"manifests/{manifest}"),
        ("DELETE", f"manifests/{manifest}"),
        ("PUT", "manifests/v1"),
        ("GET", f"blobs/{config}"),
        ("HEAD", f"blobs/{config}"),
        ("DELETE", f"blobs/{config}"),
        ("GET", "tags/list"),
        ("GET", f"referrers/{config}"),
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?mount={config}&from=public/a"),
    ]

    def told(name: str, method: str, path: str) -> tuple[int, list[str], str]:
        headers = {"range": "bytes=0-3", "if-none-match": "*"}
        answer = client.request(method, f"/v2/{name}/{path}", headers=headers)
        return answer.status_code, sorted(answer.headers), answer.text.replace(name, "NAME")

    with in_force(registry, RULES.replace('who = "user:bob"', 'who = "user:eve"')):
        scopes = [f"repository:team/{name}:pull,push,delete" for name in ("a", "z")]
        basic = base64.b64encode(f"bob:{registry.secrets['bob']}".encode()).decode()
        for shown in (registry.bearer("bob", *scopes)["Authorization"], f"Basic {basic}"):
            client.headers["Authorization"] = shown
            for method, path in doors:
                forbidden, absent = (told(name, method, path) for name in ("team/a", "team/z"))
                assert forbidden == absent
                assert forbidden[0] == 404
    with registry.client() as ann:
        ann.headers.update(registry.bearer("ann", PULL_PUSH))
        assert ann.get(f"/v2/team/a/manifests/{manifest}").status_code == 200


def test_a_blob_one_may_not_read_is_not_to_be_had_by_mounting_it(
    registry: Guarded, client: httpx.Client
) -> None:
    rules = RULES + '[[rule]]\nwho = "user:bob"\nmay = ["pull", "push"]\non = "bob/**"\n'
    rules = rules.replace(
        'who = "user:bob"\nmay = "pull"\non = "team/**"',
        'who = "user:bob"\nmay = "pull"\non = "no"',
    )
    secret = digest_of(b"config of team/a")
    absent = digest_of(b"nobody has this")
    with in_force(registry, rules):
        bob = registry.bearer("bob", "repository:bob/x:pull,push", "repository:team/a:pull")
        for source in ("&from=team/a", "&from=team/none", ""):
            for digest in (secret, absent):
                answer = client.post(
                    f"/v2/bob/x/blobs/uploads/?mount={digest}{source}", headers=bob
                )
                assert answer.status_code == 202
        assert client.get(f"/v2/bob/x/blobs/{secret}", headers=bob).status_code == 404
        # What anyone may pull is mounted, named or not.
        public = digest_of(b"config of public/a")
        for source in ("&from=public/a", ""):
            bob = registry.bearer("bob", "repository:bob/x:pull,push", "repository:public/a:pull")
            answer = client.post(f"/v2/bob/x/blobs/uploads/?mount={public}{source}", headers=bob)
            assert answer.status_code == 201


def test_a_mount_asks_for_a_token_that_is_good_at_its_source_too(
    registry: Guarded, client: httpx.Client
) -> None:
    digest = digest_of(b"config of public/a")
    path = f"/v2/team/m/blobs/uploads/?mount={digest}"
    mounts = [("&from=public/a", "public/a:pull"), ("", "*:mount"), ("&from=", "*:mount")]
    for source, needed in mounts:
        scope = f"repository:team/m:pull,push repository:{needed}"
        answer = client.post(path + source)
        assert answer.status_code == 401
        assert f'scope="{scope}"' in answer.headers["www-authenticate"]
        # In one parameter, as it came.
        ann = registry.bearer("ann", scope)
        assert client.post(path + source, headers=ann).status_code == 201
    other = f"/v2/team/n/blobs/uploads/?mount={digest}"
    narrow = registry.bearer("ann", "repository:team/n:pull,push")
    answer = client.post(f"{other}&from=public/a", headers=narrow)
    assert answer.status_code == 401
    told = answer.headers["www-authenticate"]
    assert "repository:public/a:pull" in told
    assert 'error="insufficient_scope"' in told
    # Without a source there is nothing to ask for, and where no rule lets them pull, nothing to
    # be had: the blob goes up instead.
    for source in ("", "&from=secret/a"):
        assert client.post(other + source, headers=narrow).status_code == 202
    assert client.post(f"{other}&from=Bad", headers=narrow).status_code == 400
    # It opens no other door.
    anywhere = registry.bearer("ann", "repository:*:mount", "repository:team/n:pull,push")
    assert client.get("/v2/team/a/tags/list", headers=anywhere).status_code == 401
    secret = digest_of(b"nobody has this")
    answer = client.post(f"/v2/team/n/blobs/uploads/?mount={secret}", headers=anywhere)
    assert answer.status_code == 202


def test_lists_show_what_one_may_pull(registry: Guarded, client: httpx.Client) -> None:
    def listed(headers: dict[str, str]) -> list[str]:
        found: list[str] = client.get("/v2/_catalog", headers=headers).json()["repositories"]
        return found

    assert listed(registry.bearer("ann")) == ["public/a", "team/a"]
    assert listed(registry.bearer(None)) == ["public/a"]
    assert client.get("/v2/_catalog").status_code == 401


def test_whoever_reaches_the_address_may_pull_what_anyone_may(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.get("/v2/public/a/manifests/v1").status_code == 200
    assert client.post("/v2/public/a/blobs/uploads/").status_code == 401


def test_basic_is_taken_in_any_case(registry: Guarded, client: httpx.Client) -> None:
    for _ in range(2):
        answer = client.get("/v2/team/a/manifests/v1", auth=registry.basic("ci"))
        assert answer.status_code == 200
    wrong = client.get("/v2/team/a/manifests/v1", auth=httpx.BasicAuth("ci", "wrong"))
    assert (wrong.status_code, code(wrong)) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic ???", "Basic YQ==", "Digest x", "Bearer", "Bearer a.b.c", "Basic /w==", "x"],
)
def test_a_header_that_cannot_be_read_is_refused(client: httpx.Client, header: str) -> None:
    for path in ("/v2/", "/v2/public/a/manifests/v1", "/token"):
        answer = client.get(path, headers={"Authorization": header})
        assert (answer.status_code, code(answer)) == (401, "UNAUTHORIZED")
        assert "www-authenticate" in answer.headers


# -- the token endpoint


class in_force:  # noqa: N801 - reads as a statement
    """Other rules, for a while."""

    def __init__(self, registry: Guarded, rules: str) -> None:
        self.registry, self.rules = registry, rules

    def __enter__(self) -> None:
        self.registry.change_rules(self.rules)

    def __exit__(self, *_: object) -> None:
        self.registry.change_rules(RULES)


def test_a_rule_that_is_taken_away_is_gone_at_once(registry: Guarded, client: httpx.Client) -> None:
    client.headers.update(registry.bearer("bob", "repository:team/a:pull"))
    path = "/v2/team/a/manifests/v1"
    assert client.get(path).status_code == 200
    with in_force(registry, RULES.replace('who = "user:bob"', 'who = "user:eve"')):
        assert client.get(path).status_code == 404
    assert client.get(path).status_code == 200


def test_rules_that_cannot_be_used_change_nothing(registry: Guarded, client: httpx.Client) -> None:
    client.headers.update(registry.bearer("bob", "repository:team/a:pull"))
    registry.rules_file.write_text("[[rule]]\nwho = 'nobody'\n")
    try:
        eventually(lambda: "the last good ones stay in force" in registry.log)
        assert client.get("/v2/team/a/manifests/v1").status_code == 200
        registry.rules_file.unlink()
        time.sleep(0.3)
        assert client.get("/v2/team/a/manifests/v1").status_code == 200
        # Nobody writes to it: whoever reads it waits.
        os.mkfifo(registry.rules_file)
        eventually(lambda: "is no regular file" in registry.log)
        assert client.get("/v2/team/a/manifests/v1").status_code == 200
    finally:
        registry.rules_file.unlink(missing_ok=True)
        registry.rules_file.write_text(RULES)


def test_who_is_disabled_is_out_with_token_and_secret(
    registry: Guarded, client: httpx.Client
) -> None:
    catalog = registry.catalog
    registry.secrets["eve"] = run("robot", "add", "eve", catalog=catalog)
    rules = RULES.replace('"robot:ci"', '"robot:eve"')
    path = "/v2/team/a/manifests/v1"
    with in_force(registry, rules):
        asked = {"scope": PULL_PUSH, "offline_token": "true"}
        given = client.get("/token", params=asked, auth=registry.basic("eve")).json()
        headers = {"Authorization": f"Bearer {given['token']}"}
        for _ in range(2):
            assert client.get(path, headers=headers).status_code == 200
            assert client.get(path, auth=registry.basic("eve")).status_code == 200
        run("robot", "disable", "eve", catalog=catalog)
        eventually(lambda: client.get(path, headers=headers).status_code == 401, 2)
        assert client.get(path, auth=registry.basic("eve")).status_code == 401
        refreshing = {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]}
        assert client.post("/token", data=refreshing).status_code == 401
        run("robot", "enable", "eve", catalog=catalog)
        time.sleep(0.3)
        assert client.get(path, headers=headers).status_code == 401
        assert client.post("/token", data=refreshing).status_code == 401
        eventually(lambda: client.get(path, auth=registry.basic("eve")).status_code == 200, 2)


def test_a_secret_that_is_replaced_is_good_for_as_long_as_was_said(
    registry: Guarded, client: httpx.Client
) -> None:
    catalog = registry.catalog
    old = registry.secrets["kim"] = run("robot", "add", "kim", catalog=catalog)
    rules = RULES.replace('"robot:ci"', '"robot:kim"')

    def status(secret: str) -> int:
        answer = client.get("/v2/team/a/tags/list", auth=httpx.BasicAuth("kim", secret))
        return answer.status_code

    with in_force(registry, rules):
        assert status(old) == 200
        new = run("robot", "rotate", "kim", "--keep", "1h", catalog=catalog)
        assert (status(old), status(new)) == (200, 200)
        newest = run("robot", "rotate", "kim", catalog=catalog)
        eventually(lambda: status(new) == 401, 2)
        assert (status(old), status(newest)) == (401, 200)


def test_what_is_no_name_is_not_asked_about(registry: Guarded, client: httpx.Client) -> None:
    rules = RULES + '[[rule]]\nwho = "anyone"\nmay = "pull"\non = "*-*-*-*-model"\n'
    with in_force(registry, rules):
        for name in ("-" * 7000, "team/../public/a", "x" * 256):
            answer = client.get(f"/v2/{name.replace('..', '%2e%2e')}/tags/list")
            assert (answer.status_code, code(answer)) == (400, "NAME_INVALID")
            assert registry.token(None, f"repository:{name}:pull")


def test_what_came_of_a_secret_that_is_kept_ends_with_it(
    registry: Guarded, client: httpx.Client
) -> None:
    catalog = registry.catalog
    old = run("robot", "add", "lee", catalog=catalog)

    def login(secret: str) -> str:
        answer = client.get("/token", params={"offline_token": "true"}, auth=("lee", secret))
        return str(answer.json()["refresh_token"])

    def refreshed(token: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "access_type": "offline", "refresh_token": token}
        return client.post("/token", data=form)

    before = login(old)
    new = run("robot", "rotate", "lee", "--keep", "3s", catalog=catalog)
    ended = time.monotonic() + 3.1
    stolen = [refreshed(before).json()["refresh_token"], login(old)]
    stolen.append(refreshed(stolen[0]).json()["refresh_token"])
    mine = login(new)
    time.sleep(max(0.0, ended - time.monotonic()))
    assert [refreshed(each).status_code for each in stolen] == [401, 401, 401]
    assert refreshed(mine).status_code == 200


# -- starting


def test_too_many_failed_logins_wait(tmp_path: Path) -> None:
    with guarded(tmp_path, ("--login-failures", "3")) as served, served.client() as client:
        for _ in range(3):
            answer = client.get("/token", auth=httpx.BasicAuth("ann", "wrong"))
            assert answer.status_code == 401
        answer = client.get("/token", auth=served.basic("ann"))
        assert (answer.status_code, code(answer)) == (429, "TOOMANYREQUESTS")
        assert 0 < int(answer.headers["retry-after"]) <= 300
        assert client.get("/token", auth=served.basic("bob")).status_code == 200


def test_a_token_that_ends_in_the_middle_of_an_upload_does_not_break_it(tmp_path: Path) -> None:
    with guarded(tmp_path, ("--token-seconds", "1s")) as served, served.client() as client:
        ann = served.bearer("ann", PULL_PUSH)
        begun = client.post("/v2/team/a/blobs/uploads/", headers=ann)
        assert begun.status_code == 202
        location = begun.headers["location"]
        path = "/v2/team/a/tags/list"
        eventually(lambda: client.get(path, headers=ann).status_code == 401)
        assert client.patch(location, content=b"half", headers=ann).status_code == 202
        done = client.put(
            location, params={"digest": digest_of(b"halfhalf")}, content=b"half", headers=ann
        )
        assert done.status_code == 201
        assert "skopeo, podman and regctl use a token for that long" in served.log
        # It opens nothing else, and nobody else's.
        assert client.post("/v2/team/a/blobs/uploads/", headers=ann).status_code == 401
        other = client.post("/v2/team/a/blobs/uploads/", auth=served.basic("ci"))
        refused = client.patch(other.headers["location"], content=b"x", headers=ann)
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_basic_is_what_is_asked_for_if_so_set(tmp_path: Path) -> None:
    with guarded(tmp_path, ("--challenge", "basic")) as served, served.client() as client:
        answer = client.get("/v2/")
        assert answer.headers["www-authenticate"] == 'Basic realm="lading"'
        assert client.get("/v2/", auth=served.basic("ann")).status_code == 200


def test_tokens_outlive_a_restart_and_a_new_key(tmp_path: Path) -> None:
    with guarded(tmp_path) as served:
        headers = served.bearer("ann", PULL_PUSH)
        served.stop()
        served.start()
        with served.client() as client:
            assert client.get("/v2/team/a/tags/list", headers=headers).status_code == 404
            assert json.loads(client.get("/.well-known/jwks.json").text)["keys"]

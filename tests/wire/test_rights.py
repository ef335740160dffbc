"""The rights matrix: every endpoint, every kind of caller, every right.

It is made from the endpoint table: a route that is added without a right has no place here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from ociserver.auth.rules import Action
from ociserver.extension import For
from ociserver.web.routes import Endpoint
from tests.access import Guarded, guarded, run
from tests.issuer import Issuer, issuing
from tests.serving import digest_of, push_blob
from tests.table import table
from tests.wire.build import begin, image, put_manifest

REPOSITORY = "matrix/a"
# What a method needs that is not `pull` for GET and HEAD, `push` for POST, PUT and PATCH, and
# `delete` for DELETE. Written down here once more, so that a change of the table is a decision.
OTHERWISE: dict[tuple[str, str], Action | For] = {
    ("GET", "upload"): Action.PUSH,
    ("HEAD", "upload"): Action.PUSH,
    ("DELETE", "upload"): Action.PUSH,
    ("GET", "version"): For.THE_KNOWN,
    ("HEAD", "version"): For.THE_KNOWN,
    ("GET", "/v2/_oci/ext/discover"): For.THE_KNOWN,
    ("HEAD", "/v2/_oci/ext/discover"): For.THE_KNOWN,
    ("GET", "catalog"): For.THE_KNOWN,
    ("HEAD", "catalog"): For.THE_KNOWN,
    **{
        (method, label): For.ANYONE
        for label in ("health", "ready", "metrics")
        for method in ("GET", "HEAD")
    },
    **{
        (method, label): For.STRANGERS
        for label in ("token", "keys", "openapi", "docs")
        for method in ("GET", "HEAD", "POST")
    },
    **{
        (method, label): For.THE_KNOWN
        for label in ("models", "/v1/lineage", "/v1/artifacts/{digest}/download", "run", "found")
        for method in ("GET", "HEAD", "PUT")
    },
    **{
        (method, label): For.STRANGERS
        for label in ("signed_blob", "signed_manifest")
        for method in ("GET", "HEAD")
    },
    **{
        (method, label): Action.ADMIN
        for label in ("gates", "gate")
        for method in ("GET", "HEAD", "PUT", "DELETE")
    },
    ("GET", "audit"): Action.READ_AUDIT,
    ("HEAD", "audit"): Action.READ_AUDIT,
    ("POST", "versions"): Action.REGISTER,
    ("PATCH", "model"): Action.REGISTER,
    ("POST", "evaluations"): Action.REGISTER,
    ("POST", "version_lineage"): Action.REGISTER,
    ("POST", "approvals"): Action.APPROVE,
    ("PUT", "alias"): Action.PROMOTE,
    ("POST", "aliases"): Action.PROMOTE,
}
USUAL = {
    **dict.fromkeys(("GET", "HEAD"), Action.PULL),
    **dict.fromkeys(("POST", "PUT", "PATCH"), Action.PUSH),
    "DELETE": Action.DELETE,
}
RIGHTS = tuple(Action)
# These ask more than who it is, and answer with what there is: tests/mlext/ has theirs.
THEIR_OWN = {"run", "signed_blob", "signed_manifest", "/v1/artifacts/{digest}/download"}


@dataclass(frozen=True)
class Door:
    """One method of one path."""

    method: str
    path: str
    label: str
    need: Action | For

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def doors() -> list[Door]:
    found = []
    for route in table():
        endpoint = route.endpoint
        assert isinstance(endpoint, Endpoint)
        found += [
            Door(method, route.path, endpoint.label, need)
            for method, (_, need) in sorted(endpoint.doors.items())
        ]
    return found


EVERY_DOOR = doors()
DOORS = [door for door in EVERY_DOOR if not THEIR_OWN & {door.path, door.label}]
# What is of no repository needs a right on all of them.
OF_NONE = [door for door in DOORS if isinstance(door.need, Action) and "{name" not in door.path]
# An upload under way, by repository.
UPLOADS: dict[str, str] = {}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as found:
        yield found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Guarded]:
    """A registry where, for each right, somebody of each kind has just this one."""
    rules = issuer.table('groups = "teams"')
    for right in RIGHTS:
        who = [
            "user:gone",
            f"user:{right}",
            f"robot:r-{right}",
            f"workload:ci right={right}",
            f"group:g-{right}",
        ]
        rules += f'[[rule]]\nwho = {who}\nmay = "{right}"\non = "matrix/*"\n'
        rules += f'[[rule]]\nwho = "anyone"\nmay = "{right}"\non = "open-{right}/*"\n'
    rules += '[[rule]]\nwho = "user:all"\nmay = ["pull", "push", "delete", "register", "promote"]\n'
    rules += 'on = "**"\n'
    for right in (Action.ADMIN, Action.READ_AUDIT):
        rules += f'[[rule]]\nwho = "user:all-{right}"\nmay = "{right}"\non = "**"\n'
    with guarded(tmp_path_factory.mktemp("matrix"), ("--login-failures", "9999")) as served:
        for name in (*RIGHTS, "none", "all", "gone", "all-admin", "all-read-audit"):
            served.secrets[name] = "secret"
            run("user", "add", name, "--password-stdin", catalog=served.catalog, stdin="secret\n")
        run("user", "disable", "gone", catalog=served.catalog)
        for right in RIGHTS:
            served.secrets[f"r-{right}"] = run("robot", "add", f"r-{right}", catalog=served.catalog)
            served.secrets[f"in-{right}"] = run(
                "robot", "add", f"in-{right}", "--group", f"g-{right}", catalog=served.catalog
            )
        served.change_rules(rules)
        with served.client() as client:
            client.auth = served.basic("all")
            for repository in (REPOSITORY, *(f"open-{right}/a" for right in RIGHTS)):
                push_blob(client, repository, b"config")
                push_blob(client, repository, b"{}")
                put_manifest(client, repository, "v1", image(b"config"))
                version = {"artifact_digest": digest_of(image(b"config"))}
                made = client.post(f"/v1/models/{repository}/versions", json=version)
                assert made.status_code == 201, made.text
                place = f"/v1/models/{repository}/aliases/prod"
                assert client.put(place, json={"version": 1}).status_code == 200
                UPLOADS[repository] = begin(client, repository).rpartition("/")[2]
            client.auth = served.basic("all-admin")
            gate = {"model": "none", "alias": "none", "approvals": 1}
            assert client.put("/v1/gates/g", json=gate).status_code == 200
        yield served


def test_every_door_needs_what_it_should() -> None:
    wrong = [str(door) for door in EVERY_DOOR if door.need != needed(door)]
    assert wrong == []


def needed(door: Door) -> Action | For | None:
    by_path = OTHERWISE.get((door.method, door.path))
    return by_path or OTHERWISE.get((door.method, door.label)) or USUAL.get(door.method)


CALLERS = ["password", "robot", "group", "workload", "token", "workload token"]


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("right", RIGHTS)
def test_one_right_opens_its_doors_and_no_other(
    registry: Guarded, issuer: Issuer, right: Action, caller: str
) -> None:
    with registry.client() as client:
        admit(client, registry, issuer, right, caller)
        opened = {str(door) for door in DOORS if is_admitted(client, door, REPOSITORY)}
    assert opened == {
        str(door)
        for door in DOORS
        if (door.need is right and door not in OF_NONE) or isinstance(door.need, For)
    }


def admit(
    client: httpx.Client, registry: Guarded, issuer: Issuer, right: Action, caller: str
) -> None:
    """Have the client say who it is."""
    scope = f"repository:{REPOSITORY}:{','.join(RIGHTS)}"
    match caller:
        case "password":
            client.auth = registry.basic(right)
        case "robot":
            client.auth = registry.basic(f"r-{right}")
        case "group":
            client.auth = registry.basic(f"in-{right}")
        case "workload":
            client.auth = httpx.BasicAuth("workload", issuer.token(right=str(right)))
        case "token":
            client.headers.update(registry.bearer(right, scope))
        case "workload token":
            form = {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": issuer.token(teams=[f"g-{right}"]),
                "scope": scope,
            }
            found = client.post("/token", data=form).json()["access_token"]
            client.headers["Authorization"] = f"Bearer {found}"


@pytest.mark.parametrize("right", RIGHTS)
def test_whoever_reaches_the_address_has_what_anyone_has(registry: Guarded, right: Action) -> None:
    with registry.client() as client:
        opened = {str(door) for door in DOORS if is_admitted(client, door, f"open-{right}/a")}
    assert opened == {
        str(door)
        for door in DOORS
        if (door.need is right and door not in OF_NONE) or door.need in (For.ANYONE, For.STRANGERS)
    }


@pytest.mark.parametrize("right", [Action.ADMIN, Action.READ_AUDIT])
def test_what_is_of_no_repository_needs_the_right_on_all(registry: Guarded, right: Action) -> None:
    with registry.client() as client:
        client.auth = registry.basic(f"all-{right}")
        opened = {str(door) for door in OF_NONE if is_admitted(client, door, REPOSITORY)}
        assert opened == {str(door) for door in OF_NONE if door.need is right}
    with registry.client() as client:
        # A token is for repositories.
        client.headers.update(registry.bearer(f"all-{right}", f"repository:a:{right}"))
        assert not [str(door) for door in OF_NONE if is_admitted(client, door, REPOSITORY)]
        # So it is not told to fetch one, nor is who shows nothing.
        for shown in (client.headers, httpx.Headers()):
            answer = httpx.get(client.base_url.join("/v1/gates"), headers=shown)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("caller", ["nobody", "none", "empty token", "other's token", "disabled"])
def test_without_a_right_no_door_opens(registry: Guarded, caller: str) -> None:
    with registry.client() as client:
        match caller:
            case "none":
                client.auth = registry.basic("none")
            case "empty token":
                client.headers.update(registry.bearer("all"))
            case "other's token":
                client.headers.update(
                    registry.bearer("all", "repository:matrix/b:pull,push,delete")
                )
            case "disabled":
                client.auth = registry.basic("gone")
        opened = {
            str(door)
            for door in DOORS
            if is_admitted(client, door, REPOSITORY) and isinstance(door.need, Action)
        }
    assert opened == set()


def is_admitted(client: httpx.Client, door: Door, repository: str) -> bool:
    """Knock; tell whether somebody answered behind the door."""
    reads = door.method in ("GET", "HEAD")
    # A HEAD tells one 404 from another by nothing: it asks for what is there.
    path = (
        door.path.replace("{name:path}", repository)
        .replace("{digest}", digest_of(b"config" if reads else b"nobody has this"))
        .replace("{reference}", "v1" if reads else "none")
        .replace("{upload}", UPLOADS[repository] if reads else "0" * 32)
        .replace("{number}", "1")
        .replace("{alias}", "prod")
        .replace("{gate_id:path}", "g" if reads else "another")
    )
    # What the call cannot do without.
    asked = {
        "lineage": {"node": "run:r"},
        "check": {"version": "1"},
        "compare": {"base": "1", "target": "1"},
    }.get(door.label)
    answer = client.request(door.method, path, params=asked)
    assert answer.status_code < 500
    if door.label == "token":
        return answer.status_code != 404
    if answer.status_code < 400:
        return True
    if door.method == "HEAD":
        return False
    refused = {"unauthorized", "unauthenticated", "denied", "name_unknown"}
    document = answer.json()
    code = document["code"] if "code" in document else document["errors"][0]["code"]
    return code.lower() not in refused

# The document says what the endpoint table holds, and a running registry does as it says.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlext.web.places import DOCUMENTS
from ociserver.auth.rules import Action
from ociserver.extension import For
from ociserver.web.document import operations, whole
from tests.access import Guarded, guarded
from tests.serving import Served, digest_of, push_blob
from tests.table import table
from tests.wire.build import OCI_MANIFEST, image, put_manifest, unique_image

DOCUMENT = whole(DOCUMENTS)
OPERATIONS = {(path, method.upper()): said for path, method, said in operations(DOCUMENT)}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
# The manifest that the document's examples name.
EXAMPLE = image(b"weights")


def is_alike(context: Any) -> bool:
    """Tell whether it answers as another does, so that fewer examples show it: HEAD as GET, and
    /v2/{name}/_lading as /v1.
    """
    operation = context.operation
    return operation.method == "head" or "/_lading" in operation.path


schema = schemathesis.openapi.from_dict(
    DOCUMENT, config=SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}}})
)
alike = schema.include(is_alike)
others = schema.exclude(is_alike)


def doors() -> dict[tuple[str, str], Action | For]:
    """Return what each method of each path needs, from the endpoint table."""
    return {
        (route.path.replace(":path}", "}"), method): need
        for route in table()
        for method, (_, need) in route.endpoint.doors.items()  # type: ignore[attr-defined]
    }


DOORS = doors()
# These look at more than a right: whose a run is, what an address was signed for.
DENY_TOO = {("/v1/runs/{run_id}", "PUT")} | {
    (f"/v1/downloads/{{name}}/{kind}/{{digest}}", method)
    for kind in ("blobs", "manifests")
    for method in ("GET", "HEAD")
}


def test_the_document_has_every_endpoint_and_no_other() -> None:
    assert OPERATIONS.keys() == DOORS.keys()


@pytest.mark.parametrize(("path", "method"), sorted(DOORS))
def test_the_document_says_how_each_door_refuses(path: str, method: str) -> None:
    need = DOORS[path, method]
    is_right = isinstance(need, Action)
    refusals = {
        "401": need is For.THE_KNOWN or is_right or path == "/token",
        # Who may not pull is told that there is no such repository.
        "403": (is_right and need is not Action.PULL) or (path, method) in DENY_TOO,
        "429": need is not For.ANYONE,
    }
    documented = OPERATIONS[path, method]["responses"]
    assert {status: status in documented for status in refusals} == refusals
    assert not [status for status in documented if not status.isdecimal()]


def furnish(client: httpx.Client) -> None:
    """Push a few things under short names, for examples to hit by chance, and what the document's
    own examples name.
    """
    for name in ("0", "a", "a/a"):
        for blob in (b"", b"{}", b"weights"):
            push_blob(client, name, blob)
        put_manifest(client, name, digest_of(EXAMPLE), EXAMPLE)
        body = unique_image()
        digest = digest_of(body)
        put_manifest(client, name, digest, body, OCI_MANIFEST, tags=["0", "A", "latest"])
        model = f"/v1/models/{name}"
        version = {"artifact_digest": digest, "run_id": "a", "metrics": {"f1": 0.5}}
        done = [
            client.put("/v1/runs/a", json={"dataset_version": "clicks@3"}),
            client.put("/v1/gates/a", json={"model": name, "alias": "A", "approvals": 1}),
            client.post(f"{model}/versions", json=version),
            client.put(f"{model}/aliases/prod", json={"version": 1}),
            client.post(f"{model}/versions/1/evaluations", json={"metrics": {"f1": 0.6}}),
            client.post(f"{model}/versions/1/approvals", json={"alias": "prod"}),
        ]
        assert not [each.text for each in done if each.status_code >= 400]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry without rules."""
    served = Served(tmp_path_factory.mktemp("open")).start()
    with served.client() as client:
        furnish(client)
    yield served
    served.stop()


RULES = f"""
[[rule]]
who = "user:ann"
may = {[str(each) for each in Action]}
on = "**"

[[rule]]
who = "user:bob"
may = "pull"
on = ["a", "a/a"]
"""


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A registry with rules: ann may do everything, bob may pull from two of three."""
    with guarded(tmp_path_factory.mktemp("ruled")) as served:
        served.change_rules(RULES)
        with served.client() as client:
            client.auth = served.basic("ann")
            furnish(client)
        yield served


@pytest.fixture(scope="module")
def callers(ruled: Guarded) -> dict[str, dict[str, str]]:
    """How each says who it is."""
    scopes = (f"repository:{name}:pull,push,delete" for name in ("0", "a"))
    name_and_password = httpx.Request("GET", ruled.url)
    next(ruled.basic("ann").auth_flow(name_and_password))
    return {
        "nobody": {},
        "somebody with no token of ours": {"Authorization": "Bearer a.b.c"},
        "bob": ruled.bearer("bob", *scopes),
        "ann": {"Authorization": name_and_password.headers["authorization"]},
    }


def examples(count: int) -> settings:
    """Return how many each operation is called with, beside those that the document has."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@others.parametrize()
@examples(12)
def test_a_running_registry_answers_as_documented(
    case: schemathesis.Case[Any], furnished: Served
) -> None:
    conforms(case, furnished, {})


@alike.parametrize()
@examples(2)
def test_what_answers_alike_does_so_as_documented(
    case: schemathesis.Case[Any], furnished: Served
) -> None:
    conforms(case, furnished, {})


def conforms(case: schemathesis.Case[Any], served: Served, fields: dict[str, str]) -> Any:
    """Call it, and hold the answer to the document."""
    answer = case.call(base_url=served.url, headers=fields)
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400 and answer.content:
        is_problem = answer.headers["content-type"][0] == "application/problem+json"
        assert is_problem == case.operation.path.startswith("/v1/")
    return answer


@others.parametrize()
@examples(8)
def test_with_rules_everyone_is_answered_as_documented_and_as_they_may(
    case: schemathesis.Case[Any], ruled: Guarded, callers: dict[str, dict[str, str]]
) -> None:
    as_they_may(case, ruled, callers)


@alike.parametrize()
@examples(1)
def test_what_answers_alike_does_so_with_rules_too(
    case: schemathesis.Case[Any], ruled: Guarded, callers: dict[str, dict[str, str]]
) -> None:
    as_they_may(case, ruled, callers)


def as_they_may(
    case: schemathesis.Case[Any], ruled: Guarded, callers: dict[str, dict[str, str]]
) -> None:
    """Have each of them call it."""
    need = DOORS[case.operation.path, case.operation.method.upper()]
    for caller, fields in callers.items():
        answer = conforms(case, ruled, fields)
        status = answer.status_code
        if need is For.THE_KNOWN or isinstance(need, Action):
            if caller == "ann":
                # No gate asks who she is.
                assert status != 401
                assert status != 403 or "gate" in answer.text
            elif caller == "bob":
                assert need in (For.THE_KNOWN, Action.PULL) or status >= 400
            else:
                # 401, or less where what was made up for a path leads to no door at all.
                assert status in (400, 401, 404, 405)


def test_what_no_example_can_name_is_answered_as_documented(furnished: Served) -> None:
    with furnished.client() as client:
        found = client.get(f"/v1/models/a/artifacts/{digest_of(EXAMPLE)}/download").json()
        moved = client.get("/v1/models/a/aliases/prod").json()["updated_at"]
    signed = "/v1/downloads/{name}/blobs/{digest}"
    whole_file = {"path": signed, **taken_apart(found["files"][0]["url"])}
    etag = f'"{digest_of(b"weights")}"'
    asked: list[tuple[int, dict[str, Any]]] = [
        (200, whole_file),
        (206, {**whole_file, "headers": {"Range": "bytes=0-1"}}),
        (206, {**whole_file, "headers": {"Range": "bytes=0-1,3-3"}}),
        (304, {**whole_file, "headers": {"If-None-Match": etag}}),
        (416, {**whole_file, "headers": {"Range": "bytes=99-"}}),
        (200, {"path": "/v1/downloads/{name}/manifests/{digest}", **taken_apart(found["url"])}),
        (
            200,
            {
                "path": "/v1/models/{name}/aliases/{alias}",
                "path_parameters": {"name": "a", "alias": "prod"},
                "query": {"at": moved},
            },
        ),
        (200, {"path": "/v1/audit", "headers": {"Accept": "application/x-ndjson"}}),
    ]
    for status, parts in asked:
        case = schema[parts.pop("path")]["GET"].Case(**parts)
        assert conforms(case, furnished, {}).status_code == status


def taken_apart(url: str) -> dict[str, Any]:
    """Return path parameters and query of a download's address."""
    parsed = httpx.URL(url)
    _, _, _, name, _, digest = parsed.path.split("/")
    return {"path_parameters": {"name": name, "digest": digest}, "query": dict(parsed.params)}

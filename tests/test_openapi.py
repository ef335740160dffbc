# docs/openapi.yaml says what the endpoint table holds, and a running registry does as it says.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ociserver.auth.rules import Action
from ociserver.extension import For
from tests.access import Guarded, guarded
from tests.serving import Served, digest_of, push_blob
from tests.table import table
from tests.wire.build import OCI_MANIFEST, put_manifest, unique_image

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "docs" / "openapi.yaml").read_text("utf-8")
)
METHODS = {"get", "head", "post", "put", "patch", "delete", "options", "trace"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

schema = schemathesis.openapi.from_dict(
    DOCUMENT, config=SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}}})
)


def doors() -> dict[tuple[str, str], Action | For]:
    """Return what each method of each path needs, from the endpoint table."""
    return {
        (route.path.replace(":path}", "}"), method): need
        for route in table()
        for method, (_, need) in route.endpoint.doors.items()  # type: ignore[attr-defined]
    }


DOORS = doors()


def test_the_document_has_every_endpoint_and_no_other() -> None:
    documented = {
        (path, method.upper())
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS & item.keys()
    }
    assert documented == DOORS.keys()


@pytest.mark.parametrize(("path", "method"), sorted(DOORS))
def test_the_document_says_how_each_door_refuses(path: str, method: str) -> None:
    need = DOORS[path, method]
    refusals = {
        "401": need is For.THE_KNOWN or isinstance(need, Action) or path == "/token",
        # Who may not pull is told that there is no such repository.
        "403": need in (Action.PUSH, Action.DELETE),
        "429": need is not For.ANYONE,
    }
    documented = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert {status: status in documented for status in refusals} == refusals
    assert not [status for status in documented if not status.isdecimal()]


def furnish(client: httpx.Client) -> None:
    """Push a few things under short names, for examples to hit by chance."""
    for name in ("0", "a", "a/a"):
        push_blob(client, name, b"")
        body = unique_image()
        put_manifest(client, name, digest_of(body), body, OCI_MANIFEST, tags=["0", "A", "latest"])


@pytest.fixture(scope="module")
def furnished(registry: Served) -> Served:
    """A registry without rules."""
    with registry.client() as client:
        furnish(client)
    return registry


RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "delete"]
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


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_a_running_registry_answers_as_documented(
    case: schemathesis.Case[Any], furnished: Served
) -> None:
    answer = case.call(base_url=furnished.url)
    case.validate_response(answer, checks=CHECKS)


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_with_rules_everyone_is_answered_as_documented_and_as_they_may(
    case: schemathesis.Case[Any], ruled: Guarded, callers: dict[str, dict[str, str]]
) -> None:
    need = DOORS[case.operation.path, case.operation.method.upper()]
    for caller, fields in callers.items():
        answer = case.call(base_url=ruled.url, headers=fields)
        case.validate_response(answer, checks=CHECKS)
        status = answer.status_code
        if need is For.THE_KNOWN or isinstance(need, Action):
            if caller == "ann":
                assert status not in (401, 403)
            elif caller == "bob":
                assert need in (For.THE_KNOWN, Action.PULL) or status >= 400
            else:
                # 401, or less where what was made up for a path leads to no door at all.
                assert status in (400, 401, 404, 405)

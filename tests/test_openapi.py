# docs/openapi.yaml says what the endpoint table holds, and a running registry does as it says.
from __future__ import annotations

from pathlib import Path
from typing import Any

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

from ociserver.web.guard import Guard
from ociserver.web.pull import Pull
from ociserver.web.push import Push
from ociserver.web.routes import routes
from ociserver.web.service import Service
from ociserver.web.tokens import TokenDoor
from tests.serving import Served, digest_of, push_blob
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


def test_the_document_has_every_endpoint_and_no_other() -> None:
    # The table asks of its handlers only that they are there.
    table = routes(
        Guard.__new__(Guard),
        Pull.__new__(Pull),
        Push.__new__(Push),
        Service.__new__(Service),
        TokenDoor.__new__(TokenDoor),
    )
    served = {
        (route.path.replace(":path}", "}"), method)
        for route in table
        for method in route.endpoint.doors  # type: ignore[attr-defined]
    }
    documented = {
        (path, method.upper())
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS & item.keys()
    }
    assert documented == served


@pytest.fixture(scope="module")
def furnished(registry: Served) -> Served:
    """A registry that holds a few things under short names, for examples to hit by chance."""
    with registry.client() as client:
        for name in ("0", "a", "a/a"):
            push_blob(client, name, b"")
            body = unique_image()
            put_manifest(
                client, name, digest_of(body), body, OCI_MANIFEST, tags=["0", "A", "latest"]
            )
    return registry


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

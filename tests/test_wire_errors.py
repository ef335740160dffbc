"""The table from the domain's errors to the wire: whole, and in the spec's own codes."""

from __future__ import annotations

import inspect
import json

import pytest

from ociserver import errors
from ociserver.errors import LadingError
from ociserver.web.errors import WIRE, answer_to, envelope

# Distribution spec, "Error Codes".
SPEC_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
ARGUMENTS: dict[str, object] = {
    "offset": 7,
    "size": 9,
    "allow": ("GET", "HEAD"),
    "retry_after": 1.0,
}
PATH = "/v2/a/blobs/uploads/0"
SCOPE = {"type": "http", "method": "PATCH", "path": PATH, "raw_path": PATH.encode()}


def challenge(error: errors.Unauthenticated, _scope: object) -> bytes:
    return f"Bearer {error.scope}".encode()


def kinds(parent: type[LadingError] = LadingError) -> list[type[LadingError]]:
    """The errors of the core; an adapter's own kinds of one are answered as that one."""
    known = [kind for kind in parent.__subclasses__() if kind.__module__ == parent.__module__]
    return [one for kind in known for one in (kind, *kinds(kind))]


def raised(kind: type[LadingError], message: str = "what went wrong") -> LadingError:
    parameters = inspect.signature(kind).parameters
    return kind(message, **{name: ARGUMENTS[name] for name in parameters if name in ARGUMENTS})


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_a_row_or_inherits_one(kind: type[LadingError]) -> None:
    assert any(ancestor in WIRE for ancestor in kind.__mro__)


def test_every_row_is_of_an_error_that_exists() -> None:
    assert set(WIRE) <= set(kinds())
    assert len(WIRE) > 20


def test_every_code_is_one_of_the_spec() -> None:
    assert len(SPEC_CODES) == 14
    # A fault of ours is no error of the spec's: it is answered as distribution answers it.
    assert WIRE[errors.Fault] == (500, "UNKNOWN")
    of_requests = {code for kind, (_, code) in WIRE.items() if kind is not errors.Fault}
    assert of_requests <= SPEC_CODES


@pytest.mark.parametrize("kind", kinds())
def test_every_error_is_answered_with_its_row_in_the_spec_s_envelope(
    kind: type[LadingError],
) -> None:
    error = raised(kind)
    status, headers, body = answer_to(error, SCOPE, challenge)
    said = json.loads(body)["errors"]
    assert (status, said[0]["code"]) == WIRE[kind]
    assert 400 <= status < 600
    assert [(one["message"], one.get("detail")) for one in said] == [
        ("what went wrong", error.detail)
    ]
    assert dict(headers)[b"content-type"] == b"application/json"
    assert dict(headers)[b"content-length"] == b"%d" % len(body)


@pytest.mark.parametrize("kind", kinds())
def test_every_error_is_a_problem_document_to_the_model_api(kind: type[LadingError]) -> None:
    error = raised(kind)
    scope = {**SCOPE, "path": "/v1/models/a", "lading.request_id": "r-1"}
    status, headers, body = answer_to(error, scope, challenge)
    said = json.loads(body)
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    assert (said["status"], status) == (status, WIRE[kind][0])
    assert said["code"].replace("_", "") == kind.__name__.lower()
    assert (said["detail"], said.get("data")) == ("what went wrong", error.detail)
    assert said["request_id"] == "r-1"


def test_an_error_of_a_later_release_inherits_the_row_of_its_parent() -> None:
    class BlobQuarantined(errors.BlobUnknown):
        """Held back by a scanner."""

    status, _, body = answer_to(BlobQuarantined("held back"), SCOPE, challenge)
    assert (status, json.loads(body)["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (errors.UploadOutOfOrder("", offset=7), (b"range", b"0-6")),
        (errors.UploadOutOfOrder("", offset=0), (b"range", b"0-0")),
        (errors.UploadOutOfOrder("", offset=7), (b"location", b"/v2/a/blobs/uploads/0")),
        (errors.MethodUnsupported("", allow=("GET", "HEAD")), (b"allow", b"GET, HEAD")),
        (errors.BlobReferenced(""), (b"allow", b"GET, HEAD")),
        (errors.RangeUnsatisfiable("", size=9), (b"content-range", b"bytes */9")),
        (errors.Unavailable(""), (b"retry-after", b"5")),
        (errors.UploadBusy(""), (b"retry-after", b"5")),
        (errors.StorageFull(""), (b"retry-after", b"5")),
        (errors.TooManyRequests("", retry_after=1.2), (b"retry-after", b"2")),
        (errors.Unauthenticated("", scope="x"), (b"www-authenticate", b"Bearer x")),
    ],
)
def test_an_error_carries_the_header_that_tells_how_to_go_on(
    error: LadingError, header: tuple[bytes, bytes]
) -> None:
    _, headers, _ = answer_to(error, SCOPE, challenge)
    assert header in headers


@pytest.mark.parametrize("message", ['"quoted"', "line\nbreak", "\ud800", "é\0", ""])
def test_whatever_a_message_holds_the_envelope_is_json_in_ascii(message: str) -> None:
    body = envelope("DENIED", message, {"of": message})
    assert body.isascii()
    assert json.loads(body) == {
        "errors": [{"code": "DENIED", "message": message, "detail": {"of": message}}]
    }


def test_without_detail_there_is_no_such_field() -> None:
    assert json.loads(envelope("DENIED", "no")) == {"errors": [{"code": "DENIED", "message": "no"}]}

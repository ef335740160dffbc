"""The one table from what went wrong to what the client reads.

Codes are those of the distribution spec ("Error Codes"); UNKNOWN, for faults of our own, is the
code that every client of distribution already knows. Under /v1 errors are problem documents.
Handlers raise; nothing else writes an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import Scope

from ociserver import errors
from ociserver.errors import LadingError
from ociserver.upload import received_range

Headers = list[tuple[bytes, bytes]]
Challenge = Callable[[errors.Unauthenticated, Scope], bytes]

WIRE: dict[type[LadingError], tuple[int, str]] = {
    errors.NameInvalid: (400, "NAME_INVALID"),
    errors.NameUnknown: (404, "NAME_UNKNOWN"),
    errors.TagInvalid: (400, "MANIFEST_INVALID"),
    errors.DigestInvalid: (400, "DIGEST_INVALID"),
    errors.DigestMismatch: (400, "DIGEST_INVALID"),
    errors.ManifestInvalid: (400, "MANIFEST_INVALID"),
    errors.BodyTooLarge: (413, "SIZE_INVALID"),
    errors.ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    errors.ManifestBlobUnknown: (404, "MANIFEST_BLOB_UNKNOWN"),
    errors.BlobUnknown: (404, "BLOB_UNKNOWN"),
    errors.BlobQuarantined: (404, "BLOB_UNKNOWN"),
    errors.BlobReferenced: (405, "DENIED"),
    errors.UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    errors.UploadLost: (404, "BLOB_UPLOAD_UNKNOWN"),
    errors.UploadInvalid: (400, "BLOB_UPLOAD_INVALID"),
    errors.UploadOutOfOrder: (416, "BLOB_UPLOAD_INVALID"),
    errors.UploadBusy: (409, "BLOB_UPLOAD_INVALID"),
    errors.LeaseTaken: (409, "DENIED"),
    errors.Conflict: (409, "DENIED"),
    errors.SizeInvalid: (400, "SIZE_INVALID"),
    errors.RangeUnsatisfiable: (416, "SIZE_INVALID"),
    errors.RangeRefused: (400, "SIZE_INVALID"),
    errors.RequestInvalid: (400, "UNSUPPORTED"),
    errors.RouteUnknown: (404, "UNSUPPORTED"),
    errors.MethodUnsupported: (405, "UNSUPPORTED"),
    errors.Unauthenticated: (401, "UNAUTHORIZED"),
    errors.Denied: (403, "DENIED"),
    errors.TooManyRequests: (429, "TOOMANYREQUESTS"),
    errors.BodySlow: (408, "SIZE_INVALID"),
    errors.StorageFull: (507, "DENIED"),
    errors.Unavailable: (503, "TOOMANYREQUESTS"),
    errors.BlobDamaged: (503, "TOOMANYREQUESTS"),
    errors.Fault: (500, "UNKNOWN"),
}

_RETRY_AFTER_SECONDS = 5
_MODEL_API = "/v1/"


def envelope(code: str, message: str, detail: object = None) -> bytes:
    """Return the error body of the spec ("Error Codes")."""
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return json.dumps({"errors": [error]}).encode()


def _problem(error: LadingError, status: int, scope: Scope) -> bytes:
    """Return a problem document (RFC 9457); `code` is the error's name, for a program."""
    name = "".join(f"_{each.lower()}" if each.isupper() else each for each in type(error).__name__)
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": name.lstrip("_"),
        "detail": error.message,
        "request_id": scope.get("lading.request_id", ""),
    }
    if error.detail is not None:
        document["data"] = error.detail
    return json.dumps(document).encode()


def answer_to(error: LadingError, scope: Scope, challenge: Challenge) -> tuple[int, Headers, bytes]:
    """Return status, headers and body for an error raised by the request of that scope."""
    status, code = next(WIRE[kind] for kind in type(error).__mro__ if kind in WIRE)
    if scope["path"].startswith(_MODEL_API):
        kind, body = b"application/problem+json", _problem(error, status, scope)
    else:
        kind, body = b"application/json", envelope(code, error.message, error.detail)
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
    ]
    if isinstance(error, errors.Unauthenticated):
        headers.append((b"www-authenticate", challenge(error, scope)))
    return status, headers + _headers_of(error, scope), body


def _headers_of(error: LadingError, scope: Scope) -> Headers:
    match error:
        case errors.UploadOutOfOrder():
            # Where to go on, and from where: regclient resumes from this answer alone.
            return [
                (b"location", scope["raw_path"]),
                (b"range", received_range(error.offset).encode()),
            ]
        case errors.MethodUnsupported():
            return [(b"allow", ", ".join(error.allow).encode())]
        case errors.BlobReferenced():
            return [(b"allow", b"GET, HEAD")]
        case errors.RangeUnsatisfiable():
            return [(b"content-range", b"bytes */%d" % error.size)]
        case (
            errors.TooManyRequests()
            | errors.Unavailable()
            | errors.UploadBusy()
            | errors.StorageFull()
        ):
            seconds = getattr(error, "retry_after", _RETRY_AFTER_SECONDS)
            return [(b"retry-after", b"%d" % math.ceil(seconds))]
        case _:
            return []

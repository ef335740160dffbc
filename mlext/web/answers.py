"""Answers of the model API: JSON, and for how long who may keep it."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from ociserver.rendered import Fields, Rendered
from ociserver.web.headers import is_unchanged

# What never changes may be kept for good (RFC 8246), where an alias stands for moments.
_IMMUTABLE = "max-age=31536000, immutable"
_MOMENT = "max-age=10"


class Holding:
    """Says who may keep an answer: anyone between here and the client, or the client alone."""

    def __init__(self, is_public: Callable[[str], bool]) -> None:
        self._is_public = is_public

    def immutable(self, model: str) -> str:
        """Return the Cache-Control of what never changes."""
        return f"{self._scope(model)}, {_IMMUTABLE}"

    def moment(self, model: str) -> str:
        """Return the Cache-Control of where an alias points."""
        return f"{self._scope(model)}, {_MOMENT}"

    def _scope(self, model: str) -> str:
        return "public" if self._is_public(model) else "private"


def shown(document: object, status: int = 200, **headers: str) -> Response:
    """Return the document as an answer that nobody keeps, unless a header says so."""
    body = json.dumps(document, ensure_ascii=False).encode()
    return raw(body, status, **headers)


def raw(body: bytes, status: int = 200, **headers: str) -> Response:
    """Return JSON that is written already."""
    named = {"Cache-Control": "no-store"} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    return Response(body, status, named, media_type="application/json")


def held(request: Request, body: bytes, cache_control: str, etag: str) -> Response:
    """Return JSON with a validator, or 304 where the client's copy is current."""
    headers = {"Cache-Control": cache_control, "ETag": etag}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, media_type="application/json")


def rendered(request: Request, found: Rendered, more: Fields) -> Response:
    """Return what was rendered, with more fields, or 304 where the client's copy is current."""
    if is_unchanged(",".join(request.headers.getlist("if-none-match")) or None, found.etag):
        response = Response(status_code=304)
        response.raw_headers = [*found.validators, *more]
        return response
    response = Response(found.body)
    response.raw_headers = [*found.fields, *more]
    return response

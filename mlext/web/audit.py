"""The audit, to be read and to be kept elsewhere: the handler."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from mlext.errors import DocumentInvalid
from mlext.ports import ModelsCatalog
from mlext.web.answers import shown
from ociserver.auth import chain
from ociserver.refs import shortened

_NDJSON = "application/x-ndjson"
_PAGE = 100
_MOST = 1_000
_DIGITS = 18


class AuditDoors:
    """The handler of the audit."""

    def __init__(self, catalog: ModelsCatalog) -> None:
        self._catalog = catalog

    async def events(self, request: Request) -> Response:
        """Return events by number: as JSON, or line by line as `lading audit verify` takes them."""
        after = _number(request, "after", 0)
        limit = min(_number(request, "limit", _PAGE), _MOST)
        found = await self._catalog.read(lambda tx: tx.trail(after, limit))
        lines = [chain.line(each) for each in found]
        if _NDJSON in request.headers.get("accept", ""):
            headers = {"Cache-Control": "no-store"}
            return Response(b"".join(lines), headers=headers, media_type=_NDJSON)
        last = found[-1].event.number if len(found) == limit and found else None
        return shown({"events": [json.loads(line) for line in lines], "next_after": last})


def _number(request: Request, key: str, default: int) -> int:
    text = request.query_params.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise DocumentInvalid(f"{key}={shortened(text)!r} is not a number")
    return int(text)

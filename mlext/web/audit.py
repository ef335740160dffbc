"""The audit, to be read and to be kept elsewhere: the handler."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from mlext.ports import ModelsCatalog
from mlext.web.answers import shown
from mlext.web.asked import whole
from ociserver.auth import chain

_NDJSON = "application/x-ndjson"
_PAGE = 100
_MOST = 1_000
_NUMBER_MAX = 2**63 - 1


class AuditDoors:
    """The handler of the audit."""

    def __init__(self, catalog: ModelsCatalog) -> None:
        self._catalog = catalog

    async def events(self, request: Request) -> Response:
        """Return events by number: as JSON, or line by line as `lading audit verify` takes them."""
        after = whole(request, "after", 0, least=0, most=_NUMBER_MAX)
        limit = whole(request, "limit", _PAGE, most=_MOST)
        found = await self._catalog.read(lambda tx: tx.trail(after, limit))
        lines = [chain.line(each) for each in found]
        if _NDJSON in request.headers.get("accept", ""):
            headers = {"Cache-Control": "no-store"}
            return Response(b"".join(lines), headers=headers, media_type=_NDJSON)
        last = found[-1].event.number if len(found) == limit else None
        return shown({"events": [json.loads(line) for line in lines], "next_after": last})

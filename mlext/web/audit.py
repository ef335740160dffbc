"""The audit, to be looked through and to be kept elsewhere: the handler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from mlext import documents
from mlext.errors import DocumentInvalid
from mlext.pages import LIMIT_MAX
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import rfc3339
from mlext.web import paging
from mlext.web.answers import raw
from mlext.web.asked import parameters, whole
from ociserver.auth import chain
from ociserver.auth.records import AuditEvent, AuditQuestion, Outcome
from ociserver.refs import shortened

_NDJSON = "application/x-ndjson"
_NUMBER_MAX = 2**63 - 1
_NUMBER_DIGITS = 18
_EQUAL = ("subject", "actor", "action", "outcome")
_LIST = (*_EQUAL, "since", "until", *paging.PAGE)
# It is whole, or it could not be verified: nothing is left out but what was exported before.
_EXPORT = ("after", "limit")


class AuditDoors:
    """The handler of the audit."""

    def __init__(self, catalog: ModelsCatalog) -> None:
        self._catalog = catalog

    async def events(self, request: Request) -> Response:
        """Return events the latest first, or from the first on, line by line, as `lading audit
        verify` takes them.
        """
        if _NDJSON in request.headers.get("accept", ""):
            return await self._exported(request)
        asked = _question(_asked(request, _LIST, "a list (application/json)"))
        page = paging.asked(request)
        last = None if page.after is None else paging.number(page.after, _NUMBER_DIGITS)

        def read(tx: ModelsTx) -> tuple[Sequence[AuditEvent], bool]:
            before = None if last is None else _event(tx, last)
            return tx.latest(asked, before, page.limit)

        found, more = await self._catalog.read(read)
        document = {
            "events": [_shown(each) for each in found],
            "next_cursor": str(found[-1].number) if more else None,
        }
        # In ASCII: a detail may hold half a surrogate pair, which has no UTF-8.
        return raw(json.dumps(document).encode())

    async def _exported(self, request: Request) -> Response:
        _asked(request, _EXPORT, f"an export ({_NDJSON})")
        after = whole(request, "after", 0, least=0, most=_NUMBER_MAX)
        limit = whole(request, "limit", LIMIT_MAX, most=LIMIT_MAX)
        found = await self._catalog.read(lambda tx: tx.trail(after, limit))
        headers = {"Cache-Control": "no-store"}
        return Response(b"".join(map(chain.line, found)), headers=headers, media_type=_NDJSON)


def _asked(request: Request, known: Sequence[str], what: str) -> Mapping[str, str]:
    """Return the parameters of one of the two forms. Raises DocumentInvalid."""
    given = parameters(request, dict.fromkeys((*_LIST, *_EXPORT)))
    for key in given:
        if key not in known:
            raise DocumentInvalid(f"{key} is not for {what}, which takes {', '.join(known)}")
    return given


def _question(given: Mapping[str, str]) -> AuditQuestion:
    """Return what is looked for. Raises DocumentInvalid."""
    equal = {key: documents.text(given, key) for key in _EQUAL if key in given}
    outcomes = get_args(Outcome)
    if "outcome" in equal and equal["outcome"] not in outcomes:
        said = shortened(equal["outcome"])
        raise DocumentInvalid(f"outcome {said!r} is none of: {', '.join(outcomes)}")

    def moment(key: str, otherwise: float) -> float:
        return documents.parse_since(given[key], key) if key in given else otherwise

    since, until = moment("since", -math.inf), moment("until", math.inf)
    return AuditQuestion(**equal, since=since, until=until)


def _event(tx: ModelsTx, number: int) -> AuditEvent:
    """Return the event of that number. Raises CursorInvalid."""
    found = tx.events(number - 1, 1)
    if not found or found[0].number != number:
        raise paging.damaged()
    return found[0]


def _shown(event: AuditEvent) -> dict[str, object]:
    return {
        "number": event.number,
        "at": rfc3339(event.at),
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "outcome": event.outcome,
        "detail": event.detail,
    }

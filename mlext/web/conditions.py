"""Conditions of requests that change something (RFC 9110, section 13.1): who sends one relies on
it, so that a call which does not compare it refuses it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mlext.errors import ConditionRefused
from ociserver.extension import Doors, Handler

# If-Modified-Since is none of them: no method but GET and HEAD has it (13.1.3).
_CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
_READING = frozenset(("GET", "HEAD"))
# What calls compare, by the label and the method of their place.
_COMPARED = {("alias", "PUT"): frozenset(("If-Match", "If-None-Match"))}
# What says the same where the condition cannot.
_INSTEAD = {
    "alias": ": If-Match is, and expected_version of the body",
    "aliases": ": each of the moves may have its expected_version",
}


def comparing(label: str, doors: Doors) -> Doors:
    """Return the doors of a place, which refuse what they do not compare (ConditionRefused)."""
    return {
        method: (handler if method in _READING else _refusing(label, method, handler), need)
        for method, (handler, need) in doors.items()
    }


def _refusing(label: str, method: str, handler: Handler) -> Handler:
    compared = _COMPARED.get((label, method), frozenset())
    refused = [each for each in _CONDITIONS if each not in compared]

    async def answer(request: Request) -> Response:
        for name in refused:
            if name in request.headers:
                instead = _INSTEAD.get(label, "")
                raise ConditionRefused(f"{name} is not compared by this call{instead}")
        return await handler(request)

    return answer

"""The document of the wire, for programs and for people: the handlers."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

_STYLE = Path(__file__).with_name("docs.css")
_SCRIPT = Path(__file__).with_name("docs.js")
# Another release may answer otherwise.
_REVALIDATED = {"Cache-Control": "no-cache"}


@dataclass(frozen=True, slots=True)
class _Made:
    """Both forms, and what the page may do: nothing but what it brings itself."""

    document: bytes
    page: str
    policy: str


class Docs:
    """Handlers of the document. It is read when it is first asked for: most workers never are."""

    def __init__(self, added: Sequence[Path], origin: Callable[[Scope], str]) -> None:
        self._added = added
        self._origin = origin
        self._making: asyncio.Future[_Made] | None = None

    async def document(self, _request: Request) -> Response:
        """Return OpenAPI."""
        made = await self._made()
        return Response(made.document, headers=_REVALIDATED, media_type="application/json")

    async def page(self, request: Request) -> Response:
        """Return the page."""
        made = await self._made()
        body = made.page.replace("{origin}", escape(self._origin(request.scope)))
        headers = {**_REVALIDATED, "Content-Security-Policy": made.policy}
        return Response(body, headers=headers, media_type="text/html")

    async def _made(self) -> _Made:
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(_make, self._added))
        # Whoever asked first may leave before it is there.
        return await asyncio.shield(self._making)


def _make(added: Sequence[Path]) -> _Made:
    # Not at the start: these and the YAML parser would be a twenty-fifth of it.
    from ociserver.web.document import whole  # noqa: PLC0415
    from ociserver.web.page import page  # noqa: PLC0415

    document = whole(added)
    style, script = (each.read_text("utf-8") for each in (_STYLE, _SCRIPT))
    policy = (
        f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return _Made(
        document=json.dumps(document, ensure_ascii=False).encode(),
        page=page(document, style=style, script=script),
        policy=policy,
    )


def _allowed(text: str) -> str:
    """Return what lets a page have just this inline (CSP 3, section 2.3.1)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

"""The token endpoint and the keys that its tokens are signed by.

Distribution specification, "Token Authentication Specification" (GET) and "OAuth2 Token
Authentication" (POST); RFC 8693 for a workload's token; RFC 7517 for the keys.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ociserver.auth.issuing import Issued, Issuing
from ociserver.auth.logins import Login, Logins
from ociserver.auth.principals import ANYONE
from ociserver.auth.tokens import Access, parse_scopes
from ociserver.auth.trust import Trust
from ociserver.errors import RequestInvalid, Unauthenticated
from ociserver.web.body import Pace, RequestBody
from ociserver.web.forwarded import Network, sender
from ociserver.web.guard import authorization

_FORM = "application/x-www-form-urlencoded"
_FORM_BYTES = 64 * 1024
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_PRIVATE = {"Cache-Control": "no-store"}
_KEYS_HELD = {"Cache-Control": "public, max-age=300"}


class TokenDoor:
    """Handlers of `/token` and `/.well-known/jwks.json`."""

    def __init__(
        self,
        logins: Logins,
        issuing: Issuing,
        trust: Trust,
        *,
        proxies: Sequence[Network],
        pace: Pace,
    ) -> None:
        self._logins = logins
        self._issuing = issuing
        self._trust = trust
        self._proxies = proxies
        self._pace = pace

    async def get(self, request: Request) -> Response:
        """Answer a GET: by Basic credentials, or for anyone."""
        query = request.query_params
        login = await self._by_basic(request)
        asked = parse_scopes(query.getlist("scope"))
        offline = query.get("offline_token", "").lower() in ("true", "1")
        return _answer(await self._issuing.for_login(login, asked, offline=offline))

    async def post(self, request: Request) -> Response:
        """Answer a POST: by password, refresh token or a workload's token, in a form."""
        form = await self._form(request)
        asked = parse_scopes(form.get("scope", []))
        offline = _one(form, "access_type") == "offline"
        match _one(form, "grant_type"):
            case "refresh_token":
                issued = await self._refreshed(request, form, asked, offline=offline)
            case "password":
                login = await self._login(request, _one(form, "username"), _one(form, "password"))
                issued = await self._issuing.for_login(login, asked, offline=offline)
            case other if other == _EXCHANGE:
                login = await self._login(request, "", _one(form, "subject_token"))
                issued = await self._issuing.for_login(login, asked, offline=False)
            case _:
                raise RequestInvalid(f"grant_type is password, refresh_token or {_EXCHANGE}")
        return _answer(issued, as_oauth=True)

    async def keys(self, _request: Request) -> Response:
        """Answer with the public keys."""
        return JSONResponse(self._trust.key_set(), headers=_KEYS_HELD)

    async def _by_basic(self, request: Request) -> Login:
        given = authorization(request.scope)
        if given is None:
            return Login(ANYONE, time.time())
        scheme, _, credentials = given.decode("latin-1").partition(" ")
        if scheme.lower() != "basic":
            raise Unauthenticated("a token is asked for with Basic credentials, or none")
        address = sender(request.scope, self._proxies)
        return await self._logins.by_basic(credentials.strip(), address)

    async def _login(self, request: Request, name: str, secret: str) -> Login:
        address = sender(request.scope, self._proxies)
        return await self._logins.authenticate(name, secret, address)

    async def _refreshed(
        self, request: Request, form: dict[str, list[str]], asked: Access, *, offline: bool
    ) -> Issued:
        # Nobody guesses one, so that failures need not be waited out; but they are told.
        shown = _one(form, "refresh_token")
        try:
            return await self._issuing.for_refresh(shown, asked, offline=offline)
        except Unauthenticated as error:
            self._logins.note_failed("", sender(request.scope, self._proxies), error)
            raise

    async def _form(self, request: Request) -> dict[str, list[str]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise RequestInvalid(f"a token is asked for by {_FORM}")
        body = RequestBody(request.scope, self._pace, lambda _: None)
        text = await body.whole(declared=None, limit=_FORM_BYTES)
        try:
            return parse_qs(text.decode(), max_num_fields=100)
        except ValueError as error:
            raise RequestInvalid("the form cannot be read") from error


def _one(form: dict[str, list[str]], key: str) -> str:
    return form.get(key, [""])[0]


def _answer(issued: Issued, *, as_oauth: bool = False) -> Response:
    issued_at = datetime.fromtimestamp(issued.issued_at, UTC)
    document: dict[str, object] = {
        # Clients read one of these, or the other.
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.seconds,
        "issued_at": issued_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if as_oauth:
        document["token_type"] = "Bearer"  # noqa: S105 - the type's name
        document["scope"] = " ".join(_scopes(issued.access))
    if issued.refresh_token is not None:
        document["refresh_token"] = issued.refresh_token
    return JSONResponse(document, headers=_PRIVATE)


def _scopes(access: Access) -> list[str]:
    return [
        f"repository:{repository}:{','.join(sorted(actions))}"
        for repository, actions in access.items()
    ]

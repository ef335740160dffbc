"""Issuing tokens: for whoever logged in, or shows a refresh token, as much as rules grant.

Distribution specification, "Token Authentication Implementation" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from ociserver.auth.logins import Login
from ociserver.auth.principals import Principal
from ociserver.auth.records import AuditEvent, RefreshToken
from ociserver.auth.rules import Rules
from ociserver.auth.tokens import Access, Token, granted
from ociserver.auth.trust import Trust
from ociserver.errors import Unauthenticated
from ociserver.ports import Catalog, CatalogTx

_REFRESH_BYTES = 32
# A client whose answer was lost, or that asks twice at once, may show the replaced one again for a
# token, and for no third: of two who hold one refresh token, one must come to be found out.
_REPLACED_SECONDS = 60.0
_ENDED_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token and what its holder is told of it: it is good for `seconds` from `issued_at`."""

    token: str
    access: Access
    issued_at: float
    seconds: int
    refresh_token: str | None = None


class Issuing:
    """The token service."""

    def __init__(
        self,
        catalog: Catalog,
        trust: Trust,
        rules: Callable[[], tuple[Rules, int]],
        *,
        token_seconds: float,
        refresh_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._trust = trust
        self._rules = rules
        self._token_seconds = token_seconds
        self._refresh_seconds = refresh_seconds

    async def for_login(self, login: Login, asked: Access, *, offline: bool) -> Issued:
        """Return a token, and a refresh token where `offline` asks for one. Raises Unavailable."""
        issued = self._issue(login, asked)
        name = login.principal.name
        # Only whom the catalog knows can be refreshed: a workload has its issuer to go to.
        if not offline or not name.startswith(("user:", "robot:")):
            return issued
        text, token = self._refresh_token(name, uuid.uuid4().hex, login.at, login.ends_at)
        await self._catalog.write(lambda tx: tx.add_refresh_token(token))
        return replace(issued, refresh_token=text)

    async def for_refresh(self, text: str, asked: Access, *, offline: bool) -> Issued:
        """Return a token for a refresh token's holder; where `offline` asks, another of these.

        That one then takes the place of the one shown; of several requests at once, on any replica,
        one is given it. One that comes again later was stolen, from the holder or from us, and ends
        all that came of its login (RFC 9700 section 4.14.2). Raises Unauthenticated, Unavailable.
        """
        now = time.time()
        shown = _hash(text)

        def look(tx: CatalogTx) -> tuple[RefreshToken | None, Principal | None]:
            token = tx.refresh_token(shown)
            found = tx.principal(token.principal.partition(":")[2]) if token else None
            if token is None or found is None or found.disabled_at is not None:
                return None, None
            if token.ends_at < now or token.issued_at < found.tokens_from:
                return None, None
            return token, Principal(found.full_name, found.groups)

        token, principal = await self._catalog.read(look)
        if token is None or principal is None:
            raise Unauthenticated("the refresh token is not good, or no longer")
        if token.replaced_at is not None and token.replaced_at + _REPLACED_SECONDS < now:
            await self._end(token)
            raise Unauthenticated("the refresh token was used before: log in again")
        issued = self._issue(Login(principal, now), asked)
        if not offline:
            return issued
        # One that ends sooner than is usual is of a secret that ends: so are those after it.
        is_cut = token.ends_at < token.issued_at + self._refresh_seconds
        following, record = self._refresh_token(
            principal.name, token.family, now, token.ends_at if is_cut else math.inf
        )

        def rotate(tx: CatalogTx) -> bool:
            replaced = tx.replace_refresh_token(shown, now)
            if replaced:
                tx.add_refresh_token(record)
            return replaced

        replaced = await self._catalog.write(rotate)
        return replace(issued, refresh_token=following if replaced else None)

    async def _end(self, token: RefreshToken) -> None:
        event = AuditEvent(
            at=time.time(),
            actor="lading",
            action="end-login",
            subject=token.principal,
            outcome="done",
            detail={"reason": "a refresh token that was replaced came again"},
        )

        def work(tx: CatalogTx) -> None:
            tx.drop_refresh_family(token.family)
            tx.record([event])

        await self._catalog.write(work, in_turn=True)

    async def sweep(self) -> None:
        """Forget refresh tokens that ended a day ago. Raises Unavailable."""
        before = time.time() - _ENDED_SECONDS
        await self._catalog.write(lambda tx: tx.drop_refresh_tokens_ended(before))

    def _issue(self, login: Login, asked: Access) -> Issued:
        now = time.time()
        token = Token(
            id=uuid.uuid4().hex,
            principal=login.principal,
            access=granted(asked, self._rules()[0].of(login.principal)),
            issued_at=login.at,
            ends_at=now + self._token_seconds,
        )
        return Issued(
            token=self._trust.issue(token),
            access=token.access,
            issued_at=now,
            seconds=int(self._token_seconds),
        )

    def _refresh_token(
        self, principal: str, family: str, now: float, ends_at: float
    ) -> tuple[str, RefreshToken]:
        text = secrets.token_urlsafe(_REFRESH_BYTES)
        token = RefreshToken(
            hash=_hash(text),
            family=family,
            principal=principal,
            issued_at=now,
            ends_at=min(now + self._refresh_seconds, ends_at),
        )
        return text, token


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Callers: what an Authorization header makes of a request, remembered for the next one.

A header is judged once, by whatever it takes (a signature, a slow hash, the catalog); what it was
found to be holds while the token does, nobody cut its principal off, and no rule changed.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from ociserver.auth.logins import Logins
from ociserver.auth.principals import ANYONE, Principal
from ociserver.auth.rules import Action, Rights, Rules
from ociserver.auth.tokens import ANYWHERE, MOUNT, Access, TokenInvalid
from ociserver.auth.trust import Trust
from ociserver.errors import Unauthenticated

_REMEMBERED = 4_096
# For how long a login by Basic is believed again without another look at the secret.
_BASIC_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what they may do with what they showed.

    `access` is what their token is limited to, None without a token; `is_late` a token that has
    ended, which is good for an upload begun before it did, and for nothing else.
    """

    principal: Principal
    rights: Rights
    access: Access | None = None
    issued_at: float = 0.0
    ends_at: float = float("inf")
    judged_by: tuple[int, int] = (0, 0)
    is_late: bool = False

    @property
    def says_nothing(self) -> bool:
        """Whether there is neither a name nor a token, be it an anonymous one."""
        return self.access is None and self.principal.is_anonymous

    def may(self, action: Action, repository: str) -> bool:
        """Tell whether a rule grants it and the token, if any, was asked for it."""
        return self.rights.allow(action, repository) and self.holds(action, repository)

    def holds(self, action: Action, repository: str) -> bool:
        """Tell whether the token, if any, was asked for it."""
        return self.access is None or action in self.access.get(repository, ())

    def may_mount_from(self, repository: str) -> bool:
        """Tell whether blobs there may be mounted: pulled, or a token asked for any such place."""
        if not self.rights.allow(Action.PULL, repository):
            return False
        return self.holds(Action.PULL, repository) or (
            self.access is not None and MOUNT in self.access.get(ANYWHERE, ())
        )


class Callers:
    """From header to caller."""

    def __init__(
        self,
        trust: Trust,
        logins: Logins,
        rules: Callable[[], tuple[Rules, int]],
        *,
        upload_seconds: float,
    ) -> None:
        self._trust = trust
        self._logins = logins
        self._rules = rules
        self._upload_seconds = upload_seconds
        self._known: OrderedDict[bytes, Caller] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def known(self, authorization: bytes | None) -> Caller | None:
        """Return the caller if the header was judged before and all of that still holds."""
        mark = self._mark(authorization)
        caller = self._known.get(mark)
        if (
            caller is None
            or caller.ends_at < time.time()
            or caller.judged_by != self._judges()
            or not self._trust.holds(caller.principal.name, caller.issued_at)
        ):
            return None
        # A flood of tokens for nobody in particular, which anyone can have, would push out logins
        # that take a slow hash to judge again.
        self._known.move_to_end(mark)
        return caller

    async def of(
        self, authorization: bytes | None, address: str, *, may_be_late: bool = False
    ) -> Caller:
        """Return the caller. Raises Unauthenticated, TooManyRequests, Unavailable."""
        caller = self.known(authorization)
        if caller is None:
            caller = await self._judge(authorization, address, may_be_late=may_be_late)
            if not caller.is_late:
                self._remember(self._mark(authorization), caller)
        return caller

    async def _judge(
        self, authorization: bytes | None, address: str, *, may_be_late: bool
    ) -> Caller:
        if authorization is None:
            return self._caller(ANYONE)
        scheme, _, rest = authorization.decode("latin-1").partition(" ")
        if scheme.lower() == "basic":
            login = await self._logins.by_basic(rest.strip(), address)
            ends_at = min(login.at + _BASIC_SECONDS, login.ends_at)
            return self._caller(login.principal, issued_at=login.at, ends_at=ends_at)
        if scheme.lower() == "bearer":
            return await self._bearer(rest.strip(), self._upload_seconds if may_be_late else 0.0)
        raise Unauthenticated("the Authorization header is neither Bearer nor Basic")

    async def _bearer(self, text: str, late: float) -> Caller:
        try:
            token = self._trust.judged(text, late=late)
        except TokenInvalid:
            # It may be of a key that another replica has just made.
            await self._trust.look_again()
            try:
                token = self._trust.judged(text, late=late)
            except TokenInvalid as error:
                raise Unauthenticated(str(error), reason="invalid_token") from error
        return self._caller(
            token.principal,
            access=token.access,
            issued_at=token.issued_at,
            ends_at=token.ends_at,
            is_late=token.ends_at < time.time(),
        )

    def _caller(
        self,
        principal: Principal,
        *,
        access: Access | None = None,
        issued_at: float = 0.0,
        ends_at: float = float("inf"),
        is_late: bool = False,
    ) -> Caller:
        rules, _ = self._rules()
        return Caller(
            principal=principal,
            rights=rules.of(principal),
            access=access,
            issued_at=issued_at,
            ends_at=ends_at,
            judged_by=self._judges(),
            is_late=is_late,
        )

    def _judges(self) -> tuple[int, int]:
        """Return what differs once rules changed, or a key is gone."""
        return self._rules()[1], self._trust.epoch

    def _mark(self, authorization: bytes | None) -> bytes:
        # What is remembered is the header's hash: a password must not lie about in memory.
        if authorization is None:
            return b""
        return blake2b(authorization, key=self._secret, digest_size=16).digest()

    def _remember(self, mark: bytes, caller: Caller) -> None:
        self._known[mark] = caller
        self._known.move_to_end(mark)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

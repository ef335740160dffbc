"""Logins: a name and a secret become a principal, or an audited refusal.

A person's password, a robot's key, or a workload's token in the place of the password.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ociserver.auth.attempts import Attempts, Patience
from ociserver.auth.audit import Audit
from ociserver.auth.passwords import Passwords
from ociserver.auth.principals import Principal, is_name
from ociserver.auth.records import AuditEvent, Credential, StoredPrincipal
from ociserver.auth.sites import site
from ociserver.errors import TooManyRequests, Unauthenticated
from ociserver.ports import Catalog

# One address may stand for many people: it may fail this many times as often as one name from it.
_ADDRESS_SHARE = 10
# The JSON of a JWT's header begins with a brace and a quote: so does its base64.
_JWT_START = "eyJ"
_JWT_DOTS = 2


@dataclass(frozen=True, slots=True)
class Login:
    """Who proved to be whom, when what they proved it with was looked up, and when that ends.

    Times are seconds since the epoch. `at` is the time of all that is issued for it. A slow hash
    ends later: what is issued for a secret that was replaced meanwhile must count as issued before.
    What is given for a secret that ends does so with it.
    """

    principal: Principal
    at: float
    ends_at: float = math.inf


class WorkloadIdentity(Protocol):
    """Who a token of another issuer speaks for."""

    async def principal(self, token: str) -> Principal:
        """Return the workload. Raises Unauthenticated."""


class Logins:
    """Every way in that begins with a secret."""

    def __init__(
        self,
        catalog: Catalog,
        audit: Audit,
        workloads: WorkloadIdentity,
        *,
        patience: Patience,
        refused: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._audit = audit
        self._workloads = workloads
        self._passwords = Passwords()
        self._by_name = Attempts(patience)
        more = patience.failures * _ADDRESS_SHARE
        self._by_address = Attempts(replace(patience, failures=more))
        self._refused = refused

    async def authenticate(self, name: str, secret: str, address: str) -> Login:
        """Return who this is. Raises Unauthenticated, TooManyRequests, Unavailable."""
        # Thousands of these are remembered, and what is sent as a name can be of any length.
        place, now = site(address), time.monotonic()
        key = hash((name, place))
        wait = max(self._by_name.wait(key, now), self._by_address.wait(place, now))
        if wait:
            self._refused("throttled")
            raise TooManyRequests("too many failed logins", retry_after=wait)
        try:
            login = await self._authenticate(name, secret)
        except Unauthenticated as error:
            now = time.monotonic()
            self._by_name.failed(key, now)
            self._by_address.failed(place, now)
            self.note_failed(name, address, error)
            raise
        except TooManyRequests:
            self._refused("logins")
            raise
        self._by_name.succeeded(key)
        return login

    async def by_basic(self, credentials: str, address: str) -> Login:
        """Return whose Basic credentials these are. Raises as `authenticate` does."""
        return await self.authenticate(*_basic(credentials), address)

    def note_failed(self, name: str, address: str, error: Unauthenticated) -> None:
        """Count a login that failed, and have it in the audit."""
        self._refused("login")
        event = AuditEvent(
            at=time.time(),
            actor=name if is_name(name) else "unknown",
            action="login",
            subject=address,
            outcome="failed",
            detail={"reason": error.message},
        )
        self._audit.refused(event, address)

    async def _authenticate(self, name: str, secret: str) -> Login:
        now = time.time()
        if secret.startswith(_JWT_START) and secret.count(".") == _JWT_DOTS:
            return Login(await self._workloads.principal(secret), now)
        found: StoredPrincipal | None = None
        stored: list[Credential] = []
        if is_name(name):
            found, stored = await self._catalog.read(
                lambda tx: (tx.principal(name), list(tx.credentials(name, now)))
            )
        # One comparison at least, whoever asks: how long it takes tells nothing.
        matched: Credential | None = None
        for each in stored:
            if await self._passwords.match(secret, each.hash):
                matched = each
                break
        if not stored:
            await self._passwords.match(secret, None)
        if matched is None or found is None or found.disabled_at is not None:
            raise Unauthenticated("no such name, or not this secret")
        ends_at = math.inf if matched.ends_at is None else matched.ends_at
        return Login(Principal(found.full_name, found.groups), now, ends_at)

    def close(self) -> None:
        """Release the threads."""
        self._passwords.close()


def _basic(text: str) -> tuple[str, str]:
    """Return name and secret of the credentials (RFC 7617). Raises Unauthenticated."""
    try:
        name, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("the Basic credentials are not base64 of UTF-8") from error
    if not colon:
        raise Unauthenticated("the Basic credentials have no colon")
    return name, secret

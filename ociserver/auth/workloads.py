"""Workload identity: a token of another issuer says which pipeline, job or pod asks.

OpenID Connect Core 1.0, section 3.1.3.7, and Discovery 1.0, section 4: strictly the issuer and
audience of the rule file, an asymmetric algorithm, a time to live. Keys are fetched when first
needed and kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, build_opener

import jwt

from ociserver.auth.principals import Principal
from ociserver.auth.rules import Issuer
from ociserver.errors import Unauthenticated
from ociserver.threads import in_thread

log = logging.getLogger("lading.auth")

# What GitHub, GitLab, Kubernetes, Google and Microsoft sign with; never one with a shared secret.
_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512", "EdDSA"]
_TOKEN_BYTES = 16 * 1024
# Of a `sub`, which is in the principal's name. OpenID Connect allows 255; GitHub's are longer where
# branches are. What it approved and what it did is found by it: an index of PostgreSQL keeps 2,700.
_SUBJECT_BYTES = 1_000
_SKEW_SECONDS = 30
_FETCH_SECONDS = 5.0
_DOCUMENT_BYTES = 1024 * 1024
# Keys are kept so long, and looked for again sooner where a token names one that is not there.
_KEPT_SECONDS = 3600.0
_AGAIN_SECONDS = 30.0
# An issuer that did not answer is not asked again for so long: each time takes a thread for long.
_AWAY_SECONDS = 5.0
_THREADS = 4


class _IssuerAwayError(Exception):
    """The issuer's keys cannot be had now."""


@dataclass(slots=True)
class _Known:
    """The keys of one issuer, and since when it could not be asked for them, if it could not."""

    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)
    by_id: Mapping[str | None, jwt.PyJWK] = field(default_factory=dict)
    fetched_at: float = -math.inf
    failed_at: float = -math.inf

    def key(self, key_id: str, now: float) -> jwt.PyJWK | None:
        """Return the key, if they need not be fetched again."""
        return self.by_id.get(key_id) if now - self.fetched_at < _KEPT_SECONDS else None


class Workloads:
    """Judges tokens of the issuers that are in force."""

    def __init__(self, issuers: Callable[[], Mapping[str, Issuer]]) -> None:
        self._issuers = issuers
        self._known: dict[Issuer, _Known] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="issuers")

    async def principal(self, token: str) -> Principal:
        """Return the workload that the token speaks for. Raises Unauthenticated."""
        if len(token) > _TOKEN_BYTES:
            raise Unauthenticated("the workload's token is too long")
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
            issuer = self._named(claims.get("iss"))
            key = await self._key(issuer, jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=issuer.audience,
                issuer=issuer.url,
                leeway=_SKEW_SECONDS,
                options={"require": ["iss", "aud", "sub", "exp", "iat"]},
            )
        except _IssuerAwayError as error:
            log.warning("keys of an issuer cannot be had", extra={"fields": {"reason": str(error)}})
            raise Unauthenticated("the workload's token cannot be checked now") from error
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise Unauthenticated(f"the workload's token is not valid: {error}") from error
        return _principal(issuer, claims)

    def close(self) -> None:
        """Release the threads."""
        self._pool.shutdown()

    def _named(self, url: object) -> Issuer:
        for issuer in self._issuers().values():
            if issuer.url == url:
                return issuer
        raise Unauthenticated("the workload's token is of an issuer that no rule file names")

    async def _key(self, issuer: Issuer, key_id: object) -> jwt.PyJWK:
        now = asyncio.get_running_loop().time
        known = self._known.setdefault(issuer, _Known())
        text = key_id if isinstance(key_id, str) else ""
        found = known.key(text, now())
        if found is None:
            # Whom nobody knows waits here, and holds up neither those of a key that is at hand nor
            # another issuer's.
            async with known.fetching:
                found = known.key(text, now())
                if found is None and now() - known.fetched_at >= _AGAIN_SECONDS:
                    await self._fetch(issuer, known)
                    found = known.key(text, now())
        if found is None:
            raise Unauthenticated("the workload's token is of a key that its issuer does not show")
        return found

    async def _fetch(self, issuer: Issuer, known: _Known) -> None:
        now = asyncio.get_running_loop().time
        if now() - known.failed_at < _AWAY_SECONDS:
            raise _IssuerAwayError(f"{issuer.url} could not be asked a moment ago")
        try:
            known.by_id = await in_thread(self._pool, _fetched, issuer)
        except _IssuerAwayError:
            known.failed_at = now()
            raise
        known.fetched_at = now()


def _fetched(issuer: Issuer) -> Mapping[str | None, jwt.PyJWK]:
    address = issuer.keys
    if address is None:
        found = _document(f"{issuer.url.rstrip('/')}/.well-known/openid-configuration")
        address = found.get("jwks_uri")
        if found.get("issuer") != issuer.url or not isinstance(address, str):
            raise _IssuerAwayError(f"what {issuer.url} says of itself does not fit")
        # An issuer on loopback may speak http, and so may its keys; nobody else's may.
        if not address.startswith(("https://", f"{issuer.url.partition('://')[0]}://")):
            raise _IssuerAwayError(f"the keys of {issuer.url} are not at an https address")
    try:
        keys = jwt.PyJWKSet.from_dict(_document(address)).keys
    except jwt.PyJWTError as error:
        raise _IssuerAwayError(f"the keys of {issuer.url} cannot be used: {error}") from error
    return {key.key_id: key for key in keys}


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: an address of the rule file is the address."""


def _document(address: str) -> dict[str, Any]:
    try:
        with build_opener(_NoRedirect).open(address, timeout=_FETCH_SECONDS) as answer:
            document = json.loads(answer.read(_DOCUMENT_BYTES))
    except HTTPError as error:
        error.close()
        raise _IssuerAwayError(f"{address}: {error}") from error
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise _IssuerAwayError(f"{address}: {error!r}") from error
    if not isinstance(document, dict):
        raise _IssuerAwayError(f"{address} answers with no object")
    return document


def _principal(issuer: Issuer, claims: Mapping[str, Any]) -> Principal:
    groups = claims.get(issuer.groups, []) if issuer.groups else []
    listed = groups if isinstance(groups, list) else [groups]
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in claims.items()
        if isinstance(value, str | int)
    }
    if not claims["sub"].isprintable():
        raise Unauthenticated("the workload's `sub` has a character that is no text")
    if len(claims["sub"].encode()) > _SUBJECT_BYTES:
        raise Unauthenticated(f"the workload's `sub` is over {_SUBJECT_BYTES} bytes")
    return Principal(
        f"workload:{issuer.name}:{claims['sub']}",
        frozenset(each for each in listed if isinstance(each, str)),
        texts,
    )

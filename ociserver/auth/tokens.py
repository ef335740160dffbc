"""Tokens: what one says, how it is signed, and what makes it good. Pure.

JWTs (RFC 7519) signed with ES256, with the `access` claim of the distribution token specification
("Token Authentication Implementation"), and the groups and claims that rules are asked with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from ociserver.auth.principals import Principal
from ociserver.auth.rules import Action, Rights
from ociserver.refs import is_repository

ALGORITHM = "ES256"
# A principal with its groups, claims and 50 repositories of the longest names fits; nothing longer
# is even parsed.
_TOKEN_BYTES = 48 * 1024
# How far the clocks of replicas may be apart.
_SKEW_SECONDS = 30
_SCOPE = re.compile(r"repository(?:\([^)]*\))?:([^:]+):([a-z,*-]*)")
# More, or longer ones, are not answered: nobody pulls from so many at once, and a token must fit in
# a header.
_SCOPES = 50
_NAMES_LENGTH = 6 * 1024
# Actions of a scope, and what a rule must grant for each.
_ACTIONS = {each.value: each for each in Action}
# `repository:*:mount` asks to mount blobs from wherever one may pull: a mount that names no source
# (end-11) needs it, as one that names its source needs to pull from there.
ANYWHERE = "*"
MOUNT = "mount"

Access = Mapping[str, frozenset[str]]


class TokenInvalid(Exception):
    """The text is no token of ours, or none that is good now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token says. `access` maps a repository to actions; times are seconds since the epoch.

    `id` is its own alone.
    """

    id: str
    principal: Principal
    access: Access
    issued_at: float
    ends_at: float


def parse_scopes(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the repositories and actions that `scope` parameters ask for.

    One may hold several, separated by spaces. What is of another type, or no scope, or of what
    cannot be a repository's name, asks for nothing: granting less than was asked is no error.
    """
    asked: dict[str, frozenset[str]] = {}
    for text in (each for several in texts for each in several.split()):
        found = _SCOPE.fullmatch(text)
        if found is None or not (found[1] == ANYWHERE or is_repository(found[1])):
            continue
        actions = set(found[2].split(","))
        known = {MOUNT} if found[1] == ANYWHERE else _ACTIONS.keys()
        wanted = frozenset(_ACTIONS if "*" in actions and known != {MOUNT} else actions & known)
        asked[found[1]] = asked.get(found[1], frozenset()) | wanted
        if len(asked) >= _SCOPES or sum(map(len, asked)) > _NAMES_LENGTH:
            break
    return asked


def granted(asked: Access, rights: Rights) -> dict[str, frozenset[str]]:
    """Return what of it the rights allow."""
    found = {
        repository: frozenset(
            each for each in actions if each == MOUNT or rights.allow(_ACTIONS[each], repository)
        )
        for repository, actions in asked.items()
    }
    return {repository: actions for repository, actions in found.items() if actions}


def sign(token: Token, service: str, key_id: str, private_key: Any) -> str:
    """Return the token as text."""
    principal = token.principal
    claims: dict[str, Any] = {
        "iss": service,
        "aud": service,
        "sub": principal.name,
        "jti": token.id,
        "iat": token.issued_at,
        "nbf": token.issued_at,
        "exp": token.ends_at,
        "access": [
            {"type": "repository", "name": repository, "actions": sorted(actions)}
            for repository, actions in token.access.items()
        ],
    }
    if principal.groups:
        claims["groups"] = sorted(principal.groups)
    if principal.claims:
        claims["workload"] = dict(principal.claims)
    return jwt.encode(claims, private_key, ALGORITHM, headers={"kid": key_id})


def verified(
    text: str,
    service: str,
    keys: Mapping[str, EllipticCurvePublicKey],
    *,
    now: float,
    late: float = 0.0,
) -> Token:
    """Return what the token says, if a key of ours signed it for this service and it is good.

    `late` is for how many seconds after its end it is taken still. Raises TokenInvalid.
    """
    if len(text) > _TOKEN_BYTES:
        raise TokenInvalid("the token is too long")
    try:
        key = keys.get(str(jwt.get_unverified_header(text).get("kid")))
        if key is None:
            raise TokenInvalid("the token is of a key that is not ours, or no longer")
        # Times are judged below, by one clock and with what we allow.
        claims = jwt.decode(
            text,
            key,
            algorithms=[ALGORITHM],
            audience=service,
            issuer=service,
            options={
                "require": ["iss", "aud", "sub", "jti", "iat", "nbf", "exp"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        token = _read(claims)
        begins = float(claims["nbf"])
    except (jwt.PyJWTError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenInvalid(f"the token is not valid: {error}") from error
    if begins > now + _SKEW_SECONDS:
        raise TokenInvalid("the token is not valid yet")
    if token.ends_at + late < now:
        raise TokenInvalid("the token has expired")
    return token


def _read(claims: Mapping[str, Any]) -> Token:
    return Token(
        id=str(claims["jti"]),
        principal=Principal(
            str(claims["sub"]),
            frozenset(map(str, claims.get("groups", ()))),
            {str(name): str(value) for name, value in claims.get("workload", {}).items()},
        ),
        access=_access(claims.get("access", ())),
        issued_at=float(claims["iat"]),
        ends_at=float(claims["exp"]),
    )


def _access(entries: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    return {
        str(each["name"]): frozenset(map(str, each["actions"]))
        for each in entries
        if each["type"] == "repository"
    }

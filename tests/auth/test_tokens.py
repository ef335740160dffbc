"""Tokens as values, and every way in which one can be wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ociserver.auth.principals import ANYONE, Principal
from ociserver.auth.rules import Action, Rules
from ociserver.auth.tokens import (
    Token,
    TokenInvalid,
    granted,
    parse_scopes,
    sign,
    verified,
)

NOW = 1_700_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
KEYS = {"one": KEY.public_key()}
TOKEN = Token(
    id="1",
    principal=Principal("workload:a:x", frozenset({"ml"}), {"ref": "main"}),
    access={"team/a": frozenset({"pull", "push"})},
    issued_at=NOW,
    ends_at=NOW + 300,
)


def judged(text: str, *, now: float = NOW, late: float = 0.0) -> Token:
    return verified(text, "lading", KEYS, now=now, late=late)


def test_a_token_says_what_was_signed() -> None:
    assert judged(sign(TOKEN, "lading", "one", KEY)) == TOKEN
    anonymous = Token(id="2", principal=ANYONE, access={}, issued_at=NOW, ends_at=NOW + 1)
    assert judged(sign(anonymous, "lading", "one", KEY)) == anonymous


def claims(**changed: Any) -> dict[str, Any]:
    made = {
        "iss": "lading",
        "aud": "lading",
        "sub": "user:ann",
        "jti": "1",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "access": [{"type": "repository", "name": "x", "actions": ["pull"]}],
    }
    return {key: value for key, value in (made | changed).items() if value is not None}


def made(key: Any = KEY, algorithm: str = "ES256", kid: Any = "one", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={"kid": kid})


def part(document: object) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def with_the_public_key_as_secret() -> str:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    import hashlib  # noqa: PLC0415 - of this attack alone
    import hmac  # noqa: PLC0415 - as above

    head = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims())}"
    mac = hmac.new(pem, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def with_another_scope() -> str:
    head, _, signature = made().split(".")
    access = [{"type": "repository", "name": "x", "actions": ["pull", "push", "delete"]}]
    return f"{head}.{part(claims(access=access))}.{signature}"


def with_a_key_in_its_head() -> str:
    own = jwt.algorithms.ECAlgorithm.to_jwk(OTHER.public_key(), as_dict=True)
    return jwt.encode(claims(), OTHER, "ES256", headers={"kid": "one", "jwk": own})


@pytest.mark.parametrize(
    "forged",
    [
        lambda: f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims())}.",
        lambda: f"{part({'alg': 'None', 'kid': 'one'})}.{part(claims())}.",
        with_the_public_key_as_secret,
        with_another_scope,
        with_a_key_in_its_head,
        lambda: made(key=OTHER),
        lambda: made(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
        lambda: made(kid="two"),
        lambda: f"{part({'alg': 'ES256', 'kid': ['one']})}.{part(claims())}.{part('x')}",
        lambda: jwt.encode(claims(), KEY, "ES256"),
        lambda: made(iss="other"),
        lambda: made(iss=None),
        lambda: made(aud="other"),
        lambda: made(aud=None),
        lambda: made(sub=None),
        lambda: made(jti=None),
        lambda: made(exp=None),
        lambda: made(nbf=None),
        lambda: made(iat=None),
        lambda: made(exp=NOW - 1),
        lambda: made(nbf=NOW + 60),
        lambda: made(exp="soon"),
        lambda: made(access=[{"type": "repository"}]),
        lambda: made(access="x"),
        lambda: made(workload="x"),
        lambda: made(groups=1),
        lambda: made(note="x" * 49_152),
        lambda: "",
        lambda: "a.b.c",
        lambda: "..",
        lambda: f"{part('[]')}.{part('[]')}.",
        lambda: f"{part({'alg': 'ES256', 'kid': 'one'})}.{part('[1]')}.{part('x')}",
        lambda: made()[:-4],
        lambda: made() + "x",
        lambda: "\x00.\xff.\u2028",
    ],
)
def test_a_forged_token_is_refused(forged: Callable[[], str]) -> None:
    with pytest.raises(TokenInvalid):
        judged(forged())


def test_a_token_is_good_until_its_end_and_late_only_where_that_is_asked() -> None:
    text = sign(TOKEN, "lading", "one", KEY)
    assert judged(text, now=NOW + 300) == TOKEN
    assert judged(text, now=NOW - 29) == TOKEN
    with pytest.raises(TokenInvalid, match="not valid yet"):
        judged(text, now=NOW - 31)
    with pytest.raises(TokenInvalid, match="expired"):
        judged(text, now=NOW + 301)
    assert judged(text, now=NOW + 400, late=100) == TOKEN
    with pytest.raises(TokenInvalid, match="expired"):
        judged(text, now=NOW + 401, late=100)


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        ([], {}),
        (["repository:a/b:pull"], {"a/b": {"pull"}}),
        (["repository:a:pull,push repository:b:pull"], {"a": {"pull", "push"}, "b": {"pull"}}),
        (["repository:a:pull", "repository:a:push"], {"a": {"pull", "push"}}),
        (["repository:a:*"], {"a": set(Action)}),
        (["repository:a:pull,promote"], {"a": {"pull", "promote"}}),
        (["repository:a:fly,pull"], {"a": {"pull"}}),
        (["repository:a:"], {"a": set()}),
        (["repository(plugin):a:pull"], {"a": {"pull"}}),
        (["repository:*:mount,pull", "repository:a:mount"], {"*": {"mount"}, "a": set()}),
        (["repository:*:*"], {"*": set()}),
        (["registry:catalog:*", "", "x", "repository:a", "repository::pull"], {}),
    ],
)
def test_scopes_are_read_repeated_or_in_one(texts: list[str], asked: dict[str, set[str]]) -> None:
    assert parse_scopes(texts) == asked


def test_no_more_is_granted_than_asked_for_and_allowed() -> None:
    rules = Rules.parse('[[rule]]\nwho = "user:ann"\nmay = ["pull", "push"]\non = "a/**"\n')
    rights = rules.of(Principal("user:ann"))
    asked = parse_scopes(["repository:a/b:pull,delete repository:c:pull"])
    assert granted(asked, rights) == {"a/b": {"pull"}}
    assert granted(asked, rules.of(ANYONE)) == {}
    # From where, the rules say when it is used.
    assert granted(parse_scopes(["repository:*:mount"]), rights) == {"*": {"mount"}}


def test_what_is_too_long_for_a_repository_asks_for_nothing() -> None:
    fitting = "a" * 255
    assert parse_scopes([f"repository:{fitting}:pull"]) == {fitting: {"pull"}}
    assert parse_scopes([f"repository:{fitting}a:pull"]) == {}


def test_so_many_scopes_are_answered_and_no_more() -> None:
    assert len(parse_scopes(" ".join(f"repository:r{n}:pull" for n in range(5000)).split())) < 100


def test_the_longest_token_that_is_issued_is_taken() -> None:
    rules = Rules.parse('[[rule]]\nwho = "anyone"\nmay = ["pull", "push", "delete"]\non = "**"\n')
    names = [f"{number:x>255}" for number in range(100)]
    access = granted(parse_scopes([f"repository:{name}:*" for name in names]), rules.of(ANYONE))
    # What a workload's token of 16 KiB can say.
    workload = Principal("workload:a:x", claims={"note": "x" * 12_000})
    token = Token(id="1", principal=workload, access=access, issued_at=NOW, ends_at=NOW + 300)
    assert len(access) > 20
    assert judged(sign(token, "lading", "one", KEY)) == token

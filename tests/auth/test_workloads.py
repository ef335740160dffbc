"""Tokens of other issuers: whom they make, and every way in which one can be wrong."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ociserver.auth.principals import Principal
from ociserver.auth.rules import Rules
from ociserver.auth.workloads import Workloads
from ociserver.errors import Unauthenticated
from tests.issuer import Issuer, issuing


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as found:
        yield found


def judged(issuer: Issuer, *tokens: str, more: str = "") -> Principal:
    """Show the tokens one after another; return whom the last one makes."""
    anyone = '[[rule]]\nwho = "anyone"\nmay = "pull"\non = "**"\n'
    rules = Rules.parse(issuer.table(more) + anyone)

    async def story() -> Principal:
        workloads = Workloads(lambda: rules.issuers)
        try:
            for token in tokens[:-1]:
                with pytest.raises(Unauthenticated):
                    await workloads.principal(token)
            return await workloads.principal(tokens[-1])
        finally:
            workloads.close()

    return asyncio.run(story())


def test_a_token_makes_a_workload_with_its_claims_and_groups(issuer: Issuer) -> None:
    token = issuer.token(teams=["ml", "ops"], run=7, protected=True, nested={"a": 1})
    found = judged(issuer, token, more='groups = "teams"')
    assert found.name == "workload:ci:repo:acme/train"
    assert found.groups == {"ml", "ops"}
    assert found.claims["ref"] == "refs/heads/main"
    assert (found.claims["run"], found.claims["protected"]) == ("7", "true")
    assert "nested" not in found.claims
    assert judged(issuer, issuer.token(teams=["ml"])).groups == frozenset()


def test_a_long_name_is_a_name(issuer: Issuer) -> None:
    assert judged(issuer, issuer.token(sub="é" * 500)).name.endswith("é" * 500)


def test_keys_are_fetched_once_and_again_for_one_that_is_new(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ociserver.auth.workloads._AGAIN_SECONDS", 0.0)
    first = issuer.token()
    issuer.show("k2")
    unknown, second = first, issuer.token()
    assert judged(issuer, unknown, second).name == "workload:ci:repo:acme/train"
    assert issuer.asked.count("/keys") == 1


def test_a_flood_of_unknown_keys_does_not_flood_the_issuer(issuer: Issuer) -> None:
    good = issuer.token()
    issuer.key_id = "k9"
    judged(issuer, *[issuer.token() for _ in range(20)], good)
    assert issuer.asked.count("/keys") == 1


def test_an_issuer_that_is_silent_is_asked_once_and_holds_up_no_other(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ociserver.auth.workloads._FETCH_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        table = issuer.table() + issuer.table().replace(issuer.url, url).replace('"ci"', '"other"')
        rules = Rules.parse(f'{table}[[rule]]\nwho = "anyone"\nmay = "pull"\non = "**"\n')
        waiting, good = issuer.token(iss=url), issuer.token()

        async def story() -> float:
            workloads = Workloads(lambda: rules.issuers)
            try:
                flood = [asyncio.create_task(workloads.principal(waiting)) for _ in range(20)]
                await asyncio.sleep(0)
                began = time.monotonic()
                assert (await workloads.principal(good)).name.startswith("workload:ci:")
                took = time.monotonic() - began
                answers = await asyncio.gather(*flood, return_exceptions=True)
                assert {type(each) for each in answers} == {Unauthenticated}
                return took
            finally:
                workloads.close()

        assert asyncio.run(story()) < 1.5
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


OTHER = rsa.generate_private_key(65537, 2048)
SECRET = "s" * 32


@pytest.mark.parametrize(
    "forged",
    [
        lambda issuer: issuer.token(iss="http://127.0.0.1:1"),
        lambda issuer: issuer.token(iss=issuer.url + "/"),
        lambda issuer: issuer.token(iss=None),
        lambda issuer: issuer.token(aud="other"),
        lambda issuer: issuer.token(aud=None),
        lambda issuer: issuer.token(exp=int(time.time()) - 60),
        lambda issuer: issuer.token(exp=None),
        lambda issuer: issuer.token(iat=None),
        lambda issuer: issuer.token(nbf=int(time.time()) + 60),
        lambda issuer: issuer.token(sub=None),
        lambda issuer: issuer.token(sub=5),
        lambda issuer: issuer.token(sub="é" * 501),
        lambda issuer: issuer.token(sub="a\0b"),
        lambda issuer: issuer.token(sub="\ud800"),
        lambda issuer: issuer.token(note="x" * 16_384),
        lambda issuer: jwt.encode(issuer.claims(), "", "none", headers={"kid": "k1"}),
        lambda issuer: jwt.encode(issuer.claims(), SECRET, "HS256", headers={"kid": "k1"}),
        lambda issuer: jwt.encode(issuer.claims(), OTHER, "RS256", headers={"kid": "k1"}),
        lambda issuer: jwt.encode(issuer.claims(), issuer.key, "RS256"),
        lambda issuer: jwt.encode(issuer.claims(), issuer.key, "RS256", headers={"kid": "k2"}),
        lambda issuer: issuer.token()[:-3],
        lambda _: "eyJ.eyJ.x",
        lambda _: "eyJhbGciOiJSUzI1NiJ9.W10.x",
    ],
)
def test_a_forged_token_is_refused(issuer: Issuer, forged: Callable[[Issuer], str]) -> None:
    with pytest.raises(Unauthenticated):
        judged(issuer, forged(issuer))


@pytest.mark.parametrize(
    "documents",
    [
        {},
        {"/.well-known/openid-configuration": []},
        {"/.well-known/openid-configuration": {"issuer": "http://other", "jwks_uri": "/keys"}},
        {"/.well-known/openid-configuration": {"issuer": "ours", "jwks_uri": 5}},
        {"/.well-known/openid-configuration": {"issuer": "ours", "jwks_uri": "file:///etc/passwd"}},
        {"/.well-known/openid-configuration": {"issuer": "ours", "jwks_uri": "ours/none"}},
        {"/keys": {"keys": []}},
        {"/keys": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}},
        {"/keys": {"nothing": 1}},
    ],
)
def test_an_issuer_that_cannot_be_asked_lets_nobody_in(
    issuer: Issuer, documents: dict[str, object]
) -> None:
    token = issuer.token()
    changed = {
        path: {
            key: value.replace("ours", issuer.url) if isinstance(value, str) else value
            for key, value in document.items()
        }
        if isinstance(document, dict)
        else document
        for path, document in documents.items()
    }
    issuer.documents = {**issuer.documents, **changed} if documents else {}
    with pytest.raises(Unauthenticated):
        judged(issuer, token)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 50_000,
    ],
)
def test_an_issuer_whose_answer_cannot_be_read_lets_nobody_in(answer: bytes) -> None:
    with issuing() as issuer, socket.create_server(("127.0.0.1", 0)) as listener:
        issuer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(Unauthenticated, match="cannot be checked now"):
            judged(issuer, issuer.token())
        thread.join()


def test_an_issuer_away_lets_nobody_in() -> None:
    with issuing() as issuer:
        token = issuer.token()
    with pytest.raises(Unauthenticated, match="cannot be checked now"):
        judged(issuer, token)

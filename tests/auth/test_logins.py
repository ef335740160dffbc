"""Logins and what is issued for them, while what they rest on changes."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ociserver.auth import callers, passwords
from ociserver.auth.attempts import Patience
from ociserver.auth.audit import Audit
from ociserver.auth.callers import Callers
from ociserver.auth.issuing import Issuing
from ociserver.auth.logins import Login, Logins
from ociserver.auth.principals import ANYONE
from ociserver.auth.rules import OPEN
from ociserver.auth.tokens import TokenInvalid
from ociserver.auth.trust import Lifetimes, Trust, revoke, rotate
from ociserver.auth.workloads import Workloads
from ociserver.errors import Unauthenticated
from ociserver.storage.sqlite import SqliteCatalog
from tests.access import run

SECRET = "first"
BASIC = b"Basic " + base64.b64encode(f"ann:{SECRET}".encode())
STALE = "not good, or no longer"


class Service:
    """All that stands between a secret and a token, on a catalog that has ann."""

    def __init__(self, path: Path) -> None:
        self.where = f"sqlite:///{path}"
        self.catalog = SqliteCatalog(path)
        self.trust = Trust(
            self.catalog,
            service="lading",
            lifetimes=Lifetimes(token=300.0, key=1e6, upload=86_400.0),
        )
        self.logins = Logins(
            self.catalog,
            Audit(self.catalog, lambda: None),
            Workloads(dict),
            patience=Patience(failures=10, seconds=60.0),
            refused=lambda _: None,
        )
        self.issuing = Issuing(
            self.catalog,
            self.trust,
            lambda: (OPEN, 0),
            token_seconds=300.0,
            refresh_seconds=86_400.0,
        )
        self.callers = Callers(self.trust, self.logins, lambda: (OPEN, 0), upload_seconds=60.0)

    def give_another_secret(self) -> None:
        run("user", "rotate", "ann", "--password-stdin", catalog=self.where, stdin="second\n")


Story = Callable[[Service], Awaitable[None]]


def told(tmp_path: Path, story: Story) -> None:
    path = tmp_path / "catalog.db"
    run("user", "add", "ann", "--password-stdin", catalog=f"sqlite:///{path}", stdin=f"{SECRET}\n")

    async def whole() -> None:
        service = Service(path)
        try:
            await service.trust.keep_keys()
            await story(service)
        finally:
            service.logins.close()
            await service.catalog.aclose()

    asyncio.run(whole())


@pytest.fixture
def while_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen each time that a secret is compared with its hash."""
    compared = passwords._matches

    def happening(work: Callable[[], None]) -> None:
        def matches(secret: str, stored: str) -> bool:
            work()
            return compared(secret, stored)

        monkeypatch.setattr(passwords, "_matches", matches)

    return happening


def test_a_secret_that_was_replaced_while_it_was_compared_opens_nothing_for_long(
    tmp_path: Path, while_it_is_compared: Callable[[Callable[[], None]], None]
) -> None:
    async def story(service: Service) -> None:
        while_it_is_compared(service.give_another_secret)
        await service.callers.of(BASIC, "")
        await service.trust.look()
        assert service.callers.known(BASIC) is None

    told(tmp_path, story)


def test_nor_do_the_tokens_that_were_given_for_it(
    tmp_path: Path, while_it_is_compared: Callable[[Callable[[], None]], None]
) -> None:
    async def story(service: Service) -> None:
        while_it_is_compared(service.give_another_secret)
        login = await service.logins.authenticate("ann", SECRET, "")
        issued = await service.issuing.for_login(login, {}, offline=True)
        await service.trust.look()
        with pytest.raises(TokenInvalid, match="revoked"):
            service.trust.judged(issued.token)
        assert issued.refresh_token is not None
        with pytest.raises(Unauthenticated, match=STALE):
            await service.issuing.for_refresh(issued.refresh_token, {}, offline=True)

    told(tmp_path, story)


def test_names_that_were_tried_are_not_kept_whatever_their_length(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        with pytest.raises(Unauthenticated):
            await service.logins.authenticate("x" * 100_000, "y", "192.0.2.1")
        assert len(repr(service.logins._by_name._failures)) < 1_000

    told(tmp_path, story)


def test_a_key_whose_maker_has_a_clock_ahead_of_ours_signs_where_it_is_the_only_one(
    tmp_path: Path,
) -> None:
    async def story(service: Service) -> None:
        old = await service.catalog.read(lambda tx: [each.id for each in tx.signing_keys()])
        assert await rotate(service.catalog, time.time() + 20)
        await revoke(service.catalog, old, "operator")
        await service.trust.look()
        issued = await service.issuing.for_login(Login(ANYONE, time.time()), {}, offline=False)
        assert service.trust.judged(issued.token).principal == ANYONE

    told(tmp_path, story)


def test_an_empty_header_is_not_none_at_all(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        assert (await service.callers.of(None, "")).says_nothing
        with pytest.raises(Unauthenticated):
            await service.callers.of(b"", "")

    told(tmp_path, story)


def test_a_login_in_use_is_not_pushed_out_by_tokens_that_anyone_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_REMEMBERED", 8)

    async def story(service: Service) -> None:
        await service.callers.of(BASIC, "")
        for _ in range(30):
            issued = await service.issuing.for_login(Login(ANYONE, time.time()), {}, offline=False)
            await service.callers.of(f"Bearer {issued.token}".encode(), "")
            assert service.callers.known(BASIC) is not None
        assert len(service.callers._known) == 8

    told(tmp_path, story)

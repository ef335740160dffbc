"""What tokens are judged by: learnt from the catalog, and not as often as anybody likes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ociserver.auth.principals import ANYONE
from ociserver.auth.tokens import Token, TokenInvalid
from ociserver.auth.trust import Lifetimes, Trust, rotate
from ociserver.ports import CatalogTx
from ociserver.refs import RepositoryName
from ociserver.storage.sqlite import SqliteCatalog

T = TypeVar("T")


class Counting(SqliteCatalog):
    """A catalog that counts what it is asked."""

    reads = 0

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        self.reads += 1
        return await super().read(work)


def trust_in(catalog: SqliteCatalog) -> Trust:
    return Trust(
        catalog, service="lading", lifetimes=Lifetimes(token=300.0, key=3600.0, upload=60.0)
    )


def token() -> Token:
    now = time.time()
    return Token(id="1", principal=ANYONE, access={}, issued_at=now, ends_at=now + 300)


def test_a_flood_of_unknown_tokens_is_one_look_a_second(tmp_path: Path) -> None:
    async def story() -> None:
        catalog = Counting(tmp_path / "catalog.db")
        try:
            trust = trust_in(catalog)
            await trust.look()
            before = catalog.reads
            # At once, and one after the other.
            await asyncio.gather(*(trust.look_again() for _ in range(100)))
            for _ in range(100):
                await trust.look_again()
            assert catalog.reads - before == 1
            await asyncio.sleep(1.1)
            await asyncio.gather(*(trust.look_again() for _ in range(100)))
            assert catalog.reads - before == 2
        finally:
            await catalog.aclose()

    asyncio.run(story())


def test_a_key_is_known_at_once_however_lately_we_looked(tmp_path: Path) -> None:
    async def story() -> None:
        catalog = Counting(tmp_path / "catalog.db")
        try:
            one, other = trust_in(catalog), trust_in(catalog)
            for _ in range(3):
                await one.look_again()
                assert await rotate(catalog, time.time())
                await other.look()
                text = other.issue(token())
                before = catalog.reads
                await asyncio.gather(*(one.look_again() for _ in range(20)))
                assert one.judged(text).principal == ANYONE
                assert catalog.reads - before == 1
        finally:
            await catalog.aclose()

    asyncio.run(story())


def test_without_news_a_flood_of_unknown_tokens_is_few_looks(tmp_path: Path) -> None:
    class Deaf(Counting):
        """As while nobody can tell what others changed: every answer differs."""

        answers = 0

        def generation(self, repository: RepositoryName) -> int:
            self.answers -= 1
            return self.answers

    async def story() -> None:
        catalog = Deaf(tmp_path / "catalog.db")
        try:
            trust = trust_in(catalog)
            for _ in range(3):
                await asyncio.gather(*(trust.look_again() for _ in range(100)))
            assert catalog.reads == 3
        finally:
            await catalog.aclose()

    asyncio.run(story())


def test_a_key_that_another_made_is_known_to_all_who_look_again(tmp_path: Path) -> None:
    async def story() -> None:
        catalog = Counting(tmp_path / "catalog.db")
        try:
            one, other = trust_in(catalog), trust_in(catalog)
            assert await rotate(catalog, time.time())
            await other.look()
            text = other.issue(token())

            async def is_known() -> bool:
                await one.look_again()
                try:
                    return one.judged(text).principal == ANYONE
                except TokenInvalid:
                    return False

            assert all(await asyncio.gather(*(is_known() for _ in range(20))))
        finally:
            await catalog.aclose()

    asyncio.run(story())

# Models that a caller may see, of however many there are: every one, in order, and in few steps.
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from mlext.ports import ModelsCatalog
from mlext.records import Model
from mlext.web.answers import Holding
from mlext.web.versions import VersionDoors
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.ports import CatalogTx
from ociserver.refs import RepositoryName, parse_name
from ociserver.storage.sqlite import SqliteCatalog, prepare_catalog
from tests.mlext.acting import TRANSACTION, as_models

T = TypeVar("T")
NAMES = [parse_name(f"{team}/m{number:04}") for team in "abc" for number in range(1_000)]
SEEN = [each for each in NAMES if each.endswith(("007", "008", "499"))]


class Counted(SqliteCatalog):
    """The catalog, which knows how often it was read."""

    reads = 0

    async def read(self, work: Callable[[CatalogTx], T]) -> T:
        self.reads += 1
        return await super().read(work)


def bob(may_see: Callable[[str], bool]) -> Author:
    def may(action: Action, name: str, alias: str | None) -> bool:
        return action is Action.PULL and alias is None and may_see(name)

    return Author(name="user:bob", may=may, may_somewhere=lambda _: True)


def asked(by: Author, **query: object) -> Request:
    text = "&".join(f"{key}={value}" for key, value in query.items())
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/v1/models",
            "headers": [],
            "query_string": text.encode(),
            "lading.author": by,
        }
    )


def put(tx: Any, names: list[RepositoryName]) -> None:
    for name in names:
        tx.put_model(
            Model(name=name, last_number=1, created_at=1.0, updated_at=1.0, updated_by="user:ann")
        )


def story(where: Path, tell: Callable[[Counted, VersionDoors], Any]) -> Any:
    async def main() -> Any:
        prepare_catalog(where / "catalog.db")
        catalog = Counted(where / "catalog.db", TRANSACTION)
        models: ModelsCatalog = as_models(catalog)
        try:
            await models.write(lambda tx: put(tx, NAMES))
            nothing: Any = None
            return await tell(catalog, VersionDoors(nothing, models, Holding(lambda _: True)))
        finally:
            await catalog.aclose()

    return asyncio.run(main())


async def listed(doors: VersionDoors, by: Author, limit: int) -> list[str]:
    """Return the names on all pages of so many."""
    found: list[str] = []
    query: dict[str, object] = {"limit": limit}
    while True:
        document = json.loads(bytes((await doors.models(asked(by, **query))).body))
        found += [each["model"] for each in document["models"]]
        if document["next_cursor"] is None:
            return found
        assert len(document["models"]) == limit
        query["cursor"] = document["next_cursor"]


def test_a_caller_sees_theirs_on_full_pages_and_no_other(tmp_path: Path) -> None:
    async def tell(catalog: Counted, doors: VersionDoors) -> None:
        few = bob(lambda name: name in SEEN)
        for limit in (1, 4, len(SEEN), 1_000):
            assert await listed(doors, few, limit) == SEEN
        assert await listed(doors, bob(lambda _: True), 1_000) == NAMES
        assert await listed(doors, bob(lambda _: False), 50) == []
        # Where all of a page is theirs, and where some of it is.
        of_a = bob(lambda name: name.startswith("a/"))
        assert await listed(doors, of_a, 300) == NAMES[:1_000]

    story(tmp_path, tell)


def test_a_page_is_one_transaction_however_few_they_may_see(tmp_path: Path) -> None:
    async def tell(catalog: Counted, doors: VersionDoors) -> int:
        await doors.models(asked(bob(lambda name: name == NAMES[-1])))
        return catalog.reads

    assert story(tmp_path, tell) == 1

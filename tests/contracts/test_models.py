"""The model registry's rows on each catalog."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ociserver.ports import Catalog
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog
from tests.contracts.catalog import Make
from tests.contracts.models import ModelsContract
from tests.mlext.acting import TRANSACTION
from tests.postgres import PostgresServer


class TestSqlite(ModelsContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        async def make() -> Catalog:
            return SqliteCatalog(tmp_path / "catalog.db", TRANSACTION)

        return make


class TestPostgres(ModelsContract):
    @pytest.fixture
    def make(self, postgres: PostgresServer) -> Make:
        url = postgres.new_database()
        asyncio.run(migrate(url))

        async def make() -> Catalog:
            return PostgresCatalog(url, TRANSACTION)

        return make

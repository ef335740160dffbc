from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.postgres import PostgresServer
from tests.serving import Served


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One registry for tests that only need a repository name of their own."""
    served = Served(tmp_path_factory.mktemp("registry")).start()
    yield served
    served.stop()


@pytest.fixture
def client(registry: Served) -> Iterator[httpx.Client]:
    with registry.client() as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server; each test takes a database of its own."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()

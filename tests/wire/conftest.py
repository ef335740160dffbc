from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.serving import Served


@pytest.fixture(scope="module")
def client(registry: Served) -> Iterator[httpx.Client]:
    """One client for a module: to make one takes longer than most of these tests."""
    with registry.client() as client:
        yield client


@pytest.fixture(scope="session")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that refuses sparse manifests."""
    served = Served(tmp_path_factory.mktemp("refusing"), options=("--sparse", "refuse")).start()
    yield served
    served.stop()

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mlext.models import Modelling
from tests.mlext.population import Shelf, shelf
from tests.postgres import PostgresServer
from tests.serving import Served


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modelling]:
    """An open registry, asked about models."""
    served = Served(tmp_path_factory.mktemp("models")).start()
    with served.client() as client:
        yield Modelling(client)
    served.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shelved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shelf]:
    """A catalog of each kind, with the population in it."""
    if request.param == "sqlite":
        where = tmp_path_factory.mktemp("shelf")
        with shelf(where) as found:
            yield found
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with shelf(server.new_database()) as found:
            yield found

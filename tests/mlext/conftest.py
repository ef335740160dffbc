from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mlext.models import Modelling
from tests.serving import Served


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modelling]:
    """An open registry, asked about models."""
    served = Served(tmp_path_factory.mktemp("models")).start()
    with served.client() as client:
        yield Modelling(client)
    served.stop()

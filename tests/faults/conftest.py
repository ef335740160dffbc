from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.faults.stage import Stage, staged
from tests.s3 import S3Server


@pytest.fixture(scope="session")
def one_stage(versitygw: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all; in the end its bucket holds what its catalog names and nothing else."""
    options = ("--redirect", "off", "--upload-idle", "8s")
    with staged(versitygw, tmp_path_factory.mktemp("stage"), options) as stage:
        yield stage
        stage.settle()


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    """The same, without a rule and with nothing counted."""
    one_stage.proxy.reset()
    yield one_stage
    one_stage.proxy.reset()
    one_stage.proxy.accept()


@pytest.fixture
def client(stage: Stage) -> Iterator[httpx.Client]:
    with stage.served.client() as client:
        yield client

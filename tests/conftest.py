from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from conformance import tools
from tests import s3
from tests.postgres import PostgresServer
from tests.s3 import S3Server
from tests.serving import Served


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the S3 servers that tests ask for before the first one, whose time limit starts then.

    One that cannot be built is left to its fixture, which fails the tests that want it.
    """
    wanted = {
        kind
        for item in session.items
        if isinstance(item, pytest.Function)
        for kind in s3.KINDS
        if kind in item.fixturenames or kind in _parameters(item)
    }
    if wanted and not session.config.option.collectonly:
        with suppress(tools.ToolError):
            tools.build(sorted(wanted))


def _parameters(item: pytest.Function) -> list[object]:
    return list(item.callspec.params.values()) if hasattr(item, "callspec") else []


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


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3Server]:
    """The S3 server of every day; each test takes a bucket of its own."""
    with s3.running("versitygw") as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    """A second S3 server, which is strict where the first is lax; a bucket for each test."""
    with s3.running("minio") as server:
        yield server


@pytest.fixture(params=s3.KINDS)
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the two in turn, for what must hold on both."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server

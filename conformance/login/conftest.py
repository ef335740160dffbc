"""What the tests of clients that log in share: who there is, and each client in their hands."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol, TypeVar

import httpx
import pytest

from conformance.containerd import running
from conformance.login.clients import Programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.conftest import Program, Tools
    from conformance.login.clients import Client


C = TypeVar("C", bound="Client")


class MakeClient(Protocol):
    """A client in the hands of ann, bob or nobody, who knows the registry by this address."""

    def __call__(self, kind: type[C], name: str | None, address: str = "") -> C: ...


@pytest.fixture(scope="session")
def known() -> dict[str, str]:
    """The secret of each person and robot, by name."""
    found: dict[str, str] = json.loads(os.environ.get("CONFORMANCE_SECRETS") or "{}")
    if not found:
        pytest.fail("CONFORMANCE_SECRETS is not set: run these by `make conformance`")
    return found


@pytest.fixture(scope="session")
def ctr(
    installed: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Program]]:
    """ctr, whose containerd starts when it is first wanted."""
    with contextlib.ExitStack() as stack:
        started: list[Program] = []

        def ready() -> Program:
            if not started:
                state = tmp_path_factory.mktemp("containerd")
                started.append(stack.enter_context(running(installed, state)))
            return started[0]

        yield ready


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where clients are at home, and this process too: oras-py would read its owner's settings."""
    # Not under tmp_path: podman refuses a run folder whose path is over 50 characters long.
    with tempfile.TemporaryDirectory(prefix="homes-") as folder:
        monkeypatch.setenv("HOME", folder)
        # oras-py takes whatever it is refused for an outage, and waits two minutes over six trials.
        monkeypatch.setattr("oras.decorator.time", SimpleNamespace(sleep=lambda _: None))
        yield Path(folder)


@pytest.fixture
def wire(wire: httpx.Client, known: dict[str, str]) -> httpx.Client:
    """Plain HTTP, by bob."""
    wire.auth = httpx.BasicAuth("bob", known["bob"])
    return wire


@pytest.fixture
def programs(tool: Tools, installed: Tools, ctr: Callable[[], Program]) -> Programs:
    return Programs(tool=tool, installed=installed, ctr=ctr)


@pytest.fixture
def make_client(
    programs: Programs, homes: Path, registry: str, known: dict[str, str]
) -> MakeClient:
    def make(kind: type[C], name: str | None, address: str = "") -> C:
        home = homes / secrets.token_hex(4)
        client = kind(programs=programs, home=home, address=address or registry)
        if name is not None:
            client.login(name, known[name])
        return client

    return make

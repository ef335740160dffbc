"""What the client tests share: a registry's address, real programs, and content made on the spot.

Black box: nothing here knows the registry beyond its host and port. A client that is not there
fails the tests that want it, loudly; it never skips them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx
import pytest

from conformance.metrics import redirects
from conformance.tap import order, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).resolve().parent
OCI = "application/vnd.oci.image"
CLIENT_PATIENCE = 100  # seconds; below the test timeout, so that the client is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A real client: called with its arguments, it returns what it wrote to standard output."""

    path: Path
    options: tuple[str, ...] = ()
    environment: Mapping[str, str]

    def __call__(self, *arguments: str | Path, cwd: Path | None = None, given: bytes = b"") -> str:
        done = self._run(arguments, cwd, given)
        assert done.returncode == 0, _words(done)
        return done.stdout.decode()

    def raw(self, *arguments: str | Path) -> bytes:
        """Its answer, byte for byte."""
        done = self._run(arguments)
        assert done.returncode == 0, _words(done)
        return done.stdout

    def answers(self, *arguments: str | Path) -> bool:
        return self._run(arguments).returncode == 0

    def refused(self, *arguments: str | Path) -> str:
        """What it said when it failed, as it must here."""
        done = self._run(arguments)
        assert done.returncode != 0, _words(done)
        return (done.stdout + done.stderr).decode()

    def _run(
        self, arguments: tuple[str | Path, ...], cwd: Path | None = None, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(part) for part in (self.path, *self.options, *arguments)],
            cwd=cwd,
            env=dict(self.environment),
            input=given,
            capture_output=True,
            check=False,
            timeout=CLIENT_PATIENCE,
        )


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    words = (done.stdout + b"\n" + done.stderr)[-8000:].decode(errors="replace")
    return f"{' '.join(done.args)} ended with {done.returncode}:\n{words}"


class Tools(Protocol):
    """A program by its name, with options that go before every call's own arguments."""

    def __call__(self, name: str, *options: str | Path) -> Program: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An image (or index) in an OCI layout folder, tagged `v1` there, and each of its blobs."""

    path: Path
    digest: str
    blobs: Mapping[str, bytes]
    layers: tuple[str, ...]


class MakeLayout(Protocol):
    def __call__(
        self, architectures: tuple[str, ...] = ("amd64",), *, layers: int = 2
    ) -> Layout: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A tapped way to the registry, and what passed there and where it sent the client to."""

    address: str
    log: Path

    def reach(self, reference: str) -> str:
        """The same reference by way of the tap."""
        return f"{self.address}/{reference.partition('/')[2]}"

    def seen(self, pattern: str) -> list[str]:
        """The request and range lines that hold the pattern, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if re.search(pattern, line)]


class MakeTap(Protocol):
    def __call__(self, *, cut_up: int = 0, cut_down: int = 0, pace_up: int = 0) -> Wire: ...


@pytest.fixture(scope="session")
def registry() -> str:
    """Host and port of the registry under test."""
    address = os.environ.get("CONFORMANCE_REGISTRY")
    if not address:
        pytest.fail("CONFORMANCE_REGISTRY=host:port is not set: run these by `make conformance`")
    return address


@pytest.fixture
def wire(registry: str) -> Iterator[httpx.Client]:
    """Plain HTTP, to look at what a client left behind with no client in between."""
    docker = "application/vnd.docker.distribution.manifest"
    accept = f"{OCI}.manifest.v1+json,{OCI}.index.v1+json,{docker}.v2+json,{docker}.list.v2+json"
    base, headers = f"http://{registry}", {"Accept": accept}
    with httpx.Client(base_url=base, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def blobs_tap() -> Path | None:
    """The orders of the tap before the blob store, where the registry sends downloads there."""
    orders = os.environ.get("CONFORMANCE_BLOBS_TAP")
    return Path(orders) if orders else None


@pytest.fixture(scope="module", autouse=True)
def followed(registry: str, blobs_tap: Path | None) -> Iterator[None]:
    """Where downloads are redirected, no client's tests pass without one."""
    before = redirects(registry) if blobs_tap else 0
    yield
    assert not blobs_tap or redirects(registry) > before, "nothing was redirected"


@pytest.fixture
def tap(registry: str, blobs_tap: Path | None, tmp_path: Path) -> Iterator[MakeTap]:
    """Taps before the registry, each a process of its own that ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(*, cut_up: int = 0, cut_down: int = 0, pace_up: int = 0) -> Wire:
            log = tmp_path / f"tap-{secrets.token_hex(4)}.log"
            options = ("--cut-up", cut_up, "--cut-down", cut_down, "--pace-up", pace_up)
            if blobs_tap:
                order(blobs_tap, log=log, cut_down=cut_down)
                stack.callback(order, blobs_tap, log=blobs_tap.with_suffix(".log"), cut_down=0)
            return Wire(
                address=stack.enter_context(running(registry, log, *map(str, options))), log=log
            )

        yield make


@pytest.fixture
def repository() -> str:
    return f"conformance/{secrets.token_hex(8)}"


@pytest.fixture
def remote(registry: str, repository: str) -> str:
    """The test's own repository, as clients name it."""
    return f"{registry}/{repository}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home: no client reads the credentials or settings of whoever runs this."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tool(home: Path) -> Tools:
    """Go clients, built from their pins."""

    def find(name: str, *options: str | Path) -> Program:
        command = [sys.executable, str(HERE / "tools.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"{name} cannot be built:\n{done.stdout}{done.stderr}")
        return _program(HERE / ".tools" / "bin" / name, options, home)

    return find


@pytest.fixture(scope="session")
def installed(home: Path) -> Tools:
    """Clients that the distribution packages."""

    def find(name: str, *options: str | Path) -> Program:
        path = shutil.which(name)
        if path is None:
            pytest.fail(f"{name} is not installed: apt-get install skopeo podman containerd runc")
        return _program(Path(path), options, home)

    return find


def _program(path: Path, options: tuple[str | Path, ...], home: Path) -> Program:
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment = kept | {"HOME": str(home), "REGCTL_CONFIG": str(home / "regctl.json")}
    return Program(path=path, options=tuple(map(str, options)), environment=environment)


@pytest.fixture
def make_layout(tmp_path: Path) -> MakeLayout:
    """Images nobody has seen before: random layers, so no blob is there from another test."""

    def make(architectures: tuple[str, ...] = ("amd64",), *, layers: int = 2) -> Layout:
        return _layout(tmp_path / f"layout-{secrets.token_hex(4)}", architectures, layers)

    return make


def _layout(path: Path, architectures: tuple[str, ...], number_of_layers: int) -> Layout:
    blobs: dict[str, bytes] = {}

    def put(content: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    manifests: list[dict[str, object]] = []
    layers: list[str] = []
    for architecture in architectures:
        tars = [_layer(f"layer-{number}") for number in range(number_of_layers)]
        packed = [put(gzip.compress(tar, 1), f"{OCI}.layer.v1.tar+gzip") for tar in tars]
        layers += [str(layer["digest"]) for layer in packed]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": put(_config(architecture, tars), f"{OCI}.config.v1+json"),
            "layers": packed,
        }
        entry = put(_json(manifest), f"{OCI}.manifest.v1+json")
        manifests.append(entry | {"platform": {"architecture": architecture, "os": "linux"}})
    root = manifests[0]
    if len(manifests) > 1:
        kind = f"{OCI}.index.v1+json"
        root = put(_json({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}), kind)
    _write_layout(path, root, blobs)
    return Layout(
        path=path,
        digest=str(root["digest"]),
        blobs=blobs,
        layers=tuple(layers),
    )


def _config(architecture: str, tars: list[bytes]) -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    return _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "conformance"} for _ in tars],
        }
    )


def _layer(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = secrets.token_bytes(300_000)
        entry = tarfile.TarInfo(f"{name}.bin")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    # Spaces and a final newline: a registry that re-encodes what it was given changes the digest.
    return json.dumps(value, indent=1).encode() + b"\n"


def _write_layout(path: Path, root: dict[str, object], blobs: Mapping[str, bytes]) -> None:
    folder = path / "blobs" / "sha256"
    folder.mkdir(parents=True)
    for digest, content in blobs.items():
        (folder / digest.removeprefix("sha256:")).write_bytes(content)
    named = root | {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (path / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [named]}))
    (path / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))

"""What a stage of the run stands on: registries, what they share, and the way to them.

Everything is on loopback, starts empty and is gone when the block is left. What a process wrote
stays in the stage's folder of results.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from conformance import tap
from conformance.access import Access, add_everyone, put_in_force
from conformance.replicas import postgres_catalog, round_robin
from tests.s3 import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LADING = Path(sys.executable).parent / "lading"
SERVE = (
    "{program} serve --catalog {catalog} --blobs {blobs}"
    " --host 127.0.0.1 --port {port} --workers {workers}"
)
START_LIMIT = 30  # seconds
STOP_LIMIT = 30  # seconds: longer than any drain these tests can leave running
# Which blobs in S3 a client is sent there for. The second is what nobody needs to set.
REDIRECTS: dict[str, Mapping[str, str]] = {
    "no redirects": {"LADING_REDIRECT": "off"},
    "large blobs redirected": {},
    "every blob redirected": {"LADING_REDIRECT_FROM": "0"},
}


class ConformanceError(Exception):
    """Nothing could be tested; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One arrangement of servers. `workers` has a number for each replica.

    `clients` says which client tests are run: none, all that its access is for, or the pipeline's.
    """

    catalog: Literal["sqlite", "postgres"]
    blobs: Literal["files", "versitygw", "minio"]
    workers: tuple[int, ...]
    redirects: Literal["no redirects", "large blobs redirected", "every blob redirected"] = (
        "no redirects"
    )
    access: Access = "open"
    clients: Literal["none", "all", "pipeline"] = "none"

    @property
    def name(self) -> str:
        several = len(self.workers) > 1
        number = len(self.workers) if several else self.workers[0]
        servers = f"{number} {'replica' if several else 'worker'}{'s' if number > 1 else ''}"
        pairing = f"{self.catalog} + {self.blobs}, {servers}"
        if self.access != "open":
            pairing = f"{pairing}, rules and {self.access}"
        return pairing if self.blobs == "files" else f"{pairing}, {self.redirects}"

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """A stage that runs: its one address, each replica's own, and the tap before its S3 server.

    `secrets` are those of who may log in, by name; nobody's where everybody may do everything.
    `catalog` is the URL of the catalog, empty where it is not ours.
    """

    address: str
    replicas: list[str]
    blobs_tap: Path | None
    secrets: Mapping[str, str]
    catalog: str


@contextlib.contextmanager
def started(stage: Stage, results: Path) -> Iterator[Servers]:
    """The stage's servers, until the block is left."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-"))
        catalog = f"sqlite:///{folder}/catalog.db"
        if stage.catalog == "postgres":
            catalog = stack.enter_context(postgres_catalog(LADING))
        blobs, settings, blobs_tap = f"file:///{folder}/blobs", {}, None
        if stage.blobs != "files":
            s3 = stack.enter_context(running(stage.blobs))
            blobs = s3.url(s3.new_bucket())
            settings = s3.environment | dict(REDIRECTS[stage.redirects])
            if stage.clients != "none":
                # Clients come to S3 by a tap, so that downloads from there are cut as well.
                blobs_tap = results / "blobs-tap.json"
                log = results / "blobs-tap.log"
                way = tap.running(f"127.0.0.1:{s3.port}", log, "--orders", str(blobs_tap))
                settings["LADING_REDIRECT_ENDPOINT"] = f"http://{stack.enter_context(way)}"
        settings |= put_in_force(stage.access, Path(folder))
        known = {} if stage.access == "open" else add_everyone(LADING, catalog)
        ports = [
            stack.enter_context(
                _registry(
                    {"folder": folder, "catalog": catalog, "blobs": blobs, "workers": workers},
                    settings,
                    results / f"server-{number}.log",
                )
            )
            for number, workers in enumerate(stage.workers, start=1)
        ]
        replicas = [f"127.0.0.1:{port}" for port in ports]
        address = replicas[0] if len(ports) == 1 else stack.enter_context(round_robin(ports))
        yield Servers(
            address=address,
            replicas=replicas,
            blobs_tap=blobs_tap,
            secrets=known,
            catalog=catalog,
        )


@contextlib.contextmanager
def _registry(
    places: Mapping[str, object], settings: Mapping[str, str], log: Path
) -> Iterator[int]:
    """A registry on a free loopback port, until the block is left."""
    port = free_port()
    template = os.environ.get("LADING_COMMAND", SERVE)
    command = shlex.split(template.format(program=LADING, port=port, **places))
    # A machine's own settings must not change what is tested.
    plain = {
        key: value for key, value in os.environ.items() if not key.startswith(("LADING_", "AWS_"))
    }
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=str(places["folder"]),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=plain | dict(settings),
            )
        except OSError as error:
            raise ConformanceError(f"{command[0]} cannot be started: {error}") from error
    try:
        _wait_until_ready(process, port, log)
        yield port
    finally:
        _stop(process)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        # A registry that knows no /readyz is ready when it speaks the protocol.
        state = _status(f"http://127.0.0.1:{port}/readyz")
        if state == 404:
            state = _status(f"http://127.0.0.1:{port}/v2/")
        if state == 200:
            return
        time.sleep(0.05)
    end = "ended" if process.poll() is not None else f"was not ready in {START_LIMIT} s"
    raise ConformanceError(f"the registry {end}; it said:\n{log.read_text()[-4000:]}")


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code
    except httpx.TransportError:
        return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"the registry did not stop within {STOP_LIMIT} s of SIGTERM; killed", flush=True)
        process.kill()
        process.wait()

"""A real `lading serve` in a process of its own, for tests that speak to it over loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import time
from dataclasses import dataclass, field
from hashlib import sha256, sha512
from pathlib import Path

import httpx

from tests.launching import Launched, launch, launch_command

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


@dataclass
class Served:
    """The registry on a data folder. It can be stopped, killed and started again."""

    data: Path
    options: tuple[str, ...] = ()
    workers: int = 1
    port: int = 0
    process: Launched | None = field(default=None, repr=False)
    # How its certificate is told for right, where it has one.
    trust: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.trust else 'http'}://{self.host}"

    @property
    def log(self) -> str:
        """Everything it wrote so far."""
        return (self.data / "log").read_text(errors="replace")

    def start(self) -> Served:
        """Start it and wait until it is ready. A port once taken is kept over restarts."""
        self.data.mkdir(parents=True, exist_ok=True)
        arguments = [
            *("--catalog", f"sqlite:///{self.data}/catalog.db"),
            *("--blobs", f"file:///{self.data}/blobs"),
            *("--port", str(self.port)),
            *("--workers", str(self.workers)),
            *self.options,
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LADING_")}
        log = self.data / "log"
        log.touch()
        before = log.stat().st_size
        begin = launch if self.workers == 1 else launch_command
        self.process = begin(arguments, log, environment)
        self._wait_until_ready(before)
        return self

    def _wait_until_ready(self, before: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            said = (self.data / "log").read_bytes()[before:].decode(errors="replace")
            if found := re.search(r"listens on https?://127\.0\.0\.1:(\d+)", said):
                self.port = int(found[1])
                # One of several answers for itself; the others are still reading their modules.
                begun = said.count("Application startup complete")
                if self._is_ready() and (self.workers == 1 or begun >= self.workers):
                    return
            time.sleep(0.02)
        raise AssertionError(f"the registry did not start:\n{self.log}")

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=2, verify=self.trust or False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def stop(self) -> int:
        """Ask it to end, wait, and return its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and its workers at once, as a crash would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def client(self) -> httpx.Client:
        """Return a client whose requests go to this registry."""
        return httpx.Client(base_url=self.url, timeout=60, verify=self.trust or True)


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    hashed = {"sha256": sha256, "sha512": sha512}[algorithm](body)
    return f"{algorithm}:{hashed.hexdigest()}"


def push_blob(client: httpx.Client, repository: str, body: bytes) -> str:
    """Push a blob by POST and PUT; return its digest."""
    begun = client.post(f"/v2/{repository}/blobs/uploads/")
    assert begun.status_code == 202, begun.text
    digest = digest_of(body)
    finished = client.put(begun.headers["location"], params={"digest": digest}, content=body)
    assert finished.status_code == 201, finished.text
    return digest

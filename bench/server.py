"""A running registry: its port, its processes' usage, and its end by pid.

A server runs alone: the others of the run are stopped while it is measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.load import LoadError, on_cores
from bench.peers import Launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.peers import Peer

START_LIMIT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which cores the server and the load have, and how many workers are asked for."""

    name: str
    server_cores: frozenset[int]
    load_cores: frozenset[int]

    @property
    def workers(self) -> int:
        """One worker for each core."""
        return len(self.server_cores)

    @property
    def load_threads(self) -> int:
        """One thread of the load for each of its cores."""
        return len(self.load_cores)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One running peer: its port, its processes' usage, and its end by pid."""

    def __init__(self, peer: Peer, folder: Path, profile: Profile) -> None:
        """Start the peer in its folder."""
        self.peer = peer
        self.profile = profile
        self.folder = folder
        self.port = free_port()
        self._log = folder / "server.log"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Spawn it on the profile's cores; it may not answer yet."""
        launch = Launch(
            program=self.peer.path() or self.peer.program,
            folder=self.folder,
            port=self.port,
            workers=self.profile.workers,
        )
        command = self.peer.command(launch)
        # A setting of the caller's must not change what is measured.
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LADING_", "REGISTRY_", "OTEL_", "GOMAXPROCS", "GOGC"))
        }
        environment = own | {"OTEL_TRACES_EXPORTER": "none"}
        with self._log.open("ab") as log, on_cores(self.profile.server_cores):
            self._begun = time.perf_counter()
            self._process = psutil.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=environment
            )

    @property
    def base(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def first_answer(self) -> float:
        """Seconds from spawn to the first answer to a GET of what is there at once."""
        while not self._answers():
            waited = time.perf_counter() - self._begun
            if self._process.poll() is not None or waited > START_LIMIT:
                raise LoadError(f"{self.peer.name} does not start: {self.log_tail()[-200:]}")
            time.sleep(0.002)
        return time.perf_counter() - self._begun

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_LIMIT) as wire:
                wire.sendall(
                    f"GET {self.peer.alive} HTTP/1.1\r\n"
                    "Host: bench\r\nConnection: close\r\n\r\n".encode()
                )
                # Under rules it asks who is there first.
                return wire.recv(4096).startswith((b"HTTP/1.1 200", b"HTTP/1.1 401"))
        except OSError:
            return False

    def log_tail(self) -> str:
        """Return the end of what the server printed."""
        return self._log.read_text(errors="replace")[-2000:]

    def _tree(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of the process tree so far, children that ended included."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def peaks(self) -> list[float]:
        """VmHWM of each process in MiB, the largest first; pages shared by fork count in each."""
        found: list[float] = []
        for process in self._tree():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                found += [int(peak) / 1024 for peak in re.findall(r"VmHWM:\s*(\d+)", status)]
        return sorted(found, reverse=True)

    def stop(self) -> None:
        """End the process tree by pid; what does not heed SIGTERM is killed."""
        if self._process.poll() is not None:
            return
        tree = self._tree()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=15)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(peer: Peer, folder: Path, profile: Profile) -> Iterator[Server]:
    """Run the peer on its folder until the block ends; it answers from the start."""
    server = Server(peer, folder, profile)
    try:
        server.first_answer()
        yield server
    finally:
        server.stop()

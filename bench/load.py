"""Scripts of HTTP requests for load.c, and what playing one against a server gave.

Here is the only place that knows the script format. Requests are written out before the clock
starts, so a play costs the load side as little as can be.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.server import Server

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SOURCE = HERE / "load.c"
BINARY = OUT / "load"


class LoadError(Exception):
    """The load generator could not be built, or a server answered wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a file that is a request's body; it is sent by sendfile."""

    path: Path
    offset: int
    length: int


@dataclass(slots=True)
class Script:
    """Groups of requests; a group is what one latency is taken of."""

    path: Path
    ends_when_used: bool = False
    _parts: list[bytes] = field(default_factory=list)
    _opens: bool = True

    def group(self) -> Script:
        """Let the next step open a group."""
        self._opens = True
        return self

    def step(
        self, method: str, target: str, status: int, body: bytes | Slice = b"", kind: str = "-"
    ) -> Script:
        """Add a request and the status it must be answered with."""
        if isinstance(body, bytes):
            length, source, inline = len(body), "-", body
        else:
            length, source, inline = body.length, f"file:{body.offset}:{body.path}", b""
        line = f"{int(self._opens)} {status} {method} {target} {kind} {length} {source}\n"
        self._parts.append(line.encode())
        self._parts.append(inline)
        self._opens = False
        return self

    def save(self) -> Path:
        """Write the script out for load.c."""
        self.path.write_bytes((b"!" if self.ends_when_used else b"") + b"".join(self._parts))
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One play: load.c's figures and the processor time the server's processes took for it."""

    groups: int
    errors: int
    seconds: float
    received: int
    sent: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    load_cpu_seconds: float
    server_cpu_seconds: float
    threads: int

    @property
    def rate(self) -> float:
        """Groups per second."""
        return self.groups / self.seconds if self.seconds else 0.0

    @property
    def load_busy(self) -> float:
        """The share of its threads' time that the load ran: near 1, it may be the bound."""
        return self.load_cpu_seconds / (self.seconds * self.threads) if self.seconds else 0.0


def build() -> None:
    """Compile the load generator when its source is newer."""
    OUT.mkdir(exist_ok=True)
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(BINARY), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"{SOURCE.name} does not compile:\n{done.stderr}")


@contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Lend these cores to what is started within; this process has its own back afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def play(  # noqa: PLR0913 - how it is played, each by its name
    server: Server,
    script: Path,
    *,
    connections: int = 1,
    threads: int = 1,
    seconds: float = 0,
    field: str = "",
) -> Played:
    """Play the script against the server, from the cores the load may use.

    `field` is a header line that each request carries.
    """
    words = (server.port, connections, threads, seconds, script, field)
    before = server.cpu_seconds()
    with on_cores(server.profile.load_cores):
        done = subprocess.run(
            [str(BINARY), *map(str, words)], capture_output=True, text=True, check=False
        )
    after = server.cpu_seconds()
    if done.returncode:
        raise LoadError(f"{server.peer.name}: {done.stderr.strip()}\n{server.log_tail()}")
    played = Played(**json.loads(done.stdout), server_cpu_seconds=after - before, threads=threads)
    # A figure with refused requests in it would praise the server for failing fast.
    if played.errors or not played.groups:
        raise LoadError(
            f"{server.peer.name}: {played.errors} of {played.groups + played.errors} groups of "
            f"{script.name} failed, first: {' '.join(done.stderr.split())}"
        )
    return played

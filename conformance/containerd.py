"""A containerd of our own, with its own root, state and socket, and ctr to speak to it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.conftest import Program, Tools

START_LIMIT = 30  # seconds

# Unpacking into plain folders (native) needs no kernel file system; the rest would only want
# devices, networks or a cluster that a test has not.
CONFIG = """
version = 2
root = "{state}/root"
state = "{state}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{state}/c.sock"
[ttrpc]
address = "{state}/t.sock"
"""


@contextlib.contextmanager
def running(installed: Tools, state: Path) -> Iterator[Program]:
    """ctr, speaking to a containerd that lives in the folder, until the block is left."""
    config = state / "config.toml"
    config.write_text(CONFIG.format(state=state))
    daemon = installed("containerd", "--config", config)
    client = installed("ctr", "--address", state / "c.sock")
    log = state / "containerd.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(daemon.path), *daemon.options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(daemon.environment),
        )
    try:
        _wait_until_ready(process, client, log)
        yield client
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], client: Program, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if client.answers("version"):
            return
        time.sleep(0.1)
    pytest.fail(f"containerd did not start:\n{log.read_text()[-4000:]}")

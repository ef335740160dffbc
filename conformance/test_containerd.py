"""containerd, the runtime below Kubernetes and Docker: pulls, pushes, resumes."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.conftest import Layout, MakeLayout, MakeTap, Program, Tools

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


@pytest.fixture(scope="module")
def ctr(installed: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """ctr, speaking to a containerd with its own root, state and socket."""
    state = tmp_path_factory.mktemp("containerd")
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
        wait_until_ready(process, client, log)
        yield client
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], client: Program, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if client.answers("version"):
            return
        time.sleep(0.1)
    pytest.fail(f"containerd did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture
def pushed(tool: Tools, remote: str, make_layout: MakeLayout) -> Layout:
    image = make_layout()
    tool("crane", "--insecure")("push", image.path, f"{remote}:v1")
    return image


def pull(ctr: Program, reference: str, *options: str) -> None:
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", *options, reference)


def test_a_pulled_image_is_the_pushed_one_byte_for_byte(
    ctr: Program, remote: str, pushed: Layout, tmp_path: Path
) -> None:
    pull(ctr, f"{remote}:v1")
    for digest, content in pushed.blobs.items():
        assert ctr.raw("content", "get", digest) == content
    ctr("images", "export", tmp_path / "image.tar", f"{remote}:v1")
    with tarfile.open(tmp_path / "image.tar") as archive:
        for digest, content in pushed.blobs.items():
            entry = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert entry is not None
            assert entry.read() == content


def test_a_pull_by_digest(ctr: Program, remote: str, pushed: Layout) -> None:
    pull(ctr, f"{remote}@{pushed.digest}")
    assert pushed.digest in ctr("images", "ls", f"name=={remote}@{pushed.digest}")


def test_a_layer_that_was_cut_is_resumed_with_a_range(
    ctr: Program, remote: str, pushed: Layout, tap: MakeTap
) -> None:
    wire = tap(cut_down=150_000)
    pull(ctr, wire.reach(f"{remote}:v1"))
    assert len(wire.seen("^CUT$")) == 1
    assert wire.seen("^Range: bytes=[1-9]")
    for layer in pushed.layers:
        content = ctr.raw("content", "get", layer)
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer


def test_an_index_is_pulled_and_pushed_for_all_platforms(
    ctr: Program, tool: Tools, remote: str, make_layout: MakeLayout
) -> None:
    crane = tool("crane", "--insecure")
    index = make_layout(("amd64", "arm64"))
    crane("push", "--index", index.path, f"{remote}:v1")
    digest = crane("digest", f"{remote}:v1").strip()
    pull(ctr, f"{remote}:v1", "--all-platforms")
    ctr("images", "tag", f"{remote}:v1", f"{remote}-again:v1")
    ctr("images", "push", "--plain-http", f"{remote}-again:v1")
    assert crane("digest", f"{remote}-again:v1").strip() == digest
    crane("validate", "--remote", f"{remote}-again:v1")

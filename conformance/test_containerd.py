"""containerd, the runtime below Kubernetes and Docker: pulls, pushes, resumes."""

from __future__ import annotations

import hashlib
import tarfile
from typing import TYPE_CHECKING

import pytest

from conformance.containerd import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.conftest import Layout, MakeLayout, MakeTap, Program, Tools


@pytest.fixture(scope="module")
def ctr(installed: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(installed, tmp_path_factory.mktemp("containerd")) as client:
        yield client


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

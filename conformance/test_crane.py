"""crane, and with it every program built on go-containerregistry (cosign, ko, kaniko)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from conformance.conftest import MakeLayout, MakeTap, Program, Tools

DOCKER = "application/vnd.docker.distribution.manifest"


@pytest.fixture
def crane(tool: Tools) -> Program:
    return tool("crane", "--insecure")


@pytest.fixture
def layer(tmp_path: Path, make_layout: MakeLayout) -> Path:
    """A layer's tar, packed, as crane appends it."""
    image = make_layout()
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(image.blobs[image.layers[0]])
    return path


def test_an_image_comes_back_identical(
    crane: Program, remote: str, make_layout: MakeLayout, tmp_path: Path
) -> None:
    image = make_layout()
    crane("push", image.path, f"{remote}:v1")
    assert crane("digest", f"{remote}:v1").strip() == image.digest
    crane("pull", "--format", "oci", f"{remote}:v1", tmp_path / "back")
    for digest, content in image.blobs.items():
        stored = tmp_path / "back" / "blobs" / "sha256" / digest.removeprefix("sha256:")
        assert stored.read_bytes() == content
    assert crane.raw("blob", f"{remote}@{image.layers[0]}") == image.blobs[image.layers[0]]
    crane("validate", "--remote", f"{remote}:v1")


def test_an_index_of_two_platforms_is_appended_and_served_by_platform(
    crane: Program, remote: str, make_layout: MakeLayout
) -> None:
    for architecture in ("amd64", "arm64"):
        crane("push", make_layout((architecture,)).path, f"{remote}:{architecture}")
    crane(
        *("index", "append", "--tag", f"{remote}:all"),
        *("--manifest", f"{remote}:amd64", "--manifest", f"{remote}:arm64"),
    )
    index = json.loads(crane("manifest", f"{remote}:all"))
    platforms = [entry["platform"]["architecture"] for entry in index["manifests"]]
    assert platforms == ["amd64", "arm64"]
    chosen = crane("digest", "--platform", "linux/arm64", f"{remote}:all")
    assert chosen == crane("digest", f"{remote}:arm64")
    crane("validate", "--remote", f"{remote}:all")


def test_a_copy_between_repositories_mounts_its_blobs(
    crane: Program, remote: str, make_layout: MakeLayout, tap: MakeTap
) -> None:
    image = make_layout(("amd64", "arm64"))
    crane("push", "--index", image.path, f"{remote}:v1")
    wire = tap()
    crane("copy", wire.reach(f"{remote}:v1"), wire.reach(f"{remote}-copy:v1"))
    assert wire.seen("POST .*mount=.*from=|POST .*from=.*mount=")
    assert not wire.seen("(PUT|PATCH) .*/blobs/uploads/")
    assert crane("digest", f"{remote}-copy:v1") == crane("digest", f"{remote}:v1")
    crane("validate", "--remote", f"{remote}-copy:v1")


def test_docker_schema_2_and_its_manifest_list(
    crane: Program, registry: str, repository: str, layer: Path, wire: httpx.Client
) -> None:
    remote = f"{registry}/{repository}"
    crane("append", "--new_layer", layer, "--new_tag", f"{remote}:image")
    crane(
        *("index", "append", "--docker-empty-base", "--tag", f"{remote}:list"),
        *("--manifest", f"{remote}:image"),
    )
    kinds = {
        tag: wire.get(f"/v2/{repository}/manifests/{tag}").headers["content-type"]
        for tag in ("image", "list")
    }
    assert kinds == {"image": f"{DOCKER}.v2+json", "list": f"{DOCKER}.list.v2+json"}
    crane("validate", "--remote", f"{remote}:image")
    crane("validate", "--remote", f"{remote}:list")


def test_tags_are_listed_and_deleted_with_their_image(
    crane: Program, remote: str, make_layout: MakeLayout
) -> None:
    crane("push", make_layout().path, f"{remote}:old")
    crane("tag", f"{remote}:old", "older")
    crane("push", make_layout().path, f"{remote}:new")
    assert crane("ls", remote).split() == ["new", "old", "older"]
    crane("delete", f"{remote}@{crane('digest', f'{remote}:old').strip()}")
    assert crane("ls", remote).split() == ["new"]
    assert "MANIFEST_UNKNOWN" in crane.refused("manifest", f"{remote}:old")


def test_a_tag_alone_is_deleted(crane: Program, remote: str, make_layout: MakeLayout) -> None:
    image = make_layout()
    crane("push", image.path, f"{remote}:v1")
    crane("delete", f"{remote}:v1")
    assert crane("ls", remote).split() == []
    assert crane("digest", f"{remote}@{image.digest}").strip() == image.digest


def test_the_repository_is_in_the_catalog(
    crane: Program, registry: str, repository: str, make_layout: MakeLayout
) -> None:
    crane("push", make_layout().path, f"{registry}/{repository}:v1")
    assert repository in crane("catalog", registry).split()

"""skopeo, and with it the copying half of podman, buildah and CRI-O."""

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
def skopeo(installed: Tools) -> Program:
    return installed("skopeo", "--insecure-policy")


def push(skopeo: Program, layout: Path, remote: str, *options: str) -> None:
    skopeo("copy", "--dest-tls-verify=false", *options, f"oci:{layout}:v1", f"docker://{remote}")


def test_an_image_comes_back_identical(
    skopeo: Program, remote: str, make_layout: MakeLayout, tmp_path: Path
) -> None:
    image = make_layout()
    push(skopeo, image.path, f"{remote}:v1", "--preserve-digests")
    raw = skopeo.raw("inspect", "--tls-verify=false", "--raw", f"docker://{remote}:v1")
    assert raw == image.blobs[image.digest]
    back = tmp_path / "back"
    skopeo("copy", "--src-tls-verify=false", f"docker://{remote}:v1", f"oci:{back}:v1")
    for digest, content in image.blobs.items():
        assert (back / "blobs" / "sha256" / digest[7:]).read_bytes() == content


def test_every_platform_of_an_index_is_copied(
    skopeo: Program, remote: str, make_layout: MakeLayout, tmp_path: Path
) -> None:
    image = make_layout(("amd64", "arm64"))
    push(skopeo, image.path, f"{remote}:v1", "--all", "--preserve-digests")
    back = tmp_path / "back"
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{remote}:v1", f"oci:{back}:v1")
    for digest, content in image.blobs.items():
        assert (back / "blobs" / "sha256" / digest[7:]).read_bytes() == content
    chosen = skopeo(
        *("--override-arch", "arm64", "inspect", "--tls-verify=false"), f"docker://{remote}:v1"
    )
    assert json.loads(chosen)["Architecture"] == "arm64"


def test_docker_schema_2_and_its_manifest_list(
    skopeo: Program, registry: str, repository: str, make_layout: MakeLayout, wire: httpx.Client
) -> None:
    image = make_layout(("amd64", "arm64"))
    push(skopeo, image.path, f"{registry}/{repository}:list", "--all", "--format", "v2s2")
    push(skopeo, make_layout().path, f"{registry}/{repository}:image", "--format", "v2s2")
    kinds = {
        tag: wire.get(f"/v2/{repository}/manifests/{tag}").headers["content-type"]
        for tag in ("image", "list")
    }
    assert kinds == {"image": f"{DOCKER}.v2+json", "list": f"{DOCKER}.list.v2+json"}
    for tag in kinds:
        answer = skopeo("inspect", "--tls-verify=false", f"docker://{registry}/{repository}:{tag}")
        assert len(json.loads(answer)["Layers"]) == 2


def test_a_copy_between_repositories_mounts_its_layers(
    skopeo: Program, remote: str, make_layout: MakeLayout, tap: MakeTap
) -> None:
    image = make_layout()
    wire = tap()
    source, target = wire.reach(f"{remote}:v1"), wire.reach(f"{remote}-copy:v1")
    push(skopeo, image.path, source)
    uploads = len(wire.seen("PATCH .*/blobs/uploads/"))
    skopeo(
        *("copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *(f"docker://{source}", f"docker://{target}"),
    )
    assert len(wire.seen("POST .*mount=|POST .*from=.*mount=")) >= len(image.layers)
    # The config is not asked for elsewhere by this client: it alone goes up again.
    assert len(wire.seen("PATCH .*/blobs/uploads/")) <= uploads + 1
    raw = skopeo.raw("inspect", "--tls-verify=false", "--raw", f"docker://{remote}-copy:v1")
    assert raw == image.blobs[image.digest]


def test_tags_are_listed_and_deleted(skopeo: Program, remote: str, make_layout: MakeLayout) -> None:
    push(skopeo, make_layout().path, f"{remote}:keep")
    push(skopeo, make_layout().path, f"{remote}:drop")
    assert tags(skopeo, remote) == ["drop", "keep"]
    skopeo("delete", "--tls-verify=false", f"docker://{remote}:drop")
    assert tags(skopeo, remote) == ["keep"]


def tags(skopeo: Program, remote: str) -> list[str]:
    answer = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{remote}"))
    return list(answer["Tags"])

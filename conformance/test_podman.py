"""podman: images loaded, pushed, pulled again, and gathered into a manifest list."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.conftest import Layout, MakeLayout, MakeTap, Program, Tools

DOCKER = "application/vnd.docker.distribution.manifest"


@pytest.fixture
def podman(installed: Tools) -> Iterator[Program]:
    """podman with a store of its own, which is empty and goes with the test."""
    # Not under tmp_path: podman refuses a run folder whose path is over 50 characters long.
    with tempfile.TemporaryDirectory(prefix="podman-") as store:
        # fmt: off
        yield installed(
            "podman", "--root", f"{store}/root", "--runroot", f"{store}/run",
            "--tmpdir", f"{store}/tmp", "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        )
        # fmt: on


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return path


def load(podman: Program, image: Layout, name: str, policy: Path) -> None:
    podman("pull", "--quiet", "--signature-policy", policy, f"oci:{image.path}:v1")
    (identity,) = podman("images", "--quiet", "--no-trunc").split()
    podman("tag", identity, name)


def test_an_image_is_pushed_and_pulled_again(
    podman: Program, remote: str, make_layout: MakeLayout, policy: Path, tmp_path: Path
) -> None:
    image = make_layout()
    load(podman, image, f"{remote}:v1", policy)
    podman("push", "--tls-verify=false", "--signature-policy", policy, f"{remote}:v1")
    (before,) = set(podman("images", "--quiet", "--no-trunc").split())
    podman("rmi", "--all", "--force")
    podman("pull", "--tls-verify=false", "--signature-policy", policy, f"{remote}:v1")
    (after,) = set(podman("images", "--quiet", "--no-trunc").split())
    # The identity is the config's digest, and the config names every layer's content.
    assert after == before
    podman("save", "--format", "oci-dir", "--output", tmp_path / "saved", f"{remote}:v1")
    assert (tmp_path / "saved" / "index.json").is_file()


def test_a_second_repository_is_given_the_layers_by_mount(
    podman: Program, remote: str, make_layout: MakeLayout, policy: Path, tap: MakeTap
) -> None:
    image = make_layout()
    wire = tap()
    first, second = wire.reach(f"{remote}:v1"), wire.reach(f"{remote}-copy:v1")
    load(podman, image, first, policy)
    podman("tag", first, second)
    for reference in (first, second):
        podman("push", "--tls-verify=false", "--signature-policy", policy, reference)
    assert len(wire.seen("POST .*mount=.*from=|POST .*from=.*mount=")) >= len(image.layers)
    podman("rmi", "--all", "--force")
    podman("pull", "--tls-verify=false", "--signature-policy", policy, f"{remote}-copy:v1")


def test_docker_schema_2_is_pushed_as_such(
    podman: Program, registry: str, repository: str, make_layout: MakeLayout, policy: Path
) -> None:
    remote = f"{registry}/{repository}:v2s2"
    load(podman, make_layout(), remote, policy)
    podman(
        *("push", "--tls-verify=false", "--signature-policy", policy, "--format", "v2s2"), remote
    )
    podman("rmi", "--all", "--force")
    podman("pull", "--tls-verify=false", "--signature-policy", policy, remote)
    (kind,) = podman("inspect", "--format", "{{.ManifestType}}", remote).split()
    assert kind == f"{DOCKER}.v2+json"


def test_a_manifest_list_of_two_pushed_images(
    podman: Program, registry: str, repository: str, tool: Tools, make_layout: MakeLayout
) -> None:
    remote = f"{registry}/{repository}"
    crane = tool("crane", "--insecure")
    podman("manifest", "create", "both")
    for architecture in ("amd64", "arm64"):
        crane("push", make_layout((architecture,)).path, f"{remote}:{architecture}")
        source = f"docker://{remote}:{architecture}"
        podman("manifest", "add", "--tls-verify=false", "both", source)
    podman(
        *("manifest", "push", "--tls-verify=false", "--all", "--format", "v2s2"),
        *("both", f"docker://{remote}:both"),
    )
    pushed = json.loads(crane("manifest", f"{remote}:both"))
    assert pushed["mediaType"] == f"{DOCKER}.list.v2+json"
    platforms = [entry["platform"]["architecture"] for entry in pushed["manifests"]]
    assert sorted(platforms) == ["amd64", "arm64"]

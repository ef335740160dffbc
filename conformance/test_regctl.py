"""regctl: the client that chunks, and that resumes where a broken connection left off."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.conftest import MakeLayout, MakeTap, Program, Tools

NOTE = "application/vnd.conformance.note"
CHUNK = 200_000


@pytest.fixture
def regctl(tool: Tools, registry: str) -> Program:
    return tool("regctl", "--host", f"reg={registry},tls=disabled")


@pytest.fixture
def tapped(tool: Tools) -> Program:
    """regctl with nothing set: each tap is named to it by `registry set`."""
    return tool("regctl")


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(secrets.token_bytes(700_001))
    return path


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_image_comes_back_identical(
    regctl: Program, remote: str, make_layout: MakeLayout, tmp_path: Path
) -> None:
    image = make_layout(("amd64", "arm64"))
    regctl("image", "copy", f"ocidir://{image.path}:v1", f"{remote}:v1")
    assert regctl("image", "digest", f"{remote}:v1").strip() == image.digest
    regctl("image", "copy", f"{remote}:v1", f"ocidir://{tmp_path}/back:v1")
    for digest, content in image.blobs.items():
        stored = tmp_path / "back" / "blobs" / "sha256" / digest.removeprefix("sha256:")
        assert stored.read_bytes() == content


def test_a_copy_between_repositories_mounts_its_blobs(
    tapped: Program, regctl: Program, remote: str, make_layout: MakeLayout, tap: MakeTap
) -> None:
    image = make_layout()
    regctl("image", "copy", f"ocidir://{image.path}:v1", f"{remote}:v1")
    wire = tap()
    tapped("registry", "set", wire.address, "--tls", "disabled")
    tapped("image", "copy", wire.reach(f"{remote}:v1"), wire.reach(f"{remote}-copy:v1"))
    assert wire.seen("POST .*mount=")
    assert not wire.seen("(PUT|PATCH) .*/blobs/uploads/")
    assert regctl("image", "digest", f"{remote}-copy:v1").strip() == image.digest


def test_a_blob_goes_up_in_chunks(tapped: Program, remote: str, blob: Path, tap: MakeTap) -> None:
    wire = tap()
    set_chunks(tapped, wire.address)
    assert put(tapped, wire.reach(remote), blob) == digest_of(blob)
    ranges = [line.partition(": ")[2] for line in wire.seen("^Content-Range")]
    assert ranges == ["0-199999", "200000-399999", "400000-599999", "600000-700000"]


def test_an_upload_cut_in_a_chunk_resumes_where_it_broke(
    tapped: Program, regctl: Program, remote: str, blob: Path, tap: MakeTap
) -> None:
    wire = tap(cut_up=300_000)
    set_chunks(tapped, wire.address)
    assert put(tapped, wire.reach(remote), blob) == digest_of(blob)
    assert len(wire.seen("^CUT$")) == 1
    # The registry said how far it had come: the client goes on inside the chunk that broke.
    starts = [int(line.split()[1].split("-")[0]) for line in wire.seen("^Content-Range")]
    assert starts.count(0) == 1
    assert any(CHUNK < start < 2 * CHUNK for start in starts)
    assert regctl.raw("blob", "get", remote, digest_of(blob)) == blob.read_bytes()


def test_a_download_that_was_cut_resumes_with_a_range(
    tapped: Program, regctl: Program, remote: str, blob: Path, tap: MakeTap
) -> None:
    put(regctl, remote, blob)
    wire = tap(cut_down=300_000)
    tapped("registry", "set", wire.address, "--tls", "disabled")
    assert tapped.raw("blob", "get", wire.reach(remote), digest_of(blob)) == blob.read_bytes()
    assert len(wire.seen("^CUT$")) == 1
    assert wire.seen("^Range: bytes=[1-9]")


def test_a_page_of_tags(regctl: Program, remote: str, make_layout: MakeLayout) -> None:
    image = make_layout()
    tags = [f"v{number}" for number in range(5)]
    for tag in tags:
        regctl("image", "copy", f"ocidir://{image.path}:v1", f"{remote}:{tag}")
    assert regctl("tag", "ls", remote).split() == tags
    assert regctl("tag", "ls", "--limit", "2", remote).split() == tags[:2]
    assert regctl("tag", "ls", "--limit", "2", "--last", "v1", remote).split() == tags[2:4]


def test_what_was_attached_is_listed_by_type(
    regctl: Program, remote: str, make_layout: MakeLayout, blob: Path
) -> None:
    image = make_layout()
    regctl("image", "copy", f"ocidir://{image.path}:v1", f"{remote}:v1")
    for kind in (NOTE, "application/other"):
        regctl(
            *("artifact", "put", "--artifact-type", kind, "--subject", f"{remote}:v1"),
            *("--annotation", f"kind={kind}", "--file", blob),
        )
    assert sorted(listed(regctl, f"{remote}:v1")) == sorted([NOTE, "application/other"])
    assert listed(regctl, f"{remote}:v1", "--filter-artifact-type", NOTE) == [NOTE]
    # The old tag scheme leaves a tag named after the subject behind; the API leaves none.
    assert regctl("tag", "ls", remote).split() == ["v1"]
    assert NOTE in regctl("artifact", "tree", f"{remote}:v1")


def test_a_tag_and_then_its_manifest_are_deleted(
    regctl: Program, remote: str, make_layout: MakeLayout
) -> None:
    image = make_layout()
    for tag in ("v1", "v2"):
        regctl("image", "copy", f"ocidir://{image.path}:v1", f"{remote}:{tag}")
    regctl("tag", "delete", f"{remote}:v1")
    assert regctl("tag", "ls", remote).split() == ["v2"]
    regctl("manifest", "delete", f"{remote}@{image.digest}")
    assert regctl("tag", "ls", remote).split() == []
    assert "not found" in regctl.refused("manifest", "get", f"{remote}@{image.digest}")


def test_the_repository_is_listed(
    regctl: Program, registry: str, repository: str, make_layout: MakeLayout
) -> None:
    image = make_layout()
    regctl("image", "copy", f"ocidir://{image.path}:v1", f"{registry}/{repository}:v1")
    assert repository in regctl("repo", "ls", registry).split()


def set_chunks(regctl: Program, address: str) -> None:
    regctl(
        *("registry", "set", address, "--tls", "disabled"),
        *("--blob-max", "100000", "--blob-chunk", str(CHUNK)),
    )


def put(regctl: Program, reference: str, blob: Path) -> str:
    return regctl("blob", "put", reference, given=blob.read_bytes()).strip()


def listed(regctl: Program, reference: str, *options: str) -> list[str]:
    answer = regctl("artifact", "list", *options, "--format", "body", reference)
    return [entry["artifactType"] for entry in json.loads(answer)["manifests"]]

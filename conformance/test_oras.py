"""oras, the Go command: what a person pushes, tags, copies, attaches and deletes by hand."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from conformance.conftest import MakeTap, Program, Tools

NOTE = "application/vnd.conformance.note"


@pytest.fixture
def oras(tool: Tools) -> Program:
    return tool("oras")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.mkdir()
    (path / "small.txt").write_text(secrets.token_hex(20))
    (path / "large.bin").write_bytes(secrets.token_bytes(2_000_000))
    return path


def push(oras: Program, reference: str, folder: Path, *options: str) -> str:
    """Push the folder's files as one artifact; its manifest's digest."""
    files = sorted(path.name for path in folder.iterdir())
    answer = oras(
        "push", "--plain-http", "--format", "json", *options, reference, *files, cwd=folder
    )
    return str(json.loads(answer)["digest"])


def test_pushed_files_come_back_identical(
    oras: Program, remote: str, folder: Path, tmp_path: Path
) -> None:
    reference = f"{remote}:v1"
    digest = push(oras, reference, folder, "--artifact-type", NOTE, "--annotation", "made=here")
    oras("pull", "--plain-http", "--output", tmp_path / "back", reference)
    assert contents(tmp_path / "back") == contents(folder)
    assert oras("resolve", "--plain-http", reference).strip() == digest
    manifest = json.loads(oras("manifest", "fetch", "--plain-http", reference))
    assert manifest["annotations"]["made"] == "here"
    assert manifest["artifactType"] == NOTE


def test_a_copy_between_repositories_mounts_its_blobs(
    oras: Program, remote: str, folder: Path, tap: MakeTap, tmp_path: Path
) -> None:
    push(oras, f"{remote}:v1", folder)
    wire = tap()
    source = wire.reach(f"{remote}:v1")
    oras("cp", "--from-plain-http", "--to-plain-http", source, wire.reach(f"{remote}-copy:v1"))
    assert wire.seen("POST .*mount=.*from=")
    assert not wire.seen("(PUT|PATCH) .*/blobs/uploads/")
    oras("pull", "--plain-http", "--output", tmp_path / "back", f"{remote}-copy:v1")
    assert contents(tmp_path / "back") == contents(folder)


def test_more_tags_than_a_page_are_all_listed(
    oras: Program, tool: Tools, remote: str, folder: Path
) -> None:
    push(oras, f"{remote}:t0000", folder)
    tags = [f"t{number:04}" for number in range(1_050)]
    oras("tag", "--plain-http", f"{remote}:t0000", *tags[1:])
    assert oras("repo", "tags", "--plain-http", remote).split() == tags
    later = oras("repo", "tags", "--plain-http", "--last", "t1039", remote)
    assert later.split() == tags[1_040:]
    # crane asks for 1,000 at a time, so its list is whole only if it was given a next page.
    assert tool("crane")("ls", "--insecure", remote).split() == tags


def test_what_was_attached_is_discovered(
    oras: Program, remote: str, folder: Path, tmp_path: Path
) -> None:
    reference = f"{remote}:v1"
    push(oras, reference, folder)
    (tmp_path / "note.txt").write_text("looks fine")
    for kind, words in ((NOTE, "first"), (NOTE, "second"), ("application/other", "third")):
        # The option refuses the old tag scheme: only the referrers API counts.
        oras(
            *("attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api"),
            *("--artifact-type", kind, "--annotation", f"words={words}"),
            *(reference, "note.txt"),
            cwd=tmp_path,
        )
    found = discovered(oras, reference)
    assert sorted(entry["annotations"]["words"] for entry in found) == ["first", "second", "third"]
    found = discovered(oras, reference, "--artifact-type", NOTE)
    assert sorted(entry["annotations"]["words"] for entry in found) == ["first", "second"]


def test_a_recursive_copy_takes_the_referrers_along(
    oras: Program, remote: str, folder: Path
) -> None:
    push(oras, f"{remote}:v1", folder)
    oras(
        *("attach", "--plain-http", "--artifact-type", NOTE, "--annotation", "words=along"),
        f"{remote}:v1",
    )
    oras(
        *("cp", "--recursive", "--from-plain-http", "--to-plain-http"),
        *(f"{remote}:v1", f"{remote}-copy:v1"),
    )
    (entry,) = discovered(oras, f"{remote}-copy:v1")
    assert entry["annotations"]["words"] == "along"


def test_a_deleted_manifest_is_gone_with_its_tags(oras: Program, remote: str, folder: Path) -> None:
    digest = push(oras, f"{remote}:v1", folder)
    oras("tag", "--plain-http", f"{remote}:v1", "v2")
    oras("manifest", "delete", "--plain-http", "--force", f"{remote}@{digest}")
    for gone in (f"{remote}:v1", f"{remote}:v2", f"{remote}@{digest}"):
        assert "not found" in oras.refused("manifest", "fetch", "--plain-http", gone)
    assert oras("repo", "tags", "--plain-http", remote).split() == []


def test_a_blob_is_pushed_fetched_and_deleted(
    oras: Program, registry: str, repository: str, folder: Path, wire: httpx.Client
) -> None:
    blob = folder / "large.bin"
    answer = oras(
        *("blob", "push", "--plain-http", "--descriptor"), f"{registry}/{repository}", blob
    )
    digest = json.loads(answer)["digest"]
    reference = f"{registry}/{repository}@{digest}"
    assert oras.raw("blob", "fetch", "--plain-http", "--output", "-", reference) == (
        blob.read_bytes()
    )
    oras("blob", "delete", "--plain-http", "--force", reference)
    assert wire.get(f"/v2/{repository}/blobs/{digest}").status_code == 404


def test_the_repository_is_listed(
    oras: Program, registry: str, repository: str, folder: Path
) -> None:
    push(oras, f"{registry}/{repository}:v1", folder)
    assert repository in oras("repo", "ls", "--plain-http", registry).split()


def discovered(oras: Program, reference: str, *options: str) -> list[dict[str, dict[str, str]]]:
    answer = json.loads(
        oras(
            *("discover", "--plain-http", "--format", "json", *options),
            *("--distribution-spec", "v1.1-referrers-api", reference),
        )
    )
    return list(answer.get("referrers") or answer.get("manifests") or [])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

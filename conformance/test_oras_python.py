"""oras-py, the Python library: whole files in one request, or chunks when asked."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import oras.client
import oras.oci
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from conformance.conftest import MakeTap

NOTE = "application/vnd.conformance.note"
CHUNK = 65_536


@pytest.fixture
def client(registry: str) -> Iterator[oras.client.OrasClient]:
    made = connected(registry)
    yield made
    made.session.close()


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(secrets.token_bytes(200_001))
    return path


def connected(address: str) -> oras.client.OrasClient:
    return oras.client.OrasClient(hostname=address, insecure=True)


def push(client: oras.client.OrasClient, target: str, blob: Path, **options: object) -> str:
    """Push one file; its manifest's digest."""
    answer = client.push(
        target=target, files=[f"{blob}:{NOTE}"], disable_path_validation=True, **options
    )
    assert answer.status_code == 201
    return str(answer.headers["Docker-Content-Digest"])


def test_a_file_comes_back_identical(
    client: oras.client.OrasClient, remote: str, blob: Path, tmp_path: Path
) -> None:
    push(client, f"{remote}:v1", blob, manifest_annotations={"made": "here"})
    (back,) = client.pull(target=f"{remote}:v1", outdir=str(tmp_path / "back"))
    assert (tmp_path / "back" / blob.name).samefile(back)
    assert (tmp_path / "back" / blob.name).read_bytes() == blob.read_bytes()
    assert client.get_manifest(f"{remote}:v1")["annotations"] == {"made": "here"}


def test_a_file_goes_up_in_chunks(
    client: oras.client.OrasClient, remote: str, blob: Path, tap: MakeTap
) -> None:
    wire = tap()
    tapped = connected(wire.address)
    push(tapped, wire.reach(f"{remote}:v1"), blob, do_chunked=True, chunk_size=CHUNK)
    tapped.session.close()
    ranges = [line.partition(": ")[2] for line in wire.seen("^Content-Range")]
    assert ranges == ["0-65535", "65536-131071", "131072-196607", "196608-200000"]
    digest = f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    assert client.get_blob(f"{remote}:v1", digest).content == blob.read_bytes()


def test_tags_are_listed_whole_or_as_many_as_asked(
    client: oras.client.OrasClient, remote: str, blob: Path
) -> None:
    tags = [f"v{number}" for number in range(5)]
    for tag in tags:
        push(client, f"{remote}:{tag}", blob)
    assert client.get_tags(remote) == tags
    assert client.get_tags(remote, N=2) == tags[:2]


def test_what_names_a_subject_is_its_referrer(
    client: oras.client.OrasClient, registry: str, repository: str, blob: Path, wire: httpx.Client
) -> None:
    remote = f"{registry}/{repository}"
    digest = push(client, f"{remote}:v1", blob)
    size = len(wire.get(f"/v2/{repository}/manifests/{digest}").content)
    subject = oras.oci.Subject(
        mediaType="application/vnd.oci.image.manifest.v1+json", digest=digest, size=size
    )
    note = push(client, f"{remote}:note", blob, subject=subject)
    found = wire.get(f"/v2/{repository}/referrers/{digest}").json()["manifests"]
    assert [entry["digest"] for entry in found] == [note]


def test_a_tag_is_deleted_with_its_manifest(
    client: oras.client.OrasClient, registry: str, repository: str, blob: Path, wire: httpx.Client
) -> None:
    remote = f"{registry}/{repository}"
    digest = push(client, f"{remote}:v1", blob)
    assert client.delete_tag(remote, "v1")
    assert client.get_tags(remote) == []
    assert wire.get(f"/v2/{repository}/manifests/{digest}").status_code == 404
    assert not client.delete_tag(remote, "v1")

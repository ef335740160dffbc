# A disk with no room left: refused with 507, nothing lost, nothing left over, and well again after.
from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    OCI_MANIFEST,
    assert_refused,
    begin,
    files_of,
    image,
    noise,
    put_manifest,
    rows,
    unique_image,
)
from tests.wire.raw import Connection, request

_DISK = 12 * MIB


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A registry whose whole data folder lies on a disk of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder)
    else:
        picture = tmp_path / "picture"
        with picture.open("wb") as file:
            file.truncate(_DISK + 2 * MIB)
        run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", picture)
        run("mount", "-o", "loop", picture, folder)
    try:
        served = Served(folder).start()
        try:
            yield served
        finally:
            served.kill()
    finally:
        run("umount", folder)


def fill(served: Served, leave: int) -> Path:
    """Fill the disk but for that many bytes."""
    filler = served.data / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(64 * 1024)):
                pass
        except OSError:
            file.truncate(max(filler.stat().st_size - leave, 0))
    return filler


def assert_consistent(served: Served) -> None:
    """Every object has a row and every row its object, and the catalog is sound."""
    assert rows(served, "PRAGMA integrity_check") == [("ok",)]
    files = {path.name: path.stat().st_size for path in files_of(served)}
    blobs = dict(rows(served, "SELECT key, size FROM blob"))
    assert {key: files.get(key) for key in blobs} == blobs
    in_flight = {key for (key,) in rows(served, "SELECT id FROM upload")}
    assert set(files) <= set(blobs) | in_flight


def chunk(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.patch(begin(client, "full"), content=body)


def stream(client: httpx.Client, body: bytes) -> httpx.Response:
    pieces = (body[at : at + 70_000] for at in range(0, len(body), 70_000))
    return client.patch(begin(client, "full"), content=pieces)


def closing_put(client: httpx.Client, body: bytes) -> httpx.Response:
    location = begin(client, "full")
    return client.put(location, params={"digest": digest_of(body)}, content=body)


def single_post(client: httpx.Client, body: bytes) -> httpx.Response:
    parameters = {"digest": digest_of(body)}
    return client.post("/v2/full/blobs/uploads/", params=parameters, content=body)


WAYS = [chunk, stream, closing_put, single_post]


@pytest.mark.parametrize("way", WAYS)
def test_a_blob_that_does_not_fit_is_507(
    small: Served, way: Callable[[httpx.Client, bytes], httpx.Response]
) -> None:
    held, body = noise(2 * MIB), noise(6 * MIB)
    with small.client() as client:
        digest = push_blob(client, "full", held)
        manifest = image(held)
        put_manifest(client, "full", "v1", manifest)
        filler = fill(small, 3 * MIB)
        before = set(files_of(small))

        refused = way(client, body)
        assert_refused(refused, 507, "DENIED")
        assert int(refused.headers["retry-after"]) > 0
        assert client.head(f"/v2/full/blobs/{digest_of(body)}").status_code == 404
        assert_consistent(small)
        # What a session keeps is what it says it has: here nothing came to rest.
        new = set(files_of(small)) - before
        assert sum(path.stat().st_size for path in new) == 0
        if way is single_post:
            assert new == set()
            assert rows(small, "SELECT * FROM upload") == []

        # What was there is there, and small things still go in.
        assert client.get(f"/v2/full/blobs/{digest}").content == held
        assert client.get("/v2/full/manifests/v1").content == manifest
        push_blob(client, "full", b"small")

        filler.unlink()
        push_blob(client, "full", body)
        assert client.get(f"/v2/full/blobs/{digest_of(body)}").content == body
        assert_consistent(small)


def test_an_upload_goes_on_once_there_is_room(small: Served) -> None:
    body = noise(7 * MIB)
    with small.client() as client:
        location = begin(client, "full")
        fields = {"content-range": f"0-{MIB - 1}"}
        assert client.patch(location, content=body[:MIB], headers=fields).status_code == 202
        filler = fill(small, 3 * MIB)
        rest = {"content-range": f"{MIB}-{len(body) - 1}"}
        assert_refused(client.patch(location, content=body[MIB:], headers=rest), 507, "DENIED")
        assert client.get(location).headers["range"] == f"0-{MIB - 1}"
        filler.unlink()
        assert client.patch(location, content=body[MIB:], headers=rest).status_code == 202
        assert client.put(location, params={"digest": digest_of(body)}).status_code == 201
        assert client.get(f"/v2/full/blobs/{digest_of(body)}").content == body


def test_the_connection_goes_on_behind_a_body_that_did_not_fit(small: Served) -> None:
    with small.client() as client, Connection(small) as connection:
        location, body = begin(client, "full"), noise(8 * MIB)
        filler = fill(small, 3 * MIB)
        connection.send(request("PATCH", location, f"Content-Length: {len(body)}") + body)
        refused = connection.answer()
        assert_refused(refused, 507, "DENIED")
        assert connection.ask(request("GET", "/v2/")).status_code == 200
        filler.unlink()
        assert client.put(location, params={"digest": digest_of(b"")}).status_code == 201
        assert_consistent(small)


def test_with_no_byte_left_everything_is_refused_and_readable(small: Served) -> None:
    held, manifest = noise(MIB), unique_image()
    with small.client() as client:
        digest = push_blob(client, "full", held)
        put_manifest(client, "full", "v1", manifest)
        location = begin(client, "full")
        untouched = [begin(client, "full") for _ in range(20)]
        filler = fill(small, 0)
        assert {client.get(each).status_code for each in untouched} == {204}
        big = unique_image() + b" " * (3 * MIB)
        for answer in (
            client.put(
                "/v2/full/manifests/v2", content=big, headers={"content-type": OCI_MANIFEST}
            ),
            client.patch(location, content=noise(MIB)),
            single_post(client, noise(3 * MIB)),
        ):
            assert_refused(answer, 507, "DENIED")
        for _ in range(3):
            assert client.get(f"/v2/full/blobs/{digest}").content == held
            assert client.get("/v2/full/manifests/v1").content == manifest
        assert client.get("/v2/full/tags/list").json()["tags"] == ["v1"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert_consistent(small)

        filler.unlink()
        put_manifest(client, "full", "v2", big)
        assert client.get("/v2/full/manifests/v2").content == big
        assert client.get("/readyz").status_code == 200
        push_blob(client, "full", noise(2 * MIB))
        assert client.delete(location).status_code == 204
        assert_consistent(small)


def test_the_registry_starts_again_after_a_full_disk(small: Served) -> None:
    held = noise(MIB)
    with small.client() as client:
        digest = push_blob(client, "full", held)
        filler = fill(small, MIB)
        assert_refused(closing_put(client, noise(4 * MIB)), 507, "DENIED")
    small.kill()
    filler.unlink()
    small.start()
    with small.client() as client:
        assert client.get(f"/v2/full/blobs/{digest}").content == held
        push_blob(client, "full", noise(4 * MIB))
    assert_consistent(small)

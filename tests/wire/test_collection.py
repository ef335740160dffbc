"""Garbage collection as clients and operators meet it: what was pushed is there, what was deleted
goes, bytes and all.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    OCI_INDEX,
    files_holding,
    files_of,
    image,
    index,
    new_repository,
    noise,
    put_manifest,
    rows,
)
from tests.wire.raw import eventually

_GRACE = 1.0
SHORT = ("--gc-grace", "1s", "--gc-delay", "100ms", "--sparse", "refuse")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that keeps nothing for long, collected when a test says so."""
    served = Served(tmp_path_factory.mktemp("collected"), options=SHORT).start()
    yield served
    served.stop()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def collect(served: Served, *options: str, status: int = 0) -> str:
    """Run `lading gc` beside the server; return what it said."""
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("lading")), "gc",
         "--catalog", f"sqlite:///{served.data}/catalog.db",
         "--blobs", f"file:///{served.data}/blobs",
         "--gc-grace", "1s", "--gc-delay", "100ms", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == status, ended
    return ended.stdout + ended.stderr


def push_image(client: httpx.Client, repository: str, tag: str, *layers: bytes) -> str:
    for blob in (b"{}", *layers):
        push_blob(client, repository, blob)
    body = image(*layers)
    put_manifest(client, repository, tag, body)
    return digest_of(body)


def test_bytes_of_a_deleted_manifest_go_and_the_others_stay(
    served: Served, client: httpx.Client
) -> None:
    repository, kept, dropped = new_repository(), noise(5000), noise(6000)
    push_image(client, repository, "kept", kept)
    digest = push_image(client, repository, "dropped", dropped)
    assert client.delete(f"/v2/{repository}/manifests/{digest}").status_code == 202
    collect(served, "--gc-grace", "1h")
    assert client.get(f"/v2/{repository}/blobs/{digest_of(dropped)}").content == dropped
    time.sleep(_GRACE)
    said = collect(served, "--dry-run")
    assert f"goes  link     {repository} {digest_of(dropped)} 6000 no manifest names it" in said
    assert f"stays link     {repository} {digest_of(kept)} 5000 named by" in said
    # Others may have left something in this registry: how many went is not for this test to say.
    assert "dropped 0 manifests, 0 links" not in collect(served)
    assert client.get(f"/v2/{repository}/blobs/{digest_of(dropped)}").status_code == 404
    eventually(lambda: not files_holding(served, dropped), seconds=10)
    assert client.get(f"/v2/{repository}/blobs/{digest_of(kept)}").content == kept
    eventually(lambda: "dropped 0 manifests, 0 links, 0 blobs" in collect(served))


def test_a_dry_run_changes_nothing(served: Served, client: httpx.Client) -> None:
    repository, blob = new_repository(), noise(5000)
    push_blob(client, repository, blob)
    time.sleep(_GRACE)
    before = rows(served, "SELECT * FROM repository_blob, lease, discarded")
    for _ in range(2):
        said = collect(served, "--dry-run")
        assert f"goes  link     {repository} {digest_of(blob)}" in said
    assert rows(served, "SELECT * FROM repository_blob, lease, discarded") == before
    assert client.get(f"/v2/{repository}/blobs/{digest_of(blob)}").content == blob


def test_what_head_found_is_there_for_the_manifest_across_a_collection(tmp_path: Path) -> None:
    # Half of it is longer than a collection and a PUT take on a busy machine.
    grace = 8.0
    served = Served(tmp_path, options=(*SHORT, "--gc-grace", f"{grace}s")).start()
    try:
        with served.client() as client:
            repository, layer = new_repository(), noise(5000)
            for blob in (b"{}", layer):
                push_blob(client, repository, blob)
            # Into the server's memory: what is kept there must not answer for what is not renewed.
            path = f"/v2/{repository}/blobs/{digest_of(layer)}"
            for _ in range(2):
                assert client.get(path).status_code == 200
            time.sleep(grace)
            for blob in (b"{}", layer):
                found = client.head(f"/v2/{repository}/blobs/{digest_of(blob)}")
                assert found.status_code == 200
            collect(served, "--gc-grace", f"{grace}s")
            put_manifest(client, repository, "v1", image(layer))
            collect(served, "--gc-grace", "1ms")
            assert client.get(path).content == layer
    finally:
        served.stop()


def test_head_of_what_was_collected_is_404_at_once(served: Served, client: httpx.Client) -> None:
    repository, blob = new_repository(), noise(5000)
    path = f"/v2/{repository}/blobs/{push_blob(client, repository, blob)}"
    assert client.head(path).status_code == 200
    time.sleep(_GRACE)
    collect(served)
    assert client.head(path).status_code == 404
    assert client.get(path).status_code == 404


def test_a_blob_pushed_again_while_its_bytes_wait_to_be_deleted_is_whole(
    served: Served, client: httpx.Client
) -> None:
    repository, blob = new_repository(), noise(5000)
    path = f"/v2/{repository}/blobs/{push_blob(client, repository, blob)}"
    time.sleep(_GRACE)
    collect(served)
    push_blob(client, repository, blob)
    eventually(lambda: len(files_holding(served, blob)) == 1, seconds=10)
    assert client.get(path).content == blob


def test_untagged_manifests_go_only_where_a_setting_says_so(
    served: Served, client: httpx.Client
) -> None:
    repository, layer = new_repository(), noise(5000)
    child = push_image(client, repository, "child", layer)
    body = index(image(layer))
    put_manifest(client, repository, "v1", body, OCI_INDEX)
    signature = image(
        subject={"mediaType": OCI_INDEX, "digest": digest_of(body), "size": len(body)}
    )
    put_manifest(client, repository, digest_of(signature), signature)
    paths = [
        f"/v2/{repository}/manifests/{each}"
        for each in (child, digest_of(body), digest_of(signature))
    ]
    client.delete(f"/v2/{repository}/manifests/child")
    time.sleep(_GRACE)
    collect(served, "--gc-untagged", "1s")
    client.delete(f"/v2/{repository}/manifests/v1")
    time.sleep(_GRACE)
    assert "untagged manifests are kept" in collect(served, "--dry-run")
    collect(served)
    assert [client.get(each).status_code for each in paths] == [200, 200, 200]
    time.sleep(1.0)
    collect(served, "--gc-untagged", "1s")
    assert [client.get(each).status_code for each in paths] == [404, 404, 404]
    assert client.get(f"/v2/{repository}/blobs/{digest_of(layer)}").status_code == 404


def test_a_manifest_asked_for_by_digest_is_kept_from_a_collection(tmp_path: Path) -> None:
    options = (*SHORT, "--gc-untagged", "6s")
    served = Served(tmp_path, options=options).start()
    try:
        with served.client() as client:
            digest = push_image(client, "a", "v1", b"x")
            client.delete("/v2/a/manifests/v1")
            done = Event()

            def ask() -> set[int]:
                found: set[int] = set()
                while not done.wait(0.02):
                    found.add(client.head(f"/v2/a/manifests/{digest}").status_code)
                return found

            # Nobody else writes: what is at hand must not be given for longer than it was renewed.
            with ThreadPoolExecutor(1) as asking:
                statuses = asking.submit(ask)
                time.sleep(8.0)
                # On a busy machine the command takes longer to start than a renewal lasts.
                collected = collect(served, "--gc-untagged", "6s")
                done.set()
            assert statuses.result() == {200}
            assert "dropped 0 manifests" in collected
            eventually(lambda: "dropped 1 manifests" in collect(served, "--gc-untagged", "6s"))
            assert client.head(f"/v2/a/manifests/{digest}").status_code == 404
    finally:
        served.stop()


def test_a_scheduled_run_collects_and_counts(tmp_path: Path) -> None:
    served = Served(tmp_path, workers=2, options=(*SHORT, "--gc-interval", "200ms")).start()
    try:
        with served.client() as client:
            blob = noise(5000)
            push_blob(client, "a", blob)
            eventually(lambda: not files_of(served), seconds=20)
            eventually(lambda: "lading_objects_deleted_total 1.0" in client.get("/metrics").text)
            counted = client.get("/metrics").text
        assert 'lading_collected_total{kind="blob"} 1.0' in counted
        assert "lading_collected_bytes_total 5000.0" in counted
        assert "lading_last_collection_timestamp_seconds" in counted
        assert '"event": "collected"' in served.log
    finally:
        served.stop()


# -- as a command


def test_gc_needs_stores_that_are_there_and_makes_none(tmp_path: Path) -> None:
    said = collect(Served(tmp_path / "nowhere"), status=2)
    assert said.startswith("lading gc: there is nothing at ")
    assert not list(tmp_path.iterdir())


def test_gc_beside_another_collection_is_refused(served: Served) -> None:

    with closing(sqlite3.connect(served.data / "catalog.db")) as db, db:
        db.execute("INSERT INTO lease VALUES ('gc', 'somebody', ?)", (time.time() + 60,))
    try:
        assert "another collection is under way" in collect(served, status=2)
    finally:
        with closing(sqlite3.connect(served.data / "catalog.db")) as db, db:
            db.execute("DELETE FROM lease")

"""Two replicas that share a PostgreSQL and a blob folder: what one does the other has, through the
loss of a replica and of the database.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from ociserver.storage.postgres import migrate
from tests.postgres import PostgresServer
from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    assert_refused,
    begin,
    new_repository,
    noise,
    put_manifest,
    unique_image,
)
from tests.wire.raw import Connection, eventually, request

Pair = tuple[Served, Served]


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """A server of this module's own: its tests stop it."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def pair(database: PostgresServer, tmp_path: Path) -> Iterator[Pair]:
    url = database.new_database()
    asyncio.run(migrate(url))
    stores = ("--catalog", url, "--blobs", f"file:///{tmp_path}/shared")
    first, second = (Served(tmp_path / name, options=stores).start() for name in ("one", "two"))
    yield first, second
    for each in (first, second):
        each.stop()


def test_a_tag_moved_on_one_is_seen_on_the_other(pair: Pair) -> None:
    bodies = [unique_image() for _ in range(20)]
    with pair[0].client() as one, pair[1].client() as two:
        for number, body in enumerate(bodies):
            writer, reader = (one, two) if number % 2 else (two, one)
            put_manifest(writer, "moving", "v1", body)
            assert writer.get("/v2/moving/manifests/v1").content == body
            eventually(
                lambda r=reader, b=body: r.get("/v2/moving/manifests/v1").content == b,  # type: ignore[misc]
                seconds=5,
            )


def test_what_is_deleted_on_one_is_gone_on_the_other(pair: Pair) -> None:
    body = unique_image()
    target = f"/v2/going/manifests/{digest_of(body)}"
    with pair[0].client() as one, pair[1].client() as two:
        put_manifest(one, "going", "v1", body)
        for each in (one, two):
            assert each.get(target).status_code == 200
        assert one.delete(target).status_code == 202
        for path in (target, "/v2/going/manifests/v1"):
            eventually(lambda p=path: two.get(p).status_code == 404, seconds=5)  # type: ignore[misc]


def test_an_upload_begun_on_one_goes_on_on_the_other(pair: Pair) -> None:
    body = noise(7 * MIB)
    with pair[0].client() as one, pair[1].client() as two:
        location = begin(one, "shared")
        fields = {"content-range": f"0-{3 * MIB - 1}"}
        assert one.patch(location, content=body[: 3 * MIB], headers=fields).status_code == 202
        assert two.get(location).headers["range"] == f"0-{3 * MIB - 1}"
        fields = {"content-range": f"{3 * MIB}-{5 * MIB - 1}"}
        middle = body[3 * MIB : 5 * MIB]
        assert two.patch(location, content=middle, headers=fields).status_code == 202
        done = one.put(location, params={"digest": digest_of(body)}, content=body[5 * MIB :])
        assert done.status_code == 201
        assert two.get(f"/v2/shared/blobs/{digest_of(body)}").content == body


def test_a_replica_killed_in_a_chunk_leaves_the_upload_to_the_other(pair: Pair) -> None:
    body = noise(6 * MIB)
    with pair[0].client() as one, pair[1].client() as two:
        location = begin(one, "shared")
        fields = {"content-range": f"0-{MIB - 1}"}
        assert one.patch(location, content=body[:MIB], headers=fields).status_code == 202
        with Connection(pair[0]) as connection:
            head = request("PATCH", location, f"Content-Length: {len(body) - MIB}")
            connection.send(head + body[MIB : 4 * MIB])
            time.sleep(0.3)
            pair[0].kill()
        offset = int(two.get(location).headers["range"].partition("-")[2]) + 1
        assert MIB <= offset <= 4 * MIB
        done = two.put(location, params={"digest": digest_of(body)}, content=body[offset:])
        assert done.status_code == 201
        assert two.get(f"/v2/shared/blobs/{digest_of(body)}").content == body


def test_five_hundred_tags_pushed_to_both_are_listed_by_both(pair: Pair) -> None:
    body = unique_image()

    def push(number: int) -> int:
        with pair[number % 2].client() as client:
            answer = client.put(
                f"/v2/many/manifests/t{number}",
                content=body,
                headers={"content-type": "application/vnd.oci.image.manifest.v1+json"},
            )
            return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(push, range(500))) == {201}
    for each in pair:
        with each.client() as client:
            assert len(client.get("/v2/many/tags/list").json()["tags"]) == 500


def test_through_an_outage_of_the_database_what_was_served_is_served(
    pair: Pair, database: PostgresServer
) -> None:
    repository, body, blob = new_repository(), unique_image(), noise(100_000)
    target, stop = f"/v2/{repository}/manifests/v1", Event()
    with pair[0].client() as client:
        digest = push_blob(client, repository, blob)
        put_manifest(client, repository, "v1", body)
        paths = {target: body, f"/v2/{repository}/blobs/{digest}": blob}
        for path in paths:
            assert client.get(path).status_code == 200

        def storm() -> tuple[int, list[str]]:
            reads, wrong = 0, []
            with pair[0].client() as reader:
                while not stop.is_set():
                    for path, expected in paths.items():
                        answer = reader.get(path)
                        reads += 1
                        if answer.status_code != 200 or answer.content != expected:
                            wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return reads, wrong

        with ThreadPoolExecutor(4) as pool:
            storms = [pool.submit(storm) for _ in range(4)]
            try:
                time.sleep(0.5)
                database.stop(signal.SIGQUIT)
                eventually(lambda: "warning" in client.get(target).headers)
                for _ in range(3):
                    _assert_writes_fail_clean(client, repository)
                assert_refused(client.get("/readyz"), 503, "TOOMANYREQUESTS")
                assert client.get("/healthz").status_code == 200
                time.sleep(0.5)
            finally:
                database.start()
            eventually(lambda: "warning" not in client.get(target).headers)
            stop.set()
            told = [each.result() for each in storms]
        assert sum(reads for reads, _ in told) > 100
        assert [wrong for _, wrong in told] == [[]] * 4
        eventually(lambda: client.get("/readyz").status_code == 200)
        put_manifest(client, repository, "v2", unique_image())


def _assert_writes_fail_clean(client: httpx.Client, repository: str) -> None:
    manifest = client.put(
        f"/v2/{repository}/manifests/v9",
        content=unique_image(),
        headers={"content-type": "application/vnd.oci.image.manifest.v1+json"},
    )
    for refused in (manifest, client.post(f"/v2/{repository}/blobs/uploads/")):
        assert_refused(refused, 503, "TOOMANYREQUESTS")
        assert int(refused.headers["retry-after"]) > 0


def test_a_database_that_hangs_is_given_up(pair: Pair, database: PostgresServer) -> None:
    repository = new_repository()
    with pair[0].client() as client:
        digest = put_manifest(client, repository, "v1", unique_image()).headers[
            "docker-content-digest"
        ]
        assert client.get(f"/v2/{repository}/manifests/v1").status_code == 200
        with database.hanging():
            # Until its ear is deaf, too, a worker takes what it has for what there is.
            eventually(lambda: "no news from other replicas" in pair[0].log, 30)
            began = time.monotonic()
            assert client.get("/readyz").status_code == 503
            kept = client.get(f"/v2/{repository}/manifests/v1")
            assert kept.status_code == 200
            assert kept.headers["docker-content-digest"] == digest
            assert "stale" in kept.headers["warning"]
            # Ten seconds and what a busy machine adds; without a bound it is a minute.
            assert time.monotonic() - began < 25
        eventually(lambda: client.get("/readyz").status_code == 200, 30)
        put_manifest(client, repository, "v1", unique_image())

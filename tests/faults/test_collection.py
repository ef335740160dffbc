"""Collections that are killed, and collections in the midst of pushes: nothing acknowledged is
lost, nothing is refused, and in the end nothing is left.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from ociserver.storage.postgres import migrate
from tests.faults.audit import blob_files, check_at_rest, crash, running
from tests.faults.wire import OCI_MANIFEST, Connection, manifest_of
from tests.postgres import PostgresServer
from tests.serving import Served, digest_of
from tests.wire.build import rows
from tests.wire.raw import eventually

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_GRACE = 3.0
_EAGER = (
    *("--sparse", "refuse", "--gc-grace", f"{_GRACE}s", "--gc-delay", "500ms"),
    *("--gc-untagged", f"{_GRACE}s", "--gc-interval", "200ms"),
)
# On a busy machine the time alone is too short for anything to be collected and come again.
_LEAST_PUSHES = 60
_STORM_SECONDS = 12.0
_PUSHERS = 6

Serving = Callable[[Path], AbstractContextManager[Sequence[Served]]]


def begun_collection(served: Served) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("lading")), "gc",
         "--catalog", f"sqlite:///{served.data}/catalog.db",
         "--blobs", f"file:///{served.data}/blobs", "--gc-grace", "10ms", "--gc-delay", "10ms"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def count(served: Served, table: str) -> int:
    return int(rows(served, f"SELECT count(*) FROM {table}")[0][0])


@pytest.mark.parametrize("table", ["repository_blob", "blob"])
def test_a_killed_collection_loses_nothing_and_the_next_one_ends_it(
    tmp_path: Path, table: str
) -> None:
    layer = random.randbytes(3000)
    served = Served(tmp_path, options=("--gc-delay", "100ms"))
    with running(served):
        with Connection(served.port) as connection:
            post(connection, "kept", layer)
            post(connection, "kept", b"{}")
            body = manifest_of("kept", layers=[(digest_of(layer), len(layer))])
            connection.put_manifest("kept", "v1", body)
            for number in range(600):
                post(connection, f"dead/r{number % 3}", b"%d" % number)
        before = count(served, table)
        collection = begun_collection(served)
        eventually(lambda: count(served, table) < before, seconds=20)
        collection.kill()
        collection.wait()
        crash(served)
        check_at_rest(tmp_path)
        assert count(served, table) > 2, "it was over before it was killed"
        served.start()
        # The dead owner's lease ends by itself.
        eventually(lambda: begun_collection(served).wait() == 0, seconds=30)
        assert (count(served, "repository_blob"), count(served, "blob")) == (2, 2)
        eventually(lambda: len(blob_files(tmp_path)) == 2, seconds=90)
        with Connection(served.port) as connection:
            found = connection.ask("GET", f"/v2/kept/blobs/{digest_of(layer)}", expect=[200])
            assert found.body == layer


def post(connection: Connection, repository: str, content: bytes) -> None:
    path = f"/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
    connection.ask("POST", path, content, expect=[201])


# -- in the midst of pushes


@contextmanager
def workers_on_sqlite(folder: Path) -> Iterator[Sequence[Served]]:
    with running(Served(folder, workers=2, options=_EAGER)) as served:
        yield [served]


@contextmanager
def replicas_on_postgres(folder: Path) -> Iterator[Sequence[Served]]:
    server = PostgresServer()
    server.start()
    try:
        url = server.new_database()
        asyncio.run(migrate(url))
        options = ("--catalog", url, "--blobs", f"file:///{folder}/blobs", *_EAGER)
        with ExitStack() as started:
            yield [
                started.enter_context(running(Served(folder / name, workers=2, options=options)))
                for name in ("one", "two")
            ]
    finally:
        server.remove()


class Client:
    """One client that pushes as clients do: it asks first, and sends what is not there."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._random = random.Random(number)
        self._repository = f"storm/r{number % 2}"
        self._number = number
        # What was acknowledged and not deleted since: tag -> blobs and manifests it needs.
        self.tags: dict[str, tuple[set[str], set[str]]] = {}

    def run(self, layers: Sequence[bytes]) -> None:
        end = time.monotonic() + _STORM_SECONDS
        pushed = 0
        while time.monotonic() < end or pushed < _LEAST_PUSHES:
            pushed += 1
            self._push(f"c{self._number}-{pushed % 4}", pushed, layers)
            if self._random.random() < 0.3 and self.tags:
                self._delete(self._random.choice([*self.tags]))
            time.sleep(self._random.uniform(0, 0.1))

    def _push(self, tag: str, number: int, layers: Sequence[bytes]) -> None:
        """Push an index of two images, by digest but for the index, and an artifact on one."""
        chosen = self._random.sample(layers, 2)
        images = [
            manifest_of(f"{self._number}-{number}-{each}", layers=[(digest_of(layer), len(layer))])
            for each, layer in enumerate(chosen)
        ]
        for blob in (b"{}", *chosen):
            self._have_blob(blob)
        for image in images:
            self._have_manifest(image)
        index = json.dumps({
            "schemaVersion": 2,
            "mediaType": _OCI_INDEX,
            "manifests": [
                {"mediaType": OCI_MANIFEST, "digest": digest_of(image), "size": len(image)}
                for image in images
            ],
        }).encode()  # fmt: skip
        self._put(tag, index, _OCI_INDEX)
        subject = (digest_of(images[0]), len(images[0]))
        self._have_blob(b"{}")
        artifact = manifest_of(f"{self._number}-{number}-signature", subject=subject)
        self._put(digest_of(artifact), artifact, OCI_MANIFEST)
        manifests = {digest_of(each) for each in (*images, index, artifact)}
        self.tags[tag] = {digest_of(each) for each in (b"{}", *chosen)}, manifests

    def _have_blob(self, content: bytes) -> None:
        path = f"/v2/{self._repository}/blobs/{digest_of(content)}"
        if self._connection.ask("HEAD", path, expect=[200, 404]).status == 404:
            post(self._connection, self._repository, content)

    def _have_manifest(self, body: bytes) -> None:
        path = f"/v2/{self._repository}/manifests/{digest_of(body)}"
        if self._connection.ask("HEAD", path, expect=[200, 404]).status == 404:
            self._put(digest_of(body), body, OCI_MANIFEST)

    def _put(self, reference: str, body: bytes, media_type: str) -> None:
        path = f"/v2/{self._repository}/manifests/{reference}"
        fields = {"Content-Type": media_type}
        self._connection.ask("PUT", path, body, headers=fields, expect=[201])

    def _delete(self, tag: str) -> None:
        path = f"/v2/{self._repository}/manifests/{tag}"
        self._connection.ask("DELETE", path, expect=[202])
        del self.tags[tag]

    def check(self) -> None:
        """Assert that all that was acknowledged, and is reachable by a tag, is there."""
        for blobs, manifests in self.tags.values():
            for kind, digests in (("blobs", blobs), ("manifests", manifests)):
                for digest in digests:
                    path = f"/v2/{self._repository}/{kind}/{digest}"
                    found = self._connection.ask("GET", path, expect=[200])
                    assert digest_of(found.body) == digest

    def delete_all(self) -> None:
        for tag in [*self.tags]:
            self._delete(tag)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("serving", [workers_on_sqlite, replicas_on_postgres])
def test_pushes_in_the_midst_of_collections_are_whole(tmp_path: Path, serving: Serving) -> None:
    # More than are in use at any time: some grow old and are collected before they come again.
    layers = [random.randbytes(2000 + number) for number in range(120)]
    with serving(tmp_path) as servers, ExitStack() as held:
        clients = [
            Client(held.enter_context(Connection(servers[number % len(servers)].port)), number)
            for number in range(_PUSHERS)
        ]
        with ThreadPoolExecutor(_PUSHERS) as pool:
            for _ in pool.map(lambda each: each.run(layers), clients):
                pass
        # A cached answer may still be young; what is collected wrongly is gone a grace later.
        time.sleep(_GRACE)
        for client in clients:
            client.check()
        for client in clients:
            client.delete_all()
        eventually(lambda: not blob_files(tmp_path) or None, seconds=60)
        runs = sorted(run for served in servers for run in collections(served))
        assert sum(blobs for *_, blobs in runs) > len(layers), "nothing came again"
        assert len(runs) > 10
        for (_, ended, _), (started, *_) in pairwise(runs):
            assert ended <= started, "two collections at once"
        for served in servers:
            assert '"exception"' not in served.log


def collections(served: Served) -> list[tuple[float, float, int]]:
    """Return from when until when each run was, and how many blobs it took."""
    lines = [json.loads(line) for line in served.log.splitlines() if '"collected"' in line]
    return [(line["started"], line["ended"], line["blobs"]) for line in lines]

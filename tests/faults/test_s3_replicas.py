"""Two replicas that share a PostgreSQL and a bucket, through the loss of either."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event

import asyncpg
import httpx
import pytest

from ociserver.storage.postgres import migrate
from tests.faults.audit import crash
from tests.faults.stage import AGED, BLOBS, REST, Held, Named, blobs_option, check_unavailable, held
from tests.faulty import FaultyProxy, Rule
from tests.postgres import PostgresServer
from tests.s3 import S3Server
from tests.serving import Served, digest_of, push_blob
from tests.wire.build import MIB, begin, new_repository, noise, put_manifest, unique_image
from tests.wire.raw import Connection, eventually, request

# An upload without a rest to it is asked for before it is completed, and again after.
AFTER_COMPLETE = Rule(fault="slow", operation="HeadObject", seconds=2)


@dataclass(frozen=True)
class Replicas:
    one: Served
    two: Served
    proxy: FaultyProxy
    database: PostgresServer

    @property
    def both(self) -> tuple[Served, Served]:
        return self.one, self.two


@pytest.fixture(scope="module")
def running(versitygw: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two replicas for all; in the end the bucket holds what the catalog names and no more."""
    database, bucket = PostgresServer(), versitygw.new_bucket()
    try:
        database.start()
        url = database.new_database()
        asyncio.run(migrate(url))
        with FaultyProxy(versitygw.port) as proxy:
            options = (
                *("--catalog", url, "--redirect", "off"),
                *blobs_option(versitygw, bucket, proxy.endpoint),
            )
            folder = tmp_path_factory.mktemp("replicas")
            one, two = (Served(folder / name, options=options) for name in ("one", "two"))
            try:
                yield Replicas(one.start(), two.start(), proxy, database)
                proxy.reset()
                one.stop()
                two.stop()
                two.options += ("--upload-idle", "2s")
                two.start()
                check_settles(url, versitygw, bucket)
            finally:
                one.stop()
                two.stop()
    finally:
        database.remove()


@pytest.fixture
def replicas(running: Replicas) -> Iterator[Replicas]:
    running.proxy.reset()
    yield running
    running.proxy.reset()
    for each in running.both:
        if each.process is None:
            each.start()


def check_settles(url: str, server: S3Server, bucket: str) -> None:
    async def named() -> Named:
        connection = await asyncpg.connect(url)
        try:
            for aging in AGED:
                await connection.execute(aging)
            blobs, rest = await connection.fetch(BLOBS), await connection.fetch(REST)
        finally:
            await connection.close()
        return Named.of([tuple(row) for row in blobs], [tuple(row) for row in rest])

    def settled() -> bool:
        found = asyncio.run(named())
        return not found.rest and held(server, bucket) == Held(found.blobs, set())

    eventually(settled, 30)


@dataclass
class Upload:
    """An upload that goes on wherever it is told to."""

    body: bytes
    repository: str = field(default_factory=new_repository)
    location: str = ""
    offset: int = 0

    def begin(self, client: httpx.Client) -> None:
        self.location = begin(client, self.repository)

    def patch(self, client: httpx.Client, size: int) -> None:
        end = self.offset + size
        fields = {"content-range": f"{self.offset}-{end - 1}"}
        chunk = self.body[self.offset : end]
        answer = client.patch(self.location, content=chunk, headers=fields)
        assert answer.status_code == 202, answer.text
        assert answer.headers["range"] == f"0-{end - 1}"
        self.offset = end

    def put(self, client: httpx.Client) -> httpx.Response:
        rest = self.body[self.offset :]
        return client.put(self.location, params={"digest": digest_of(self.body)}, content=rest)

    def check(self, client: httpx.Client) -> None:
        found = client.get(f"/v2/{self.repository}/blobs/{digest_of(self.body)}")
        assert found.status_code == 200
        assert found.content == self.body


def test_an_upload_goes_on_on_the_other_by_turns_and_is_not_read_again(
    replicas: Replicas,
) -> None:
    upload = Upload(noise(15 * MIB))
    with replicas.one.client() as one, replicas.two.client() as two:
        upload.begin(one)
        upload.patch(two, 6 * MIB)
        upload.patch(one, MIB + 5)
        upload.patch(two, MIB)
        upload.patch(one, 5 * MIB)
        assert upload.put(two).status_code == 201
        # Two tails, each read once by whoever went on from it.
        assert replicas.proxy.requests["GetObject"] == 2
        for each in (one, two):
            upload.check(each)


def test_what_a_killed_replica_was_writing_is_ended_by_the_other(replicas: Replicas) -> None:
    part, tail, ending = (Upload(noise(14 * MIB)) for _ in range(3))
    with replicas.one.client() as one, replicas.two.client() as two, ThreadPoolExecutor(3) as pool:
        for upload, size in ((part, 6 * MIB), (tail, MIB), (ending, 14 * MIB)):
            upload.begin(one)
            upload.patch(one, size)
        with Connection(replicas.one) as first, Connection(replicas.one) as second:
            for connection, upload in ((first, part), (second, tail)):
                left = len(upload.body) - upload.offset
                connection.send(request("PATCH", upload.location, f"Content-Length: {left}"))
                connection.send(upload.body[upload.offset : upload.offset + left // 2])
            replicas.proxy.add(AFTER_COMPLETE)
            ended = pool.submit(ending.put, one)
            eventually(lambda: replicas.proxy.faults["slow"])
            # The object is whole in the bucket, and no row says so yet.
            crash(replicas.one)
        with pytest.raises(httpx.TransportError):
            ended.result()
        assert two.head(f"/v2/{ending.repository}/blobs/{digest_of(ending.body)}").is_error
        replicas.proxy.reset()
        for upload in (part, tail):
            assert two.get(upload.location).headers["range"] == f"0-{upload.offset - 1}"
        for done in pool.map(lambda each: each.put(two), (part, tail, ending)):
            assert done.status_code == 201, done.text
        # One tail alone is read: no upload is, and what was completed is asked for once more.
        assert replicas.proxy.requests["GetObject"] == 1
        assert replicas.proxy.requests["CompleteMultipartUpload"] == 3
        for upload in (part, tail, ending):
            upload.check(two)


def test_a_put_whose_commit_failed_is_repeated_on_the_other(replicas: Replicas) -> None:
    small, large = Upload(noise(MIB)), Upload(noise(10 * MIB))
    with replicas.one.client() as one, replicas.two.client() as two, ThreadPoolExecutor(2) as pool:
        for upload in (small, large):
            upload.begin(one)
            upload.patch(one, len(upload.body))
        # What the store says of each object comes back to no database.
        replicas.proxy.add(AFTER_COMPLETE)
        replicas.proxy.add(Rule(fault="slow", operation="PutObject", seconds=2))
        ended: list[Future[httpx.Response]] = [
            pool.submit(upload.put, one) for upload in (small, large)
        ]
        eventually(lambda: replicas.proxy.faults["slow"] == 2)
        replicas.database.stop(signal.SIGQUIT)
        try:
            for each in ended:
                check_unavailable(each.result())
        finally:
            replicas.database.start()
        eventually(lambda: two.get("/readyz").status_code == 200)
        for upload in (small, large):
            blob = f"/v2/{upload.repository}/blobs/{digest_of(upload.body)}"
            assert two.head(blob).status_code == 404
            done = upload.put(two)
            assert done.status_code == 201, done.text
            upload.check(two)
        assert replicas.proxy.requests["CompleteMultipartUpload"] == 1


def test_reads_go_on_from_s3_while_postgresql_is_stopped_and_started(replicas: Replicas) -> None:
    repository, manifest, blob, stop = new_repository(), unique_image(), noise(300_000), Event()
    with replicas.one.client() as one, replicas.two.client() as two:
        digest = push_blob(one, repository, blob)
        put_manifest(one, repository, "v1", manifest)
        paths = {
            f"/v2/{repository}/manifests/v1": manifest,
            f"/v2/{repository}/blobs/{digest}": blob,
        }

        def storm(served: Served) -> tuple[int, list[str]]:
            reads, failures = 0, []
            with served.client() as reader:
                while not stop.is_set():
                    for path, expected in paths.items():
                        answer = reader.get(path)
                        reads += 1
                        if answer.status_code != 200 or answer.content != expected:
                            failures.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return reads, failures

        for client in (one, two):
            for path, expected in paths.items():
                assert client.get(path).content == expected
        with ThreadPoolExecutor(4) as pool:
            storms = [pool.submit(storm, served) for served in replicas.both * 2]
            try:
                replicas.database.stop(signal.SIGQUIT)
                for client in (one, two):
                    check_unavailable(client.post(f"/v2/{repository}/blobs/uploads/"))
                    check_unavailable(client.get("/readyz"))
                    assert client.get("/healthz").status_code == 200
            finally:
                replicas.database.start()
                time.sleep(0.5)  # of the storm after it
                stop.set()
            told = [each.result() for each in storms]
        assert sum(reads for reads, _ in told) > 100
        assert [failures for _, failures in told] == [[]] * 4
        for client in (one, two):
            eventually(lambda c=client: c.get("/readyz").status_code == 200)  # type: ignore[misc]
        push_blob(two, repository, noise(1000))


def together(*puts: tuple[Upload, httpx.Client]) -> list[httpx.Response]:
    gate = Barrier(len(puts))

    def put(upload: Upload, client: httpx.Client) -> httpx.Response:
        gate.wait()
        return upload.put(client)

    with ThreadPoolExecutor(len(puts)) as pool:
        return list(pool.map(put, *zip(*puts, strict=True)))


@pytest.mark.parametrize("size", [1000, 2 * MIB, 9 * MIB])
def test_a_digest_ended_on_both_at_once_is_there_for_both(replicas: Replicas, size: int) -> None:
    body = noise(size)
    uploads = [Upload(body), Upload(body)]
    with replicas.one.client() as one, replicas.two.client() as two:
        for upload, client in zip(uploads, (one, two), strict=True):
            upload.begin(client)
        answers = together((uploads[0], one), (uploads[1], two))
        assert [each.status_code for each in answers] == [201, 201]
        for upload, client in zip(uploads, (two, one), strict=True):
            upload.check(client)


@pytest.mark.parametrize("size", [1000, 2 * MIB, 9 * MIB])
def test_a_session_ended_on_both_at_once_ends_once(replicas: Replicas, size: int) -> None:
    upload = Upload(noise(size))
    with replicas.one.client() as one, replicas.two.client() as two:
        upload.begin(one)
        answers = together((upload, one), (upload, two))
        statuses = sorted(each.status_code for each in answers)
        assert statuses[0] == 201, [each.text for each in answers]
        assert statuses[1] in (404, 409), [each.text for each in answers]
        for client in (one, two):
            upload.check(client)

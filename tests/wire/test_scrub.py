"""`lading scrub` beside a registry that serves, on files and on S3: what a client, and an operator,
see of damage, of what is lost, and of what nobody owns.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from uuid import uuid4

import httpx
import pytest

from tests.faulty import FaultyProxy, Rule
from tests.s3 import S3Server
from tests.scrubbing import PREFIX, InBucket, Scrubbed, found, on_files, on_s3
from tests.serving import digest_of, push_blob
from tests.wire.build import (
    MIB,
    assert_refused,
    begin,
    image,
    noise,
    put_manifest,
)
from tests.wire.raw import eventually

OLD = ("--orphan-age", "1ms")


@pytest.fixture
def on_bucket(
    versitygw: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scrubbed]:
    for name, value in versitygw.environment.items():
        monkeypatch.setenv(name, value)
    with on_s3(tmp_path, versitygw) as scrubbed:
        yield scrubbed


@pytest.fixture(params=["files", "versitygw"])
def registry_to_scrub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scrubbed]:
    if request.param == "versitygw":
        yield request.getfixturevalue("on_bucket")
    else:
        with on_files(tmp_path) as scrubbed:
            yield scrubbed


def bytes_of(client: httpx.Client, repository: str, digest: str) -> bytes:
    """Pull as clients do, wherever they are sent."""
    answer = client.get(f"/v2/{repository}/blobs/{digest}", follow_redirects=True)
    assert answer.status_code == 200, answer.text
    return answer.content


def mount(client: httpx.Client, digest: str, target: str, source: str) -> int:
    query = {"mount": digest, "from": source}
    return client.post(f"/v2/{target}/blobs/uploads/", params=query).status_code


def test_a_flipped_byte_is_never_served_again_and_the_next_push_heals_it_everywhere(
    registry_to_scrub: Scrubbed,
) -> None:
    body, other = noise(300_000), noise(1000)
    with registry_to_scrub.served.client() as client:
        digest, sound = push_blob(client, "team/a", body), push_blob(client, "team/a", other)
        push_blob(client, "team/a", b"{}")
        assert mount(client, digest, "team/b", "team/a") == 201
        assert bytes_of(client, "team/a", digest) == bytes_of(client, "team/b", digest) == body
        assert found(registry_to_scrub.scrub(status=0)) == []
        key = registry_to_scrub.key_of(digest)
        registry_to_scrub.flip(digest)

        # What was just checked is left out.
        assert found(registry_to_scrub.scrub(status=0, again=False)) == []
        for done in ("; quarantined", "; still quarantined"):
            [line] = [
                each for each in registry_to_scrub.scrub(status=1).splitlines() if digest in each
            ]
            assert line.startswith(f"damaged {digest} (object {key}, in team/a, team/b): ")
            assert "its bytes hash to sha256:" in line
            assert done in line
        for repository in ("team/a", "team/b"):
            path = f"/v2/{repository}/blobs/{digest}"
            for asked in ({}, {"range": "bytes=0-9"}):
                answer = client.get(path, headers=asked)
                assert_refused(answer, 404, "BLOB_UNKNOWN")
                assert "quarantine" in answer.text
            assert client.head(path).status_code == 404
        assert bytes_of(client, "team/a", sound) == other
        assert mount(client, digest, "team/c", "team/a") == 202
        naming = put_manifest(client, "team/a", "v1", image(body))
        assert "1 of what this manifest names" in naming.headers["warning"]

        assert push_blob(client, "team/c", body) == digest
        for repository in ("team/a", "team/b", "team/c"):
            assert bytes_of(client, repository, digest) == body
        assert registry_to_scrub.key_of(digest) != key
        assert found(registry_to_scrub.scrub(status=0)) == []


@pytest.mark.parametrize("how", ["whole", "chunked"])
@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_a_push_of_what_is_lost_heals_it_without_a_scrub(
    registry_to_scrub: Scrubbed, size: int, how: str
) -> None:
    body = noise(size)
    behind = registry_to_scrub.behind
    with registry_to_scrub.served.client() as client:
        digest = push_blob(client, "team/a", body)
        push_blob(client, "team/a", b"kept" * 9)
        assert mount(client, digest, "team/b", "team/a") == 201
        lost = registry_to_scrub.key_of(digest)
        behind.delete(lost)
        if how == "whole":
            query = f"/v2/team/c/blobs/uploads/?digest={digest}"
            assert client.post(query, content=body).status_code == 201
        else:
            location = begin(client, "team/c")
            assert client.patch(location, content=body).status_code == 202
            assert client.put(location, params={"digest": digest}).status_code == 201
        for repository in ("team/a", "team/b", "team/c"):
            assert bytes_of(client, repository, digest) == body
        assert registry_to_scrub.key_of(digest) != lost
        # What is there is not pushed over, and what came again is not kept.
        kept = registry_to_scrub.key_of(digest)
        assert push_blob(client, "team/a", body) == digest
        assert registry_to_scrub.key_of(digest) == kept
        eventually(lambda: len(behind.keys()) == 2)
        assert found(registry_to_scrub.scrub(status=0)) == []


def test_what_a_pull_found_lost_is_told_to_the_push_that_asks(tmp_path: Path) -> None:
    body = noise(1000)
    with on_files(tmp_path) as scrubbed, scrubbed.served.client() as client:
        digest = push_blob(client, "team/a", body)
        push_blob(client, "team/a", b"kept")
        path = f"/v2/team/a/blobs/{digest}"
        key = scrubbed.key_of(digest)
        scrubbed.behind.delete(key)
        assert client.get(path).status_code == 503
        assert client.head(path).status_code == 404
        # The disk was away, and is back.
        scrubbed.behind.write(key, body)
        assert client.head(path).status_code == 200
        assert client.get(path).content == body
        scrubbed.behind.delete(key)
        assert client.get(path).status_code == 503
        assert client.head(path).status_code == 404
        push_blob(client, "team/a", body)
        assert client.head(path).status_code == 200
        assert client.get(path).content == body


@pytest.mark.parametrize("how", ["cut", "emptied", "longer", "lost"])
def test_what_is_not_as_long_as_it_was_is_found_at_once(
    registry_to_scrub: Scrubbed, how: str
) -> None:
    body = noise(100_000)
    with registry_to_scrub.served.client() as client:
        digest = push_blob(client, "team/a", body)
        push_blob(client, "team/a", b"another")
        registry_to_scrub.scrub(status=0)
        key = registry_to_scrub.key_of(digest)
        if how == "lost":
            registry_to_scrub.behind.delete(key)
        else:
            left = {"cut": body[:-1], "emptied": b"", "longer": body + b"x"}[how]
            registry_to_scrub.behind.write(key, left)
        said = registry_to_scrub.scrub(status=1, again=False)
        assert found(said) == ["damaged"]
        assert ("is not there" if how == "lost" else "the catalog says 100000") in said
        assert_refused(client.get(f"/v2/team/a/blobs/{digest}"), 404, "BLOB_UNKNOWN")
        push_blob(client, "team/a", body)
        assert bytes_of(client, "team/a", digest) == body
        assert found(registry_to_scrub.scrub(status=0)) == []


def test_what_is_restored_from_a_backup_is_served_again(registry_to_scrub: Scrubbed) -> None:
    body = noise(100_000)
    with registry_to_scrub.served.client() as client:
        digest = push_blob(client, "team/a", body)
        registry_to_scrub.flip(digest)
        assert found(registry_to_scrub.scrub(status=1)) == ["damaged"]
        registry_to_scrub.behind.write(registry_to_scrub.key_of(digest), body)
        said = registry_to_scrub.scrub(status=0, again=False)
        assert f"healed {digest} " in said
        assert bytes_of(client, "team/a", digest) == body
        # Damaged beyond rescue, it may also be deleted.
        registry_to_scrub.flip(digest)
        assert found(registry_to_scrub.scrub(status=1)) == ["damaged"]
        assert client.delete(f"/v2/team/a/blobs/{digest}").status_code == 202
        assert "in no repository" in registry_to_scrub.scrub(status=1)


def test_objects_that_no_row_names_are_told_of_and_deleted_when_asked(
    registry_to_scrub: Scrubbed,
) -> None:
    body, behind = noise(100_000), registry_to_scrub.behind
    with registry_to_scrub.served.client() as client:
        digest = push_blob(client, "team/a", body)
        under_way = begin(client, "team/a")
        assert client.patch(under_way, content=body[:70_000]).status_code == 202
        named, orphan = behind.keys(), uuid4().hex
        behind.write(orphan, b"of nobody")
        assert found(registry_to_scrub.scrub(status=0)) == []
        assert found(registry_to_scrub.scrub("--repair", status=0)) == []
        said = registry_to_scrub.scrub(*OLD, status=1)
        assert f"orphan {orphan}: object of 9 bytes from 2" in said
        assert "left alone" in said
        assert behind.read(orphan) == b"of nobody"
        said = registry_to_scrub.scrub(*OLD, "--repair", status=1)
        assert found(said) == ["orphan"]
        assert "; deleted" in said
        assert behind.keys() == named
        assert found(registry_to_scrub.scrub(*OLD, "--repair", status=0)) == []
        assert bytes_of(client, "team/a", digest) == body
        offset = f"70000-{len(body) - 1}"
        rest = client.patch(under_way, content=body[70_000:], headers={"content-range": offset})
        assert rest.status_code == 202
        assert client.put(under_way, params={"digest": digest}).status_code == 201


def test_tails_and_multipart_uploads_that_no_row_names_go_and_others_stay(
    on_bucket: Scrubbed,
) -> None:
    behind, body = on_bucket.behind, noise(9 * MIB)
    assert isinstance(behind, InBucket)
    with on_bucket.served.client() as client:
        digest = push_blob(client, "team/a", b"cargo")
        key = on_bucket.key_of(digest)
        under_way = begin(client, "team/a")
        assert client.patch(under_way, content=body).status_code == 202
        [kept] = behind.server.uploads(behind.bucket)
        named = behind.keys()
        live = under_way.rpartition("/")[2]
        # One of nobody, one of a blob, and one more of an upload in flight.
        tails = [f"{uuid4().hex}.tail1", f"{key}.tail0"]
        for name in tails:
            behind.write(name, b"the end")
        for name in (uuid4().hex, key, live):
            behind.server.begin_upload(behind.bucket, PREFIX + name)
        said = on_bucket.scrub(*OLD, "--repair", status=1)
        assert found(said) == ["orphan"] * 5
        assert all(f"orphan {name}: " in said for name in tails)
        assert said.count("multipart upload ") == 3
        assert behind.keys() == named
        assert behind.server.uploads(behind.bucket) == [kept]
        assert found(on_bucket.scrub(*OLD, status=0)) == []
        assert bytes_of(client, "team/a", digest) == b"cargo"
        done = client.put(under_way, params={"digest": digest_of(body)})
        assert done.status_code == 201, done.text
        assert bytes_of(client, "team/a", digest_of(body)) == body


def test_the_catalog_of_another_registry_deletes_and_quarantines_nothing(tmp_path: Path) -> None:
    with on_files(tmp_path / "one") as one, one.served.client() as client:
        digests = [push_blob(client, "team/a", noise(100)) for _ in range(12)]
        files = one.behind.keys()
        (tmp_path / "two" / "blobs").mkdir(parents=True)
        other = f"sqlite:///{tmp_path}/two/catalog.db"
        said = one.scrub("--catalog", other, status=2)
        assert said == ""
        subprocess.run([one.command()[0], "migrate", "--catalog", other], check=True)
        said = one.scrub("--catalog", other, *OLD, "--repair", status=1)
        assert found(said) == ["orphan"] * 12
        assert "is this the catalog of this store? None was deleted" in said
        assert one.behind.keys() == files
        said = one.scrub("--blobs", f"file:///{tmp_path}/two/blobs", status=2)
        assert found(said) == []
        assert "is it the right one, and mounted?" in said
        assert all(bytes_of(client, "team/a", each) for each in digests)


def through(scrubbed: Scrubbed, proxy: FaultyProxy) -> tuple[str, str]:
    behind = scrubbed.behind
    assert isinstance(behind, InBucket)
    return "--blobs", behind.server.url(behind.bucket, PREFIX.strip("/"), endpoint=proxy.endpoint)


def test_an_outage_in_the_middle_ends_the_run_and_quarantines_nothing(
    on_bucket: Scrubbed, versitygw: S3Server
) -> None:
    bodies = [noise(MIB) for _ in range(8)]
    with FaultyProxy(versitygw.port) as proxy, on_bucket.served.client() as client:
        digests = [push_blob(client, "team/a", body) for body in bodies]
        with on_bucket.scrubbing(*through(on_bucket, proxy), "--rate", "1MiB") as run:
            eventually(lambda: proxy.requests["GetObject"] >= 3)
            proxy.refuse()
            said, _ = run.communicate(timeout=90)
        assert run.returncode == 2
        assert found(said) == []
        assert "could not go on: the blob store is out of reach" in said
        assert [bytes_of(client, "team/a", each) for each in digests] == bodies
        proxy.accept()
        # What was checked before the outage is not checked again.
        left = on_bucket.unchecked()
        assert 0 < left < 8
        said = on_bucket.scrub(*through(on_bucket, proxy), status=0, again=False)
        assert f"{left} blobs checked" in said


def test_errors_and_broken_answers_of_a_store_are_no_damage(
    on_bucket: Scrubbed, versitygw: S3Server
) -> None:
    with FaultyProxy(versitygw.port) as proxy, on_bucket.served.client() as client:
        bodies = [noise(300_000) for _ in range(3)]
        digests = [push_blob(client, "team/a", body) for body in bodies]
        for rule in (
            Rule(fault="cut_answer", operation="GetObject", nth=1, times=2),
            Rule(fault="slow_down", operation="GetObject", nth=2, times=1),
            Rule(fault="cut", operation="ListObjectsV2"),
        ):
            proxy.reset()
            proxy.add(rule)
            assert found(on_bucket.scrub(*through(on_bucket, proxy), status=0)) == []
            assert proxy.faults[rule.fault] > 0
        proxy.reset()
        proxy.add(Rule(fault="internal", operation="GetObject", times=None))
        said = on_bucket.scrub(*through(on_bucket, proxy), status=1)
        assert found(said) == ["unreadable"] * 3
        assert "not quarantined" in said
        assert [bytes_of(client, "team/a", each) for each in digests] == bodies


def test_one_runs_at_a_time_and_one_that_is_stopped_is_gone_on_with(tmp_path: Path) -> None:
    with on_files(tmp_path) as registry, registry.served.client() as client:
        for _ in range(6):
            push_blob(client, "team/a", noise(MIB))
        # Half a minute, if it is let: on a busy machine the other takes seconds to start.
        with registry.scrubbing("--rate", "200KiB") as first:
            eventually(registry.is_under_way)
            said = registry.scrub(status=2)
            assert "another one is under way" in said
            assert found(said) == []
            first.send_signal(signal.SIGTERM)
            said, _ = first.communicate(timeout=20)
        assert first.returncode == 0
        assert "was told to stop" in said
        left = registry.unchecked()
        assert f"{left} blobs checked" in registry.scrub(status=0, again=False)
        assert registry.unchecked() == 0


def test_pushes_pulls_and_deletions_under_way_come_to_no_harm(
    registry_to_scrub: Scrubbed,
) -> None:
    over = Event()

    def push_and_pull(number: int) -> list[tuple[str, bytes]]:
        kept: list[tuple[str, bytes]] = []
        with registry_to_scrub.served.client() as client:
            while not over.is_set():
                body = noise(9 * MIB if number == 0 else 50_000)
                at, half = begin(client, "team/a"), len(body) // 2
                assert client.patch(at, content=body[:half]).status_code == 202
                chunk = {"content-range": f"{half}-{len(body) - 1}"}
                assert client.patch(at, content=body[half:], headers=chunk).status_code == 202
                done = client.put(at, params={"digest": digest_of(body)})
                assert done.status_code == 201, done.text
                assert bytes_of(client, "team/a", digest_of(body)) == body
                if len(kept) % 2:
                    client.delete(f"/v2/team/a/blobs/{digest_of(body)}").raise_for_status()
                    cancelled = begin(client, "team/a")
                    client.patch(cancelled, content=body[:half]).raise_for_status()
                    client.delete(cancelled).raise_for_status()
                    body = noise(10)
                    push_blob(client, "team/a", body)
                kept.append((digest_of(body), body))
        return kept

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(push_and_pull, number) for number in range(4)]
        try:
            for _ in range(5):
                # As old as a request may take: everything else that is there is looked at.
                registry_to_scrub.scrub("--orphan-age", "2s", "--repair", status=0)
        finally:
            over.set()
        kept = [each for work in working for each in work.result()]
    assert len(kept) > 10
    with registry_to_scrub.served.client() as client:
        assert all(bytes_of(client, "team/a", digest) == body for digest, body in kept)
    assert found(registry_to_scrub.scrub(status=0)) == []

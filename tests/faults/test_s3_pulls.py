"""Pulls through us while S3 fails: the right bytes, a clean refusal, or a connection cut short."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.faults.stage import PREFIX, Stage, check_unavailable
from tests.faulty import Fault, Rule
from tests.serving import digest_of, push_blob
from tests.wire.build import MIB, begin, new_repository, noise
from tests.wire.raw import Connection, request

Check = Callable[[httpx.Client, str, bytes], None]

_SIZE = 3 * MIB + 11


def pushed(stage: Stage, client: httpx.Client, body: bytes) -> tuple[str, str]:
    """Push a blob and forget the requests for it; return its path and its key in the bucket."""
    repository, digest = new_repository(), digest_of(body)
    location = begin(client, repository)
    answer = client.put(location, params={"digest": digest}, content=body)
    assert answer.status_code == 201
    stage.proxy.reset()
    return f"/v2/{repository}/blobs/{digest}", location.rpartition("/")[2]


def check_whole(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.content == body


def check_range(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.get(path, headers={"range": "bytes=100-2000100"})
    assert answer.status_code == 206, answer.text
    assert answer.headers["content-range"] == f"bytes 100-2000100/{len(body)}"
    assert answer.content == body[100:2000101]


def check_ranges(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.get(path, headers={"range": "bytes=0-299999,1000000-1299999,-7"})
    assert answer.status_code == 206, answer.text
    for piece in (body[:300000], body[1000000:1300000], body[-7:]):
        assert b"\r\n\r\n" + piece + b"\r\n--" in answer.content
    assert len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.parametrize("check", [check_whole, check_range, check_ranges])
def test_a_pull_survives_one_fault(stage: Stage, client: httpx.Client, check: Check) -> None:
    def survive(fault: Fault) -> None:
        body = noise(_SIZE)
        path, key = pushed(stage, client, body)
        unseen = 2 if fault in ("cut", "lost_answer") else 1
        ready.append(Rule(fault=fault, operation="GetObject", key=key, times=unseen))
        cases.append((path, body))

    faults: tuple[Fault, ...] = (
        "slow_down", "internal", "cut", "lost_answer", "cut_answer", "wrong_etag", "slow",
    )  # fmt: skip
    ready: list[Rule] = []
    cases: list[tuple[str, bytes]] = []
    for fault in faults:
        survive(fault)
    stage.proxy.add(*ready)
    with ThreadPoolExecutor(len(cases)) as pool:
        for each in [pool.submit(check, client, *case) for case in cases]:
            each.result()
    assert stage.proxy.faults.keys() == {*faults}


def test_a_pull_goes_on_where_it_broke_off_however_often(
    stage: Stage, client: httpx.Client
) -> None:
    body = noise(_SIZE)
    path, _ = pushed(stage, client, body)
    # Half of what is left comes each time.
    stage.proxy.add(Rule(fault="cut_answer", operation="GetObject", times=8))
    check_whole(client, path, body)
    assert stage.proxy.requests == {"GetObject": 9}


def test_a_pull_that_cannot_go_on_is_cut_short_and_never_wrong(
    stage: Stage, client: httpx.Client
) -> None:
    body = noise(_SIZE)
    path, _ = pushed(stage, client, body)
    stage.proxy.add(Rule(fault="cut_answer", operation="GetObject"))
    stage.proxy.add(Rule(fault="slow_down", operation="GetObject", nth=2, times=None))
    with Connection(stage.served) as connection:
        connection.send(request("GET", path))
        status, fields = connection.head()
        assert status == 200
        assert dict(fields)["content-length"] == str(len(body))
        came = connection.rest()
    assert MIB < len(came) < len(body)
    assert body.startswith(came)
    stage.proxy.reset()
    check_whole(client, path, body)


def test_a_pull_that_cannot_begin_is_503_and_what_needs_no_bytes_is_answered(
    stage: Stage, client: httpx.Client
) -> None:
    path, key = pushed(stage, client, noise(_SIZE))
    stage.proxy.add(Rule(fault="slow_down", operation="GetObject", key=key, times=None))
    check_unavailable(client.get(path))
    assert client.head(path).status_code == 200
    etag = f'"{path.rpartition("/")[2]}"'
    assert client.get(path, headers={"if-none-match": etag}).status_code == 304


@pytest.mark.parametrize("span", [None, "bytes=0-9", "bytes=-5"])
def test_an_object_that_is_gone_or_of_another_size_is_never_served(
    stage: Stage, client: httpx.Client, span: str | None
) -> None:
    body = noise(100_000)
    path, key = pushed(stage, client, body)
    fields = {"range": span} if span else {}
    try:
        for other in (body + b"more", body[:-1]):
            stage.server.write(stage.bucket, f"{PREFIX}/{key}", other)
            check_unavailable(client.get(path, headers=fields))
        stage.server.delete(stage.bucket, f"{PREFIX}/{key}")
        check_unavailable(client.get(path, headers=fields))
    finally:
        stage.server.write(stage.bucket, f"{PREFIX}/{key}", body)
    assert client.get(path).content == body


def test_a_client_that_leaves_in_mid_pull_lets_go_of_the_store(
    stage: Stage, client: httpx.Client
) -> None:
    path, _ = pushed(stage, client, noise(16 * MIB))
    for _ in range(70):  # more than there are connections to the store
        with Connection(stage.served, window=4096) as connection:
            connection.send(request("GET", path))
            assert connection.head()[0] == 200
            connection.break_off()
    assert push_blob(client, new_repository(), noise(1000))


def test_pulls_that_stand_still_hold_up_nobody_else(stage: Stage, client: httpx.Client) -> None:
    path, _ = pushed(stage, client, noise(16 * MIB))
    standing = [Connection(stage.served, window=4096) for _ in range(80)]
    try:
        for connection in standing:
            connection.send(request("GET", path))
        for connection in standing:
            assert connection.head()[0] == 200
        assert push_blob(client, new_repository(), noise(1000))
        assert client.get("/readyz", timeout=10).status_code == 200
    finally:
        for connection in standing:
            connection.break_off()

"""Limits on one caller and on one address: 429 with when to come back, and a count of each."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from ociserver.errors import TooManyRequests
from ociserver.web.limits import Limits, Rate
from tests.access import guarded
from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    assert_refused,
    begin,
    files_of,
    noise,
    offset_of,
    put_manifest,
    unique_image,
)
from tests.wire.raw import Connection, eventually, request


def test_a_rate_lets_a_second_s_worth_through_at_once_and_then_so_many_a_second() -> None:
    rate = Rate(10)
    assert [rate.wait("a", 100.0) for _ in range(10)] == [0.0] * 10
    assert 0 < rate.wait("a", 100.0) <= 0.1 + 1e-6
    assert rate.wait("b", 100.0) == 0
    assert rate.wait("a", 100.11) == 0
    assert rate.wait("a", 100.11) > 0
    assert [rate.wait("a", 200.0) for _ in range(10)] == [0.0] * 10


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    rate = Rate(1)
    for number in range(30_000):
        rate.wait(str(number), 100.0)
    assert len(rate._full_at) <= 10_000


def test_uploads_are_counted_while_they_last() -> None:
    told: list[str] = []
    limits = Limits(rate=None, uploads=1, refused=told.append)
    with limits.upload("a"), limits.upload("b"), pytest.raises(TooManyRequests):
        limits.upload("a").__enter__()
    with limits.upload("a"):
        pass
    assert told == ["uploads"]


def counted(client: httpx.Client, reason: str) -> bool:
    text = client.get("/metrics").text
    return f'lading_refused_total{{reason="{reason}"}}' in text


def test_an_address_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    served = Served(tmp_path, options=("--request-rate", "20"))
    try:
        with served.start().client() as client:
            put_manifest(client, "a", "v1", unique_image())
            # A manifest at hand is no way round it.
            answers = [client.get("/v2/a/manifests/v1") for _ in range(60)]
            refused = [each for each in answers if each.status_code == 429]
            assert 20 <= len(refused) < 60
            assert_refused(refused[0], 429, "TOOMANYREQUESTS")
            assert int(refused[0].headers["retry-after"]) >= 1
            assert counted(client, "rate")
            # What operators ask is not counted.
            assert all(client.get("/healthz").status_code == 200 for _ in range(60))
            time.sleep(1.1)
            assert client.get("/v2/a/manifests/v1").status_code == 200
    finally:
        served.stop()


def test_who_logged_in_is_counted_by_name_wherever_from(tmp_path: Path) -> None:
    options = ("--request-rate", "20", "--trusted-proxies", "127.0.0.0/8")
    with guarded(tmp_path, options) as served, served.client() as client:
        client.headers.update(served.bearer("ann", "repository:team/a:pull"))
        statuses = [
            client.get("/v2/", headers={"x-forwarded-for": f"192.0.2.{number}"}).status_code
            for number in range(60)
        ]
        assert statuses[:15] == [200] * 15
        assert 429 in statuses
        other = {"x-forwarded-for": "192.0.2.99", **served.bearer("bob", "repository:team/a:pull")}
        assert client.get("/v2/", headers=other).status_code == 200


def test_uploads_at_once_are_bounded_and_the_next_is_let_in(tmp_path: Path) -> None:
    served = Served(tmp_path, options=("--uploads-at-once", "1")).start()
    try:
        with served.client() as client, Connection(served) as slow:
            location, other = begin(client, "a"), begin(client, "a")
            slow.send(request("PATCH", location, f"Content-Length: {MIB}") + b"x" * 1000)
            eventually(lambda: client.patch(other, content=b"x").status_code == 429)
            assert_refused(client.patch(other, content=b"x"), 429, "TOOMANYREQUESTS")
            assert client.get(other).status_code == 204
            assert slow.ask(b"x" * (MIB - 1000)).status_code == 202
            assert client.patch(other, content=b"x").status_code == 202
            assert counted(client, "uploads")
    finally:
        served.stop()


def test_uploads_at_once_are_those_of_one_who_logged_in(tmp_path: Path) -> None:
    with guarded(tmp_path, ("--uploads-at-once", "1")) as served, served.client() as client:
        scope = "repository:team/a:pull,push"
        ann, robot = served.bearer("ann", scope), served.bearer("ci", scope)
        with Connection(served) as slow:
            target = "/v2/team/a/blobs/uploads/"
            begun = [client.post(target, headers=who) for who in (ann, ann, robot)]
            locations = [each.headers["location"] for each in begun]
            fields = (f"Content-Length: {MIB}", f"Authorization: {ann['Authorization']}")
            slow.send(request("PATCH", locations[0], *fields) + b"x" * 1000)

            def refused() -> bool:
                answer = client.patch(locations[1], content=b"x", headers=ann)
                return answer.status_code == 429

            eventually(refused)
            assert client.patch(locations[2], content=b"x", headers=robot).status_code == 202


def test_failed_logins_and_refusals_are_counted(tmp_path: Path) -> None:
    with guarded(tmp_path, ("--login-failures", "1")) as served, served.client() as client:
        for _ in range(2):
            client.get("/token", auth=httpx.BasicAuth("ann", "wrong"))
        bob = served.bearer("bob", "repository:team/a:pull,push")
        client.post("/v2/team/a/blobs/uploads/", headers=bob)
        for reason in ("login", "throttled", "denied"):
            assert counted(client, reason)


def test_a_blob_over_the_limit_is_refused_however_it_comes(tmp_path: Path) -> None:
    served = Served(tmp_path, options=("--blob-limit", "1MiB")).start()
    fitting, over = noise(MIB), noise(MIB + 1)
    try:
        with served.client() as client:
            push_blob(client, "a", fitting)
            whole = client.post(f"/v2/a/blobs/uploads/?digest={digest_of(over)}", content=over)
            assert_refused(whole, 413, "SIZE_INVALID")
            # In parts: what was taken before stays, and may still become a blob that fits.
            location = begin(client, "a")
            assert client.patch(location, content=over[:1000]).status_code == 202
            for rest in (over[1000:], iter([over[1000:5000], over[5000:]])):
                assert_refused(client.patch(location, content=rest), 413, "SIZE_INVALID")
                assert offset_of(client, location) == 1000
            last = {"params": {"digest": digest_of(over)}, "content": over[1000:]}
            assert_refused(client.put(location, **last), 413, "SIZE_INVALID")  # type: ignore[arg-type]
            fits = client.put(
                location, params={"digest": digest_of(over[:MIB])}, content=over[1000:MIB]
            )
            assert fits.status_code == 201
            assert client.get(f"/v2/a/blobs/{digest_of(over)}").status_code == 404
            assert counted(client, "body")
        held = sorted(path.stat().st_size for path in files_of(served))
        assert held == [MIB, MIB]
    finally:
        served.stop()


def test_another_address_of_the_same_network_is_no_other_client(tmp_path: Path) -> None:
    options = ("--login-failures", "3", "--trusted-proxies", "127.0.0.1")
    with guarded(tmp_path, options) as served, served.client() as client:
        statuses = [
            client.get(
                "/token",
                auth=httpx.BasicAuth("ann", "wrong"),
                headers={"X-Forwarded-For": f"2001:db8::{number:x}"},
            ).status_code
            for number in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]
        other = {"X-Forwarded-For": "2001:db8:0:1::1"}
        assert client.get("/token", auth=served.basic("ann"), headers=other).status_code == 200

# A manifest that was just read is answered from memory: nothing may tell, and nothing may be old.
from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serving import Served, digest_of
from tests.wire.build import new_repository, put_manifest, unique_image
from tests.wire.raw import Connection, request

_OWN = {"date", "x-request-id"}


def plain(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    fields = [(name, value) for name, value in answer.headers.multi_items() if name not in _OWN]
    return answer.status_code, fields, answer.content


def timed(client: httpx.Client) -> float:
    """Return how many manifest requests went the long way: only those are timed."""
    lines = client.get("/metrics").text.splitlines()
    name = "lading_request_seconds_count{"
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith(name) and 'endpoint="manifest"' in line
    )


@pytest.mark.parametrize("by_digest", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("current", [True, False])
def test_a_hot_answer_is_the_cold_one(
    client: httpx.Client, by_digest: bool, method: str, current: bool
) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    target = f"/v2/{repository}/manifests/{digest_of(body) if by_digest else 'v1'}"
    headers = {"if-none-match": f'"{digest_of(body)}"'} if current else {}
    cold = client.request(method, target, headers=headers)
    after_cold = timed(client)
    hot = client.request(method, target, headers=headers)
    assert timed(client) == after_cold
    assert plain(hot) == plain(cold)
    assert cold.status_code == (304 if current else 200)
    assert hot.headers["x-request-id"] != cold.headers["x-request-id"]
    assert hot.headers["date"]


@pytest.mark.parametrize("form", ['"{0}"', 'W/"{0}"', '"other", "{0}"', "*"])
def test_conditions_hold_cold_and_hot(client: httpx.Client, form: str) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    target = f"/v2/{repository}/manifests/v1"
    current = {"if-none-match": form.format(digest_of(body))}
    stale = {"if-none-match": f'"{digest_of(b"stale")}"'}
    for _ in range(3):
        assert client.get(target, headers=current).status_code == 304
        assert client.get(target, headers=stale).content == body


def test_a_validator_on_a_second_line_counts(registry: Served, client: httpx.Client) -> None:
    # RFC 9110 section 5.3: lines of one list field are one list.
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    fields = ('If-None-Match: "other"', f'If-None-Match: "{digest_of(body)}"')
    with Connection(registry) as connection:
        head = request("GET", f"/v2/{repository}/manifests/v1", *fields)
        assert [connection.ask(head).status_code for _ in range(2)] == [304, 304]


def test_a_hot_answer_keeps_its_place_in_a_pipeline(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    hot = request("GET", f"/v2/{repository}/manifests/v1")
    with Connection(registry) as connection:
        assert connection.ask(hot).content == body
        connection.send((hot + request("GET", "/v2/") + hot) * 5)
        for _ in range(5):
            assert connection.answer().content == body
            assert connection.answer().json() == {}
            assert connection.answer().content == body


def test_a_hot_answer_honours_connection_close(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    target = f"/v2/{repository}/manifests/v1"
    assert client.get(target).content == body
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", target, "Connection: close"))
        assert answer.content == body
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


def test_every_change_is_seen_by_the_next_get(client: httpx.Client) -> None:
    repository, first, second = new_repository(), unique_image(), unique_image()
    target = f"/v2/{repository}/manifests/v1"
    for _ in range(10):
        for body in (first, second):
            put_manifest(client, repository, "v1", body)
            assert client.get(target).content == body
            assert client.get(target).content == body
        client.delete(target)
        assert client.get(target).status_code == 404


def test_a_moved_tag_is_seen_through_every_worker(tmp_path: Path) -> None:
    served = Served(tmp_path, workers=2).start()
    bodies = [unique_image() for _ in range(4)]
    chooser = random.Random(2)
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.client()) for _ in range(16)]
            seen = set()
            for turn in range(15):
                body = bodies[turn % len(bodies)]
                put_manifest(chooser.choice(clients), "moving", "v1", body)
                for client in chooser.sample(clients, len(clients)):
                    answer = client.get("/v2/moving/manifests/v1")
                    assert answer.content == body
                    assert answer.headers["docker-content-digest"] == digest_of(body)
                    seen.add(answer.headers["x-request-id"].partition("-")[0])
            assert len(seen) == 2, "both workers must have answered"
            client = chooser.choice(clients)
            assert client.delete("/v2/moving/manifests/v1").status_code == 202
            assert {each.get("/v2/moving/manifests/v1").status_code for each in clients} == {404}
    finally:
        served.stop()

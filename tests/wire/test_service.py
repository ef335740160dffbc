# What operators see: health, metrics, logs.
from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    assert_refused,
    files_holding,
    new_repository,
    noise,
    put_manifest,
    unique_image,
)
from tests.wire.raw import Connection, eventually, request

_SAMPLE = re.compile(
    r'lading_requests_total\{endpoint="(\w+)",method="(\w+)",status="(\d+)"\} (\S+)'
)


def counted(client: httpx.Client) -> Counter[tuple[str, str, str]]:
    text = client.get("/metrics").text
    return Counter({(e, m, s): int(float(v)) for e, m, s, v in _SAMPLE.findall(text)})


def value(client: httpx.Client, name: str) -> float:
    [found] = re.findall(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found)


def lines_of(served: Served) -> list[dict[str, Any]]:
    """Return the lines of the log that are requests. Every line but the greeting is JSON."""
    lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "request"]


def line_of(served: Served, answer: httpx.Response) -> dict[str, Any]:
    asked = answer.headers["x-request-id"]

    def look() -> list[dict[str, Any]]:
        return [line for line in lines_of(served) if line["request_id"] == asked]

    [line] = eventually(look, seconds=5)
    return line


def test_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.head("/readyz").status_code == 200


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that is asked by one test at a time: what it counts is that test's."""
    served = Served(tmp_path_factory.mktemp("own")).start()
    yield served
    served.stop()


def vanish(blobs: Path) -> Callable[[], object]:
    moved = blobs.rename(blobs.with_name("moved"))
    return lambda: moved.rename(blobs)


def read_only(blobs: Path) -> Callable[[], object]:
    subprocess.run(["mount", "--bind", blobs, blobs], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", blobs], check=True)
    return lambda: subprocess.run(["umount", blobs], check=True)


@pytest.mark.parametrize("harm", [vanish, read_only])
def test_a_blob_folder_that_cannot_take_a_push_is_not_ready(
    own: Served, harm: Callable[[Path], Callable[[], object]]
) -> None:
    with own.client() as client:
        heal = harm(own.data / "blobs")
        try:
            refused = client.get("/readyz")
            assert_refused(refused, 503, "TOOMANYREQUESTS")
            assert int(refused.headers["retry-after"]) > 0
            begun = client.post("/v2/a/blobs/uploads/")
            assert begun.status_code in {202, 503}
            if begun.status_code == 202:
                chunk = client.patch(begun.headers["location"], content=b"x")
                assert_refused(chunk, 503, "TOOMANYREQUESTS")
            assert client.get("/healthz").status_code == 200
        finally:
            heal()
        assert client.get("/readyz").status_code == 200
        push_blob(client, "a", b"x")


def test_every_answer_is_counted_hot_ones_too(own: Served) -> None:
    with own.client() as client:
        before = counted(client)
        put_manifest(client, "a", "v1", unique_image())
        for _ in range(30):
            client.get("/v2/a/manifests/v1")
        for _ in range(7):
            client.head("/v2/a/manifests/v1")
        current = client.get("/v2/a/manifests/v1").headers["etag"]
        for _ in range(5):
            client.get("/v2/a/manifests/v1", headers={"if-none-match": current})
        digest = push_blob(client, "a", b"12345")
        client.get(f"/v2/a/blobs/{digest}")
        client.get("/v2/a/blobs/sha256:no")
        client.post("/v2/a/tags/list")
        client.get("/nothing")
        after = counted(client)
    assert dict(after - before) == {
        ("manifest", "PUT", "201"): 1,
        ("manifest", "GET", "200"): 31,
        ("manifest", "HEAD", "200"): 7,
        ("manifest", "GET", "304"): 5,
        ("upload_begin", "POST", "202"): 1,
        ("upload", "PUT", "201"): 1,
        ("blob", "GET", "200"): 1,
        ("blob", "GET", "400"): 1,
        ("tags", "POST", "405"): 1,
        ("unknown", "GET", "404"): 1,
        ("metrics", "GET", "200"): 1,
    }


def test_bytes_are_counted_both_ways(own: Served) -> None:
    with own.client() as client:
        received, sent = (
            value(client, f"lading_{way}_bytes_total") for way in ("received", "sent")
        )
        digest = push_blob(client, "a", noise(3 * MIB))
        assert value(client, "lading_received_bytes_total") == received + 3 * MIB
        before = value(client, "lading_sent_bytes_total")
        assert before >= sent
        scrape = len(client.get("/metrics").content)
        client.get(f"/v2/a/blobs/{digest}")
        grown = value(client, "lading_sent_bytes_total") - before
        assert 3 * MIB <= grown <= 3 * MIB + 3 * scrape


def test_the_counts_of_all_workers_are_summed(tmp_path: Path) -> None:
    served = Served(tmp_path, workers=2).start()
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.client()) for _ in range(12)]
            put_manifest(clients[0], "a", "v1", unique_image())
            ids = set()
            for client in clients:
                for _ in range(10):
                    answer = client.get("/v2/a/manifests/v1")
                    ids.add(answer.headers["x-request-id"].partition("-")[0])
            assert len(ids) == 2, "both workers must have answered"
            eventually(lambda: counted(clients[0])["manifest", "GET", "200"] == 120, seconds=8)
            assert counted(clients[5])["manifest", "PUT", "201"] == 1
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v2/", 200),
        ("HEAD", "/v2/", 200),
        ("GET", "/v2/wire/none/tags/list?n=5&last=a", 404),
        ("POST", "/v2/a/tags/list", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/v2/a/manifests/v1", 400),
    ],
)
def test_a_request_has_one_line_in_the_log(
    registry: Served, client: httpx.Client, method: str, target: str, status: int
) -> None:
    answer = client.request(method, target)
    assert answer.status_code == status
    line = line_of(registry, answer)
    assert (line["method"], line["path"], line["status"]) == (method, target, status)
    assert line["client"] == "127.0.0.1"
    assert line["bytes"] == (len(answer.content) if method != "HEAD" else line["bytes"])
    assert line["ms"] >= 0
    assert line["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_a_hot_answer_has_its_line_too(registry: Served, client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    for _ in range(3):
        answer = client.get(f"/v2/{repository}/manifests/v1")
        line = line_of(registry, answer)
        assert (line["path"], line["status"]) == (f"/v2/{repository}/manifests/v1", 200)
        assert line["bytes"] == len(body)


def test_a_blob_has_its_line_with_all_its_bytes(registry: Served, client: httpx.Client) -> None:
    repository = new_repository()
    digest = push_blob(client, repository, noise(2 * MIB))
    line = line_of(registry, client.get(f"/v2/{repository}/blobs/{digest}"))
    assert (line["status"], line["bytes"]) == (200, 2 * MIB)


def test_a_head_that_was_refused_has_an_id_a_date_and_a_line(registry: Served) -> None:
    for asked in (
        request("GET", "/v2/" + "a" * 17_000),
        request("GET", "/v2/", *(f"X-{number}: y" for number in range(200))),
        request("GET", "/v2/", "Host: second"),
    ):
        with Connection(registry) as connection:
            answer = connection.ask(asked)
        assert answer.status_code in {400, 414, 431}
        assert "date" in answer.headers
        assert line_of(registry, answer)["status"] == answer.status_code


def test_a_client_that_left_is_logged_as_499(registry: Served, client: httpx.Client) -> None:
    repository = new_repository()
    digest = push_blob(client, repository, noise(30 * MIB))
    target = f"/v2/{repository}/blobs/{digest}"
    with Connection(registry, window=4096) as connection:
        connection.send(request("GET", target))
        connection.read(1000)
    found = eventually(lambda: [line for line in lines_of(registry) if line["path"] == target])
    assert [line["status"] for line in found] == [499]


def test_what_a_client_sends_cannot_forge_a_line(registry: Served, client: httpx.Client) -> None:
    forged = "/nothing/%0A%7B%22event%22:%22request%22%7D%22%5C%C3%A9?q=\\%22"
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", forged))
    assert line_of(registry, answer)["path"].startswith('/nothing/\n{"event":"request"}"\\')


def test_the_log_names_what_failed(own: Served) -> None:
    body = noise(1000)
    with own.client() as client:
        digest = push_blob(client, "a", body)
        [file] = files_holding(own, body)
        file.unlink()
        answer = client.get(f"/v2/a/blobs/{digest}")
    assert_refused(answer, 503, "TOOMANYREQUESTS")
    asked = answer.headers["x-request-id"]
    lines = [json.loads(line) for line in own.log.splitlines() if asked in line]
    assert "warning" in {line["level"] for line in lines}


def test_the_access_log_can_be_off(tmp_path: Path) -> None:
    served = Served(tmp_path, options=("--access-log", "off")).start()
    with served.client() as client:
        put_manifest(client, "a", "v1", unique_image())
        assert client.get("/v2/a/manifests/v1").headers["x-request-id"]
        assert digest_of(client.get("/v2/a/manifests/v1").content)
    assert served.stop() == 0
    assert lines_of(served) == []

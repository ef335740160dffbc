# SIGTERM: what is under way ends whole, within a limit; nothing new is begun.
from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import MIB, noise
from tests.wire.raw import Connection, eventually, request

_SIZE = 24 * MIB


def refuses(served: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", served.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def terminate(served: Served) -> None:
    assert served.process is not None
    served.process.terminate()


def end(served: Served) -> int:
    assert served.process is not None
    return served.process.wait(15)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pull_under_way_ends_whole(tmp_path: Path, workers: int) -> None:
    served = Served(tmp_path, workers=workers).start()
    body = noise(_SIZE)
    try:
        with served.client() as client:
            digest = push_blob(client, "a", body)
        with Connection(served, window=65536) as pull, Connection(served) as silent:
            assert silent.ask(request("GET", "/v2/")).status_code == 200
            pull.send(request("GET", f"/v2/a/blobs/{digest}"))
            status, _ = pull.head()
            start = pull.read(100_000)
            terminate(served)
            eventually(lambda: refuses(served), seconds=8)
            assert silent.is_closed()
            assert status == 200
            assert start + pull.read(_SIZE - len(start)) == body
        assert end(served) == 0
    finally:
        served.kill()


def test_a_push_under_way_ends_whole(tmp_path: Path) -> None:
    served = Served(tmp_path).start()
    body = noise(2 * MIB)
    try:
        with Connection(served) as push:
            target = f"/v2/a/blobs/uploads/?digest={digest_of(body)}"
            push.send(request("POST", target, f"Content-Length: {len(body)}") + body[:MIB])
            eventually(lambda: [*(tmp_path / "blobs").rglob("*")])
            terminate(served)
            eventually(lambda: refuses(served), seconds=8)
            answer = push.ask(body[MIB:])
            assert answer.status_code == 201
            assert answer.headers["connection"] == "close"
        assert end(served) == 0
        served.start()
        with served.client() as client:
            assert client.get(f"/v2/a/blobs/{digest_of(body)}").content == body
        assert served.stop() == 0
    finally:
        served.kill()


@pytest.mark.parametrize("workers", [1, 2])
def test_beyond_the_limit_a_pull_is_cut(tmp_path: Path, workers: int) -> None:
    served = Served(tmp_path, options=("--drain", "1s"), workers=workers).start()
    try:
        with served.client() as client:
            digest = push_blob(client, "a", noise(_SIZE))
        with Connection(served, window=65536) as pull:
            pull.send(request("GET", f"/v2/a/blobs/{digest}"))
            pull.head()
            terminate(served)
            assert end(served) == 0
            assert len(pull.rest()) < _SIZE
    finally:
        served.kill()


def test_an_idle_registry_ends_at_once(tmp_path: Path) -> None:
    served = Served(tmp_path).start()
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/v2/").status_code == 200
        assert served.stop() == 0
        with pytest.raises(httpx.TransportError):
            client.get("/v2/")

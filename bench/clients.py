"""Measures that do not go through load.c: start, a model folder by oras, a 20 GiB stream."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from bench import material
from bench.load import LoadError, on_cores
from bench.peers import TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.plan import Bench, Figures
    from bench.server import Server

GIB = 1 << 30
STARTS = 3


def oras() -> str | None:
    built = TOOLS / "oras"
    return str(built) if built.exists() else shutil.which("oras")


def take_start(_bench: Bench, server: Server) -> Figures:
    """Spawn to first 200 of GET /v2/, the folder as an earlier start left it."""
    seconds = []
    for _ in range(STARTS):
        server.stop()
        with on_cores(server.profile.load_cores):
            server.start()
            seconds.append(server.first_answer())
    return {"seconds": sorted(seconds)[STARTS // 2]}


def take_model(bench: Bench, server: Server) -> Figures:
    """`oras push` of a model folder and `oras pull` of it, compared file by file."""
    folder = bench.folder / "model"
    if not folder.exists():
        material.model_folder(folder, bench.sizes.shard)
    names = sorted(path.name for path in folder.iterdir())
    reference = f"{server.base}/bench/model:v1"
    note = ["--annotation", "org.opencontainers.image.title=bench model"]
    kind = ["--artifact-type", "application/vnd.example.model.v1"]
    back = bench.folder / "model-back"
    shutil.rmtree(back, ignore_errors=True)
    before = server.cpu_seconds()
    push = _oras(server, folder, "push", "--plain-http", *kind, *note, reference, *names)
    pull = _oras(server, folder, "pull", "--plain-http", "--output", str(back), reference)
    cpu = server.cpu_seconds() - before
    _, different, missing = filecmp.cmpfiles(folder, back, names, shallow=False)
    if different or missing:
        raise LoadError(f"{server.peer.name}: pulled back otherwise: {different + missing}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"push": push, "pull": pull, "cpu": cpu / (2 * size / GIB)}


def _oras(server: Server, folder: Path, *words: str) -> float:
    environment = os.environ | {"DOCKER_CONFIG": str(folder.parent / "docker")}
    command = [oras() or "oras", *words]
    with on_cores(server.profile.load_cores):
        begun = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begun
    if done.returncode:
        raise LoadError(f"{server.peer.name}: oras {words[0]}: {done.stderr.strip()[-500:]}")
    return seconds


def take_stream(bench: Bench, server: Server) -> Figures:
    """Take a huge blob in and out of one worker; time its closing PUT beside smaller ones."""
    figures: Figures = {}
    largest = bench.sizes.stream
    names = {1 << 20: "finish_mib", GIB: "finish_gib", largest: "finish_whole"}
    with on_cores(server.profile.load_cores):
        for size, name in sorted(names.items()):
            if size <= largest:
                with timed(server, figures, "in", size):
                    digest, finish = push_stream(server, size)
                figures[name] = finish * 1000
        figures["peak_in"] = server.peaks()[0]
        with timed(server, figures, "out", largest):
            pull_stream(server, digest, largest)
    figures["peak"] = server.peaks()[0]
    return figures


@contextmanager
def timed(server: Server, figures: Figures, name: str, size: int) -> Iterator[None]:
    """Note the seconds of the block and the server's processor seconds per GiB."""
    begun, before = time.perf_counter(), server.cpu_seconds()
    yield
    figures[f"{name}_seconds"] = time.perf_counter() - begun
    figures[f"{name}_cpu"] = (server.cpu_seconds() - before) / (size / GIB)


def push_stream(server: Server, size: int) -> tuple[str, float]:
    """POST, PATCH of the stream, and the closing empty PUT: the digest, and that PUT's seconds."""
    wire = HTTPConnection("127.0.0.1", server.port, timeout=600)
    hasher = hashlib.sha256()
    location = _ask(wire, "POST", "/v2/bench/blobs/uploads/", 202)
    wire.putrequest("PATCH", location)
    wire.putheader("Content-Type", material.OCTETS)
    wire.putheader("Content-Length", str(size))
    wire.endheaders()
    for block in material.stream(size):
        hasher.update(block)
        wire.send(block)
    location = _answer(wire, 202)
    digest = "sha256:" + hasher.hexdigest()
    join = "&" if "?" in location else "?"
    begun = time.perf_counter()
    _ask(wire, "PUT", f"{location}{join}digest={digest}", 201)
    seconds = time.perf_counter() - begun
    wire.close()
    return digest, seconds


def _ask(wire: HTTPConnection, method: str, target: str, status: int) -> str:
    wire.request(method, target, headers={"Content-Length": "0"})
    return _answer(wire, status)


def _answer(wire: HTTPConnection, status: int) -> str:
    """Return the Location of the awaited answer."""
    answer = wire.getresponse()
    body = answer.read()
    if answer.status != status:
        raise LoadError(f"stream: {answer.status}, awaited {status}: {body[:300]!r}")
    location = answer.headers.get("Location") or ""
    return location[location.index("/", 8) :] if location.startswith("http") else location


def pull_stream(server: Server, digest: str, size: int) -> None:
    """Read and hash the blob; http.client would copy each block once more."""
    hasher = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", server.port), timeout=600) as wire:
        wire.sendall(
            f"GET /v2/bench/blobs/{digest} HTTP/1.1\r\nHost: {server.base}\r\n\r\n".encode()
        )
        held = b""
        while b"\r\n\r\n" not in held:
            block = wire.recv(65536)
            if not block:
                raise LoadError("stream: the answer ended in its head")
            held += block
        head, _, rest = held.partition(b"\r\n\r\n")
        if b" 200 " not in head.splitlines()[0]:
            raise LoadError(f"stream: {head.splitlines()[0]!r}")
        hasher.update(rest)
        left, room = size - len(rest), memoryview(bytearray(1 << 20))
        while left and (count := wire.recv_into(room)):
            hasher.update(room[:count])
            left -= count
    if left or "sha256:" + hasher.hexdigest() != digest:
        raise LoadError(f"stream: came back otherwise, {left} bytes short")

"""`make bench`, second half: Lading on PostgreSQL and S3 beside distribution on the same S3.

MinIO is the store, since it completes a multipart upload without copying it, as S3 does. Both
registries stream pulls themselves here, so that a pull measures them and not the store. The
registry has one core; its stores and the load share the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import load, machine, material, peers
from bench.clients import pull_stream, push_stream, timed
from bench.load import Script, play
from bench.material import MANIFEST
from bench.measures import push_steps
from bench.peers import Launch, Peer
from bench.server import Profile, running
from tests import s3
from tests.faulty import FaultyProxy
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.plan import Figures
    from bench.server import Server

MIB, GIB = 1 << 20, 1 << 30
# What is asked: (label, key, bound). The ratios to distribution stand beside them.
TARGETS = (
    ("closing PUT after 1 GiB, ms", "finish_gib", 1000),
    ("closing PUT after the largest, ms", "finish_largest", 1000),
    ("resolve cold, p99 ms", "cold_p99", 10),
    ("resolve warm, p99 ms", "warm_p99", 1),
    ("peak MiB, push and pull of the stream", "peak", 256),
)
ROWS = (
    ("in_seconds", "{stream} pushed: PATCH of a stream, s"),
    ("in_cpu", "… CPU s/GiB of the registry"),
    ("finish_mib", "closing PUT after 1 MiB, ms"),
    ("finish_gib", "… after 1 GiB, ms"),
    ("finish_stream", "… after {stream}, ms"),
    ("finish_largest", "… after {largest}, ms"),
    ("out_seconds", "{stream} pulled through the registry, s"),
    ("out_cpu", "… CPU s/GiB of the registry"),
    ("peak", "peak memory, push and pull of {stream}, MiB"),
    ("peak_largest", "… push of {largest}, MiB"),
    ("cold_p50", "resolve a tag, cold, p50 ms"),
    ("cold_p99", "… p99"),
    ("warm_p50", "resolve a tag, warm, p50 ms"),
    ("warm_p99", "… p99"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    stream: int = 5 * GIB
    largest: int = 20 * GIB
    tags: int = 2_000


@dataclass(slots=True)
class Found:
    """What one registry gave."""

    figures: dict[str, float] = field(default_factory=dict)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)


def contenders(catalog: str, bucket: str, store: s3.S3Server, endpoint: str) -> Iterator[Peer]:
    """Lading and distribution on these stores."""

    def lading(launch: Launch) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(launch.port)]
        blobs = store.url(bucket, "lading", endpoint=endpoint)
        logs = ["--log-level", "error", "--access-log", "off"]
        places = ["--catalog", catalog, "--blobs", blobs, "--redirect", "off"]
        return [launch.program, "serve", *places, *address, *logs]

    def distribution(launch: Launch) -> list[str]:
        place = {
            "region": "us-east-1", "regionendpoint": endpoint, "bucket": bucket,
            "rootdirectory": "distribution", "accesskey": store.access_key,
            "secretkey": store.secret_key, "secure": False, "forcepathstyle": True,
        }  # fmt: skip
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "s3": place,
                "redirect": {"disable": True},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": f"127.0.0.1:{launch.port}"},
        }
        path = launch.folder / "config.yml"
        path.write_text(json.dumps(config))
        return [launch.program, "serve", str(path)]

    known = {peer.name: peer for peer in peers.PEERS}
    yield replace(known["lading"], command=lading)
    if known["distribution"].path():
        yield replace(known["distribution"], command=distribution)


def take(server: Server, sizes: Sizes, folder: Path) -> Figures:
    """Every timed figure of one registry."""
    figures: Figures = {}
    figures |= _resolves(server, sizes.tags, folder)
    with load.on_cores(server.profile.load_cores):
        for size, name in ((MIB, "finish_mib"), (GIB, "finish_gib"), (sizes.stream, "")):
            with timed(server, figures, "in", size):
                digest, finish = push_stream(server, size)
            figures[name or "finish_stream"] = finish * 1000
        with timed(server, figures, "out", sizes.stream):
            pull_stream(server, digest, sizes.stream)
        figures["peak"] = server.peaks()[0]
        # For distribution it would be minutes: it copies what it completes.
        if server.peer.name == "lading":
            _, finish = push_stream(server, sizes.largest)
            figures |= {"finish_largest": finish * 1000, "peak_largest": server.peaks()[0]}
    return figures


def _resolves(server: Server, tags: int, folder: Path) -> Figures:
    """GET of tags one after another: each for the first time since the start, then once more."""
    fill, read = Script(folder / "fill.script", False), Script(folder / "read.script", False)
    push_steps(fill, "bench", material.CONFIG, material.digest(material.CONFIG))
    for number in range(tags):
        body = material.manifest([], note=f"tag {number}")
        target = f"/v2/bench/manifests/v{number}"
        fill.group().step("PUT", target, 201, body, MANIFEST)
        read.group().step("GET", target, 200)
    play(server, fill.save())
    server.stop()
    server.start()
    server.first_answer()
    path = read.save()
    cold, warm = play(server, path), play(server, path)
    return {
        "cold_p50": cold.p50_ms, "cold_p99": cold.p99_ms,
        "warm_p50": warm.p50_ms, "warm_p99": warm.p99_ms,
    }  # fmt: skip


def asked(server: Server, proxy: FaultyProxy) -> dict[str, dict[str, int]]:
    """Count what the registry asks of S3 for a push and a pull of one blob, by size."""
    found: dict[str, dict[str, int]] = {}
    for size, name in ((1024, "1 KiB"), (64 * MIB, "64 MiB")):
        proxy.reset()
        digest, _ = push_stream(server, size)
        found[f"push of {name}, PATCH and PUT"] = {
            str(each): count for each, count in proxy.requests.items()
        }
        proxy.reset()
        pull_stream(server, digest, size)
        found[f"pull of {name}"] = {str(each): count for each, count in proxy.requests.items()}
    return found


def measure(sizes: Sizes, scratch: Path) -> dict[str, Found]:
    cores = sorted(os.sched_getaffinity(0))
    rest = frozenset(cores[1:] or cores)
    profile = Profile(name="one", server_cores=frozenset(cores[:1]), load_cores=rest)
    results: dict[str, Found] = {}
    with ExitStack() as stack:
        with load.on_cores(rest):
            database = PostgresServer()
            stack.callback(database.remove)
            database.start()
            store = stack.enter_context(s3.running("minio"))
            proxy = stack.enter_context(FaultyProxy(store.port))
        os.environ.update(store.environment)
        for endpoint in (store.endpoint, proxy.endpoint):
            catalog, bucket = database.new_database(), store.new_bucket()
            lading = Path(sys.executable).with_name("lading")
            subprocess.run([lading, "migrate", "--catalog", catalog], check=True)
            for peer in contenders(catalog, bucket, store, endpoint):
                folder = Path(tempfile.mkdtemp(dir=scratch))
                found = results.setdefault(peer.name, Found())
                print(f"bench: stores {peer.name}", file=sys.stderr, flush=True)
                with running(peer, folder, profile) as server:
                    if endpoint == store.endpoint:
                        found.figures = take(server, sizes, folder)
                    else:
                        found.requests = asked(server, proxy)
    return results


def markdown(results: dict[str, Found], sizes: Sizes, facts: machine.Facts) -> str:
    shown = {"stream": f"{sizes.stream / GIB:g} GiB", "largest": f"{sizes.largest / GIB:g} GiB"}
    ours = results["lading"].figures
    theirs = results.get("distribution", Found()).figures
    lines = ["## On PostgreSQL and MinIO", "", "| | Lading | distribution on MinIO | ratio |"]
    lines.append("|---|---:|---:|---:|")
    for key, label in ROWS:
        ratio = f"{ours[key] / theirs[key]:.2f}" if theirs.get(key) else "—"
        other = f"{theirs[key]:.3g}" if key in theirs else "—"
        lines.append(f"| {label.format(**shown)} | {ours[key]:.3g} | {other} | {ratio} |")
    lines += ["", "| asked | bound | found | |", "|---|---:|---:|---|"]
    for label, key, bound in TARGETS:
        verdict = "reached" if ours[key] <= bound else f"missed by {ours[key] / bound - 1:.0%}"
        lines.append(f"| {label} | {bound} | {ours[key]:.3g} | {verdict} |")
    lines += ["", "Requests to S3:", ""]
    for name, found in results.items():
        for what, counts in found.requests.items():
            told = ", ".join(f"{count} {each}" for each, count in sorted(counts.items()))
            lines.append(f"- {name}, {what}: {sum(counts.values())} ({told})")
    load_before = facts["load_average_before"]
    lines += ["", f"{facts['processor']}, {facts['cores']} cores; load before: {load_before}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    sizes = Sizes(stream=256 * MIB, largest=GIB, tags=200) if quick else Sizes()
    load.build()
    peers.build_tools(["registry", "minio"])
    facts = machine.facts(load.OUT)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=load.OUT) as scratch:
        results = measure(sizes, Path(scratch))
    content = {
        "machine": facts,
        "stream": sizes.stream,
        "largest": sizes.largest,
        "results": {
            name: {"figures": found.figures, "requests": found.requests}
            for name, found in results.items()
        },
    }
    (load.OUT / "stores.json").write_text(json.dumps(content, indent=1) + "\n")
    text = markdown(results, sizes, facts)
    (load.OUT / "stores.md").write_text(text)
    print(text)
    return 0

"""The timed measures: each fills a peer's folder (or not), then takes figures from a fresh start.

`fill` runs once per peer and is not timed; `take` runs once per round, against a server that was
just started, and gives figures by key. The suite interleaves the peers and takes medians.
"""

from __future__ import annotations

import random
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from bench import material
from bench.load import LoadError, play
from bench.material import MANIFEST, OCTETS

if TYPE_CHECKING:
    from pathlib import Path

    from bench.load import Played, Script, Slice
    from bench.peers import Peer
    from bench.plan import Bench, Figures
    from bench.server import Server

GIB = 1 << 30
CLIENTS = 16
MANY_TAGS = 64
UPLOADS = "/v2/{}/blobs/uploads/"


def push_steps(script: Script, repository: str, blob: bytes | Slice, digest: str) -> Script:
    """POST and one PUT."""
    script.step("POST", UPLOADS.format(repository), 202)
    return script.step("PUT", f"@digest={digest}", 201, blob, OCTETS)


def _share(played: Played, size: float) -> Figures:
    """Processor seconds of the server per unit of work, and how busy the load generator was."""
    return {"cpu": played.server_cpu_seconds / size, "load_busy": played.load_busy}


# --- manifest GET by tag ---


def _tagged() -> list[tuple[str, str, list[bytes]]]:
    """Repository, tag and layers: one tag alone, and many in a repository of their own.

    Some peers read their whole index for each tag, so the number of tags is part of the measure.
    """
    named = [("bench", "latest")] + [("bench/many", f"tag{at}") for at in range(MANY_TAGS)]
    return [
        (repository, tag, [f"{repository} {tag} {part}".encode() for part in range(4)])
        for repository, tag in named
    ]


def _tagged_manifest(tag: str, layers: list[bytes]) -> bytes:
    return material.manifest([material.descriptor(layer) for layer in layers], note=tag)


def fill_manifests(bench: Bench, server: Server) -> None:
    script = bench.script("fill-manifests")
    for repository, tag, layers in _tagged():
        target, body = f"/v2/{repository}/manifests/{tag}", _tagged_manifest(tag, layers)
        if server.peer.static:
            path = server.folder / f"data{target}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            continue
        script.group()
        for blob in (material.CONFIG, *layers):
            push_steps(script, repository, blob, material.digest(blob))
        script.step("PUT", target, 201, body, MANIFEST)
    if not server.peer.static:
        play(server, script.save())


def take_manifests(bench: Bench, server: Server) -> Figures:
    alone, many = bench.script("manifests"), bench.script("many-manifests")
    for repository, tag, _ in _tagged():
        script = alone if repository == "bench" else many
        script.group().step("GET", f"/v2/{repository}/manifests/{tag}", 200)
    threads, seconds = server.profile.load_threads, bench.sizes.seconds
    path = alone.save()
    play(server, path, connections=CLIENTS, threads=threads, seconds=seconds / 5)
    one = play(server, path, connections=CLIENTS, threads=threads, seconds=seconds)
    path = many.save()
    several = play(server, path, connections=CLIENTS, threads=threads, seconds=seconds)
    figures = {"rate": one.rate, "p50": one.p50_ms, "p99": one.p99_ms, "many": several.rate}
    return figures | _share(one, one.groups / 1000)


# --- blob GET ---


def _blob_digest(bench: Bench) -> str:
    return material.slices(bench.blob(), 1)[0][1]


def fill_blob(bench: Bench, server: Server) -> None:
    part, digest = material.slices(bench.blob(), 1)[0]
    if server.peer.static:
        path = server.folder / "data/v2/bench/blobs" / digest
        path.parent.mkdir(parents=True)
        # A copy, not a link: each server reads its own file.
        path.write_bytes(bench.blob().read_bytes())
        return
    script = bench.script("fill-blob")
    push_steps(script, "bench", material.CONFIG, material.digest(material.CONFIG))
    push_steps(script, "bench", part, digest)
    # olareg sweeps away at its next start what no manifest names.
    layer = {"mediaType": OCTETS, "digest": digest, "size": part.length}
    body = material.manifest([layer])
    play(server, script.step("PUT", "/v2/bench/manifests/blob", 201, body, MANIFEST).save())


def take_blob(bench: Bench, server: Server) -> Figures:
    target = f"/v2/bench/blobs/{_blob_digest(bench)}"
    script = bench.script("blob")
    for _ in range(bench.sizes.reads):
        script.group().step("GET", target, 200)
    path = script.save()
    play(server, path)  # the file is in the page cache for all alike
    one = play(server, path)
    four = play(server, path, connections=4, threads=server.profile.load_threads)
    rates = {"one": one.received / one.seconds / 1e9, "four": four.received / four.seconds / 1e9}
    return rates | _share(one, one.received / GIB)


# --- blob push ---


def take_push(bench: Bench, server: Server) -> Figures:
    whole = bench.script("push")
    part, digest = material.slices(bench.blob(), 1)[0]
    one = play(server, push_steps(whole, "bench", part, digest).save())
    rate = one.sent / one.seconds / 1e9
    return {"rate": rate, "seconds": one.seconds} | _share(one, one.sent / GIB)


def take_push_four(bench: Bench, server: Server) -> Figures:
    script = bench.script("push-four")
    for part, digest in material.slices(bench.blob(), 4):
        push_steps(script.group(), "bench", part, digest)
    four = play(server, script.save(), connections=4, threads=server.profile.load_threads)
    return {"rate": four.sent / four.seconds / 1e9} | _share(four, four.sent / GIB)


# --- small artifacts ---


def _artifacts(bench: Bench) -> Path:
    """Written once per run: each take starts on an empty folder, so all may be pushed again."""
    script = bench.script("artifacts", ends_when_used=True)
    if script.path.exists():
        return script.path
    source = random.Random(0)
    for number in range(bench.sizes.artifacts):
        repository = f"bench/client{number % CLIENTS}"
        layer = source.randbytes(64)
        push_steps(script.group(), repository, layer, material.digest(layer))
        target = f"/v2/{repository}/manifests/v{number}"
        script.step("PUT", target, 201, material.manifest([material.descriptor(layer)]), MANIFEST)
    return script.save()


def take_artifacts(bench: Bench, server: Server) -> Figures:
    configs = bench.script("configs")
    for number in range(CLIENTS):
        repository, digest = f"bench/client{number}", material.digest(material.CONFIG)
        push_steps(configs.group(), repository, material.CONFIG, digest)
    play(server, configs.save())
    threads, seconds = server.profile.load_threads, bench.sizes.seconds
    path = _artifacts(bench)
    played = play(server, path, connections=CLIENTS, threads=threads, seconds=seconds)
    figures = {"rate": played.rate, "p50": played.p50_ms, "p99": played.p99_ms}
    return figures | _share(played, played.groups / 1000)


# --- pages ---


def _counts(bench: Bench, peer: Peer) -> tuple[int, int]:
    """Peers whose tag listing or index costs grow with each push are filled in part."""
    if peer.name == "lading":
        return bench.sizes.tags, bench.sizes.referrers
    return bench.sizes.peer_tags, bench.sizes.peer_referrers


def fill_pages(bench: Bench, server: Server) -> None:
    tags, referrers = _counts(bench, server.peer)
    first = bench.script("fill-first")
    push_steps(first, "bench", material.CONFIG, material.digest(material.CONFIG))
    subject = material.manifest([], note="subject")
    first.step("PUT", f"/v2/bench/manifests/{material.digest(subject)}", 201, subject, MANIFEST)
    play(server, first.save())
    script = bench.script("fill-pages")
    each = 10 if server.peer.many_tags else 1
    for start in range(0, tags, each):
        body = material.manifest([], note=f"tagged {start}")
        names = [f"tag-{number:06}" for number in range(start, start + each)]
        query = "&".join(f"tag={name}" for name in names)
        target = f"{material.digest(body)}?{query}" if server.peer.many_tags else names[0]
        script.group().step("PUT", f"/v2/bench/manifests/{target}", 201, body, MANIFEST)
    about = material.descriptor(subject, MANIFEST)
    for number in range(referrers if server.peer.refers else 0):
        body = material.manifest([], note=f"referrer {number}", subject=about)
        target = f"/v2/bench/manifests/{material.digest(body)}"
        script.group().step("PUT", target, 201, body, MANIFEST)
    play(server, script.save(), connections=CLIENTS)


def _pages(server: Server, target: str) -> list[str]:
    """Return the page at this target and those its Link headers lead to, at most 50."""
    found: list[str] = []
    following: str | None = target
    while following and len(found) < 50:
        found.append(following)
        try:
            with urllib.request.urlopen(f"http://{server.base}{following}") as answer:
                link = re.match(r"<([^>]*)>", answer.headers.get("Link") or "")
        except urllib.error.HTTPError as error:
            raise LoadError(f"{server.peer.name}: GET {following} gave {error.code}") from error
        following = re.sub(r"^https?://[^/]*", "", link[1]) if link else None
    return found


def take_pages(bench: Bench, server: Server) -> Figures:
    tags, _ = _counts(bench, server.peer)
    places, repeats = random.Random(1), bench.sizes.reads * 100
    script = bench.script("tag-pages")
    for _ in range(repeats):
        after = places.randrange(max(1, tags - 1000))
        target = f"/v2/bench/tags/list?n=1000&last=tag-{after:06}"
        script.group().step("GET", target, 200)
    played = play(server, script.save())
    figures = {"tags_p50": played.p50_ms, "tags_p99": played.p99_ms}
    if server.peer.refers:
        subject = material.digest(material.manifest([], note="subject"))
        pages = _pages(server, f"/v2/bench/referrers/{subject}?n=1000")
        script = bench.script("referrer-pages")
        for _ in range(repeats):
            script.group().step("GET", places.choice(pages), 200)
        listed = play(server, script.save())
        figures |= {"referrers_p50": listed.p50_ms, "referrers_p99": listed.p99_ms}
        figures["referrer_pages"] = len(pages)
    return figures | _share(played, played.groups / 1000)

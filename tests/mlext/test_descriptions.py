# Models as real tools packed them, through the registry: what is in them is told, whatever is in
# them, and every byte comes back.
from __future__ import annotations

import asyncio
import itertools
import json
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import zstandard

from mlext.formats import describe
from tests.mlext.formats.packing import Blobs, files, gguf, manifest, safetensors
from tests.mlext.formats.test_flavours import cnai, ollama
from tests.mlext.formats.tiny_model import LAYOUT, blob
from tests.mlext.models import Modelling
from tests.serving import Served, digest_of, push_blob
from tests.wire.build import MIB

# What a description may hold beside the bytes it reads: three times the largest header.
_MORE_MEMORY = 192 * MIB
_MOST_SECONDS = 30.0
# What others wait for three answers beside it; a busy machine makes it longer.
_WAIT_SECONDS = 5.0

Packed = tuple[bytes, str, dict[str, bytes]]


def layout(tool: str) -> Packed:
    """Return the manifest that the tool wrote, its type, and every blob that it names."""
    index = json.loads((LAYOUT / "index.json").read_text())
    (found,) = (
        each
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == tool
    )
    body = blob(found["digest"])
    named = [(document := json.loads(body))["config"], *document["layers"]]
    return body, found["mediaType"], {each["digest"]: blob(each["digest"]) for each in named}


def built(make: Callable[[Blobs], dict[str, Any]]) -> Packed:
    blobs = Blobs()
    document = make(blobs)
    return json.dumps(document, indent=3).encode(), document["mediaType"], blobs.kept


def of_ollama(blobs: Blobs) -> dict[str, Any]:
    pairs = [("general.architecture", "str", "llama"), ("llama.context_length", "u32", 8_192)]
    return ollama(blobs, gguf(pairs, [("token_embd.weight", (64, 10), 2, 0)], data=360))


def of_cnai(blobs: Blobs) -> dict[str, Any]:
    document = cnai(blobs)
    # Or it would register itself, on a base that is no digest.
    del document["annotations"]["io.lading.base.digest"]
    return document


def expected(packed: Packed) -> dict[str, Any]:
    """Return what `formats` makes of it; tests/mlext/formats tells that this is right."""
    body, media_type, kept = packed
    blobs = Blobs()
    blobs.kept = kept
    return asyncio.run(describe(body, media_type, blobs)).to_json()


def push(client: httpx.Client, model: str, packed: Packed) -> str:
    """Push all of it; return the manifest's digest."""
    body, media_type, blobs = packed
    for each in blobs.values():
        push_blob(client, model, each)
    place = f"/v2/{model}/manifests/latest"
    answer = client.put(place, content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 201, answer.text
    return digest_of(body)


def described(models: Modelling, model: str, packed: Packed) -> httpx.Response:
    number = models.register(model, push(models.client, model, packed))
    return models.client.get(f"/v1/models/{model}/versions/{number}/description", timeout=60)


LAYOUTS: dict[str, Callable[[], Packed]] = {
    "modelpack": lambda: layout("modelpack"),
    "kitops": lambda: layout("kitops"),
    "docker": lambda: layout("docker-model"),
    "oras": lambda: layout("oras"),
    "modelcar": lambda: layout("modelcar"),
    "ollama": lambda: built(of_ollama),
    "cnai": lambda: built(of_cnai),
}


@pytest.mark.parametrize("flavour", LAYOUTS)
def test_what_a_tool_packed_is_described_and_comes_back(models: Modelling, flavour: str) -> None:
    packed = LAYOUTS[flavour]()
    body, media_type, blobs = packed
    model = models.name()
    answer = described(models, model, packed)
    assert answer.status_code == 200, answer.text
    assert answer.json() == expected(packed)
    assert answer.json()["flavour"] == flavour
    for reference in ("v1", "latest", digest_of(body)):
        found = models.client.get(
            f"/v2/{model}/manifests/{reference}", headers={"Accept": media_type}
        )
        assert (found.content, found.headers["content-type"]) == (body, media_type)
    for digest, content in blobs.items():
        assert models.client.get(f"/v2/{model}/blobs/{digest}").content == content


def test_a_description_is_held_by_its_etag(models: Modelling) -> None:
    model = models.name()
    first = described(models, model, built(of_ollama))
    place = f"/v1/models/{model}/versions/1/description"
    held = {"If-None-Match": first.headers["etag"]}
    assert models.client.get(place, headers=held).status_code == 304
    assert first.headers["cache-control"] == "public, max-age=10"


def one_file(name: str, body: bytes) -> Packed:
    return built(lambda blobs: files(blobs, {name: body}))


def bombs(blobs: Blobs) -> dict[str, Any]:
    """Layers of 1 GiB and 64 MiB, of some kilobytes each."""
    kind = "application/vnd.oci.image.layer.v1.tar"
    huge = tarfile.TarInfo("models/huge.safetensors")
    huge.size = 1024 * MIB
    zstd, gz = zstandard.ZstdCompressor().compressobj(), zlib.compressobj(1, zlib.DEFLATED, 31)
    content = [huge.tobuf(), *itertools.repeat(bytes(MIB), 1024)]
    layers = [
        blobs.add(b"".join(map(zstd.compress, content)) + zstd.flush(), f"{kind}+zstd"),
        blobs.add(b"".join(map(gz.compress, content[:65])) + gz.flush(), f"{kind}+gzip"),
    ]
    return manifest(blobs.add(b"{}", "application/vnd.oci.image.config.v1+json"), layers)


def deep(size: int) -> bytes:
    return safetensors(b'{"a":' * size)


def wide(count: int) -> dict[str, Any]:
    return {
        str(n): {"dtype": "F16", "shape": [1], "data_offsets": [2 * n, 2 * n + 2]}
        for n in range(count)
    }


HOSTILE: dict[str, Callable[[], Packed]] = {
    "a header longer than its file": lambda: one_file(
        "m.safetensors", struct.pack("<Q", 2**63 - 1) + b"{}"
    ),
    "offsets that lie": lambda: one_file(
        "m.safetensors",
        safetensors({"t": {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2**62]}}, 8),
    ),
    "a header of nothing but depth": lambda: one_file("m.safetensors", deep(40_000)),
    "more tensors than any model": lambda: one_file(
        "m.safetensors", safetensors(wide(60_000), 120_000)
    ),
    "counts of GGUF that lie": lambda: one_file(
        "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + bytes(1_000)
    ),
    "an array of GGUF that lies": lambda: one_file(
        "m.gguf",
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + struct.pack("<Q", 1)
        + b"a"
        + struct.pack("<IIQ", 9, 8, 2**61)
        + bytes(4 * MIB),
    ),
    "tars that unpack to much more": lambda: built(bombs),
    "ten thousand documents": lambda: built(
        lambda blobs: files(
            blobs, {f"{n}/config.json": b'{"a":%d}' % (n % 9) for n in range(9_000)}
        )
    ),
}


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry of its own, whose memory is watched."""
    served = Served(tmp_path_factory.mktemp("hostile")).start()
    yield served
    served.stop()


def test_hostile_headers_are_told_of_in_bounds_while_others_are_served(besieged: Served) -> None:
    assert besieged.process is not None
    process = psutil.Process(besieged.process.pid)
    with besieged.client() as client:
        models = Modelling(client)
        model = models.name()
        numbers = {
            kind: models.register(model, push(client, model, make()))
            for kind, make in HOSTILE.items()
        }
        models.promote(model, "prod", 1)
        before = process.memory_info().rss

        def ask(kind: str) -> tuple[str, httpx.Response, float]:
            began = time.monotonic()
            with besieged.client() as asking:
                place = f"/v1/models/{model}/versions/{numbers[kind]}/description"
                return kind, asking.get(place, timeout=60), time.monotonic() - began

        waits, most = [], before
        with ThreadPoolExecutor(len(HOSTILE)) as pool:
            asked = [pool.submit(ask, kind) for kind in HOSTILE]
            while not all(each.done() for each in asked):
                began = time.monotonic()
                assert models.digest_at(model, "prod") == models.digest_at(model, "v1")
                assert client.get(f"/v1/models/{model}/aliases/prod").status_code == 200
                waits.append(time.monotonic() - began)
                most = max(most, process.memory_info().rss)
                time.sleep(0.02)
            told = [each.result() for each in asked]
    assert len(waits) > 3
    # Threads share one lock of Python's: others are slower, and are not kept waiting.
    assert max(waits) < _WAIT_SECONDS
    assert most - before < _MORE_MEMORY
    for kind, answer, took in told:
        assert answer.status_code == 200, (kind, answer.text)
        assert answer.json()["warnings"], kind
        assert len(answer.content) < 4 * MIB
        assert took < _MOST_SECONDS, (kind, took)

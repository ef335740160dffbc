"""What is pushed and pulled: unique, incompressible bytes, made before any clock starts.

A blob that repeats or holds zeros measures deduplication and the page cache, not a registry.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from bench.load import Slice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCTETS = "application/octet-stream"
ARTIFACT = "application/vnd.example.model.v1"
CONFIG = b"{}"
MIB = 1 << 20


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(content: bytes, kind: str = OCTETS) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def manifest(
    layers: list[dict[str, object]], *, note: str = "", subject: dict[str, object] | None = None
) -> bytes:
    """Write an artifact's manifest over the empty config and these layers."""
    body: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": descriptor(CONFIG, "application/vnd.oci.empty.v1+json"),
        "layers": layers,
    }
    if subject:
        body["subject"] = subject
    if note:
        body["annotations"] = {"org.opencontainers.image.title": note}
    return json.dumps(body, separators=(",", ":")).encode()


def big_file(path: Path, size: int) -> Path:
    """Random bytes; repeats of one random block would compress."""
    if path.exists() and path.stat().st_size == size:
        return path
    with path.open("wb") as out:
        left = size
        while left:
            left -= out.write(os.urandom(min(left, 16 * MIB)))
    return path


@functools.cache
def slices(path: Path, count: int) -> list[tuple[Slice, str]]:
    """Cut the file into equal parts, each with its digest; hashed once per run."""
    length = path.stat().st_size // count
    found = []
    with path.open("rb") as source:
        for number in range(count):
            part = Slice(path=path, offset=number * length, length=length)
            source.seek(part.offset)
            hasher = hashlib.sha256()
            left = length
            while left:
                block = source.read(min(left, 4 * MIB))
                hasher.update(block)
                left -= len(block)
            found.append((part, "sha256:" + hasher.hexdigest()))
    return found


def stream(size: int) -> Iterator[memoryview]:
    """Blocks that are unique and do not compress, cheap enough for 20 GiB on the fly.

    Each block is one random block XORed with its own 8-byte word: no two are alike. All are
    written into one buffer, so a block is good until the next is asked for.
    """
    seed = np.frombuffer(os.urandom(MIB), dtype=np.uint64)
    buffer = np.empty_like(seed)
    left = size
    for word in np.random.default_rng().integers(0, 1 << 63, size // seed.nbytes + 1, np.uint64):
        np.bitwise_xor(seed, word, out=buffer)
        block = buffer.data.cast("B")[:left]
        left -= len(block)
        if block:
            yield block


def model_folder(path: Path, shard_bytes: int) -> Path:
    """Make a model as the safetensors library writes it: three shards, index, config, tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    weights: dict[str, str] = {}
    generator = np.random.default_rng()
    width = max(64, int((shard_bytes / 8 / 2) ** 0.5))
    for shard in range(3):
        name = f"model-{shard + 1:05}-of-00003.safetensors"
        tensors = {
            f"layers.{shard * 8 + layer}.weight": generator.integers(
                0, 1 << 16, (width, width), np.uint16
            ).view(np.float16)
            for layer in range(8)
        }
        save_file(tensors, path / name)
        weights |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weights}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "bench", "hidden_size": width, "num_hidden_layers": 24}
    (path / "config.json").write_text(json.dumps(config))
    words = random.Random(0)
    vocabulary = {f"{words.getrandbits(40):x}": number for number in range(50_000)}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return path

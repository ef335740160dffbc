"""One tiny model as the real tools packed it, byte for byte, without a binary in the tree.

`tests/fixtures/models` is an OCI layout with what of it is text: manifests, configs, the small
files. The weights are random numbers of a known seed, so they, and the archives they lie in, are
made here; each must hash to the digest that the tools gave it. One layer is not as it was: crane's
gzip cannot be written by Python. Its tar is crane's (the image's config has its digest), stored in
a gzip stream that is the same everywhere, which the manifest of `modelcar` names instead.
"""

from __future__ import annotations

import json
import struct
import zlib
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

LAYOUT = Path(__file__).parents[2] / "fixtures" / "models"

_HIDDEN, _INNER, _WORDS, _CONTEXT, _LAYERS, _HEADS = 64, 256, 512, 128, 2, 4
_SEED = 7
_BLOCK = 512
# Stored blocks of deflate are at most so long (RFC 1951, section 3.2.4).
_STORED = 65_535
_SHARD = "model-0000{}-of-00003.safetensors"
_TEXTS = {
    "LICENSE": "f94cf40a2016f4f59a0ab90242a5ab8ea0a384d22c56a8c6b0f44ac5fe96059a",
    "README.md": "619c2e66c24893ef0c909108e786b7b20efe213ee96bc226a69c2d0dedcf64dc",
    "config.json": "ebf74fcbaec97875de956c1659b2a664327fe938d4f0ad561aac295cdf8758ef",
    "generation_config.json": "c083976164c1b2dd91d7051d9a295d00ad5bd8300e3bc89407b0021e6df8fa79",
    "model.safetensors.index.json": (
        "29409bd2317f6060eb1019302c301249f94b9f1a204f32c931a7359995f036e3"
    ),
    "tokenizer.json": "98085ce1ed36c934d54638982eea34335d80b3cceb7915601b08bbb271e3b651",
}
# Digests as the tools gave them.
_SHARDS = (
    "a0d7ae238fe91b176b9000a7e75dbb59072f2d0bb726082ddc804d3d88cc93b3",
    "39d458870efdefa56926866d9b6a2ad52dcde019cdf5eb9195d64934b03233f5",
    "ff89a6b67c8564aaaee466c44b718989a665817df1b54edf3ea537ef8c4f585a",
)
_GGUF = "70158c4245354e7a8c143e7f9d72086550bce24fa9c27f0b6b90f383135ba85e"
_KIT_TOKENIZER = "3635e095ce107f610e2e76aac909fdd73343cbcd13a78378041b3d82ef18d553"
_KIT_README = "584595188cf2f8c7135a887d3bdd659090bc75309cafd364a0707fb7844ce9dd"
_KIT_MODEL = "df21db579690a09024cad6cee0dfee4c9b9c593b26dced8dab7fc3cb19a26bc6"
_CRANE_TAR = "7ed5cebc672288239584b873fadea8f19b9a2813e5dd0d91493b4953b769efd0"


def blob(digest: str) -> bytes:
    """Return a blob of the layout, by its digest."""
    named = digest.removeprefix("sha256:")
    file = LAYOUT / "blobs" / "sha256" / named
    return file.read_bytes() if file.exists() else _made()[named]


@cache
def _made() -> dict[str, bytes]:
    numbers = np.random.default_rng(_SEED)
    files = {name: blob(digest) for name, digest in _TEXTS.items()}
    shards = _shards(numbers)
    files |= {_SHARD.format(number): shard for number, shard in enumerate(shards, 1)}
    model = sorted(files.keys() - {"README.md", "tokenizer.json"})
    tars = [
        (_KIT_TOKENIZER, _kit_tar({"tokenizer.json": files["tokenizer.json"]})),
        (_KIT_README, _kit_tar({"README.md": files["README.md"]})),
        (_KIT_MODEL, _kit_tar({name: files[name] for name in model})),
    ]
    crane = _checked(_CRANE_TAR, _crane_tar(files))
    layer = _stored_gzip(crane)
    made = dict([*zip(_SHARDS, shards, strict=True), (_GGUF, _gguf(numbers)), *tars])
    for digest, body in made.items():
        _checked(digest, body)
    return {**made, sha256(layer).hexdigest(): layer}


def _checked(digest: str, body: bytes) -> bytes:
    found = sha256(body).hexdigest()
    assert found == digest, f"what should be {digest} was made as {found}"
    return body


# -- weights


def _shapes() -> list[tuple[str, list[int]]]:
    wide, square, norm = [_WORDS, _HIDDEN], [_HIDDEN, _HIDDEN], [_HIDDEN]
    up, down = [_INNER, _HIDDEN], [_HIDDEN, _INNER]
    found = [("model.embed_tokens.weight", wide), ("lm_head.weight", wide),
             ("model.norm.weight", norm)]  # fmt: skip
    for layer in range(_LAYERS):
        before = f"model.layers.{layer}."
        found += [(f"{before}self_attn.{each}_proj.weight", square) for each in "qkvo"]
        found += [(f"{before}mlp.up_proj.weight", up), (f"{before}mlp.down_proj.weight", down),
                  (f"{before}input_layernorm.weight", norm)]  # fmt: skip
    return found


def _shards(numbers: np.random.Generator) -> list[bytes]:
    """Return the three safetensors files: every third tensor is in the same one."""
    return [_shard(numbers, _shapes()[number::3]) for number in range(3)]


def _shard(numbers: np.random.Generator, shapes: list[tuple[str, list[int]]]) -> bytes:
    data = {name: _numbers(numbers, shape) for name, shape in shapes}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    shape_of, at, parts = dict(shapes), 0, []
    for name in sorted(data):
        end = at + len(data[name])
        header[name] = {"dtype": "F16", "shape": shape_of[name], "data_offsets": [at, end]}
        parts.append(data[name])
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def _numbers(numbers: np.random.Generator, shape: list[int]) -> bytes:
    return numbers.standard_normal(shape).astype("<f2").tobytes()


def _gguf(numbers: np.random.Generator) -> bytes:
    """Return the same shapes as one GGUF file, version 3, with numbers of its own."""
    shapes = _shapes()
    told: list[tuple[str, int, bytes]] = [
        ("general.architecture", 8, _text("llama")),
        ("general.name", 8, _text("tiny-llama")),
        ("llama.context_length", 4, struct.pack("<I", _CONTEXT)),
        ("llama.embedding_length", 4, struct.pack("<I", _HIDDEN)),
        ("llama.block_count", 4, struct.pack("<I", _LAYERS)),
        ("llama.feed_forward_length", 4, struct.pack("<I", _INNER)),
        ("llama.attention.head_count", 4, struct.pack("<I", _HEADS)),
        ("general.file_type", 4, struct.pack("<I", 1)),
        ("general.license", 8, _text("apache-2.0")),
        ("tokenizer.ggml.model", 8, _text("gpt2")),
        ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, _WORDS)
         + b"".join(_text(f"t{number}") for number in range(_WORDS))),
    ]  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(told))
    head += b"".join(_text(key) + struct.pack("<I", kind) + value for key, kind, value in told)
    data = b""
    for name, shape in shapes:
        dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += _text(name) + struct.pack("<I", len(shape)) + dims
        head += struct.pack("<IQ", 1, len(data))
        data += _numbers(numbers, shape)
    return head + b"\0" * (-len(head) % 32) + data


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


# -- archives


def _kit_tar(files: dict[str, bytes]) -> bytes:
    entries = [
        _entry(name, body, b"%07o\0" % 1000, b"ustar\x0000", b"0000000\x000000000\0")
        for name, body in sorted(files.items())
    ]
    return b"".join(entries) + b"\0" * (2 * _BLOCK)


def _crane_tar(files: dict[str, bytes]) -> bytes:
    """Return a tar as GNU tar writes it, in records of twenty blocks."""
    nobody, magic = b"%07o\0" % 0, b"ustar  \0" + b"root".ljust(32, b"\0") + b"root"
    folder = _entry("models/", b"", nobody, magic, b"", mode=0o755, kind=b"5")
    entries = [
        _entry(f"models/{name}", body, nobody, magic, b"") for name, body in sorted(files.items())
    ]
    whole = folder + b"".join(entries)
    whole += b"\0" * (2 * _BLOCK)
    return whole + b"\0" * (-len(whole) % (20 * _BLOCK))


def _entry(  # noqa: PLR0913 - the fields of a header in which the tools differ
    name: str,
    body: bytes,
    owner: bytes,
    magic: bytes,
    device: bytes,
    *,
    mode: int = 0o644,
    kind: bytes = b"0",
) -> bytes:
    """Return one entry: a ustar header (POSIX.1-1988, 10.1.1) and the body in whole blocks."""
    if name.endswith(".safetensors"):
        mode = 0o600
    head = name.encode().ljust(100, b"\0") + b"%07o\0" % mode + owner + b"%07o\0" % 0
    head += b"%011o\0" % len(body) + b"%011o\0" % 0
    rest = kind + b"\0" * 100 + magic.ljust(72, b"\0") + device
    rest = rest.ljust(_BLOCK - len(head) - 8, b"\0")
    total = sum(head) + sum(rest) + 8 * ord(" ")
    header = head + b"%06o\0 " % total + rest
    return header + body + b"\0" * (-len(body) % _BLOCK)


def _stored_gzip(body: bytes) -> bytes:
    """Return a gzip stream (RFC 1952) of stored blocks: the same of every library."""
    parts = [body[at : at + _STORED] for at in range(0, len(body), _STORED)]
    blocks = [
        struct.pack("<BHH", part is parts[-1], len(part), len(part) ^ 0xFFFF) + part
        for part in parts
    ]
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + b"".join(blocks) + struct.pack("<II", zlib.crc32(body), len(body))

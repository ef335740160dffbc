"""What packs a model in a test: blobs in memory, manifests, GGUF headers, tar layers."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterable
from typing import Any

from mlext.formats import Description, Limits, describe
from mlext.formats.reading import BlobPieces, Budget, Reader
from ociserver.content import OCI_MANIFEST
from ociserver.errors import BlobUnknown
from ociserver.refs import Digest

SCALARS = {"u8": (0, "B"), "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"), "u64": (10, "Q")}


class Blobs:
    """Blobs in memory; `asked` has every range that was read."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[tuple[Digest, int, int]] = []

    def add(self, body: bytes, media_type: str = "", **more: Any) -> dict[str, Any]:
        """Keep the bytes and return their descriptor."""
        digest = Digest(f"sha256:{hashlib.sha256(body).hexdigest()}")
        self.kept[digest] = body
        return {"mediaType": media_type, "digest": digest, "size": len(body), **more}

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        assert offset >= 0
        assert count > 0
        self.asked.append((digest, offset, count))
        if digest not in self.kept:
            raise BlobUnknown(f"no blob {digest}")
        return self.kept[digest][offset : offset + count]

    @property
    def bytes_read(self) -> int:
        return sum(count for _, _, count in self.asked)

    def describe(self, document: dict[str, Any], limits: Limits | None = None) -> Description:
        body = json.dumps(document).encode()
        media_type = document.get("mediaType", OCI_MANIFEST)
        return asyncio.run(describe(body, media_type, self, limits or Limits()))

    def reader(self, body: bytes, limits: Limits | None = None) -> Reader:
        """Return a reader of the bytes, as of a blob."""
        digest = Digest(self.add(body)["digest"])
        return Reader(BlobPieces(self, digest, len(body), Budget(limits or Limits())))


def manifest(
    config: dict[str, Any], layers: Iterable[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": list(layers),
        **more,
    }


def titled(title: str) -> dict[str, str]:
    return {"org.opencontainers.image.title": title}


def files(blobs: Blobs, bodies: dict[str, bytes]) -> dict[str, Any]:
    """Return the manifest of plain files, as ORAS writes it."""
    layers = [
        blobs.add(body, "application/octet-stream", annotations=titled(path))
        for path, body in bodies.items()
    ]
    return manifest(blobs.add(b"{}", "application/vnd.oci.empty.v1+json"), layers)


def string(text: str | bytes, order: str = "<") -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return struct.pack(f"{order}Q", len(body)) + body


def gguf(
    pairs: Iterable[tuple[str, str, Any]] = (),
    tensors: Iterable[tuple[str, tuple[int, ...], int, int]] = (),
    *,
    version: int = 3,
    order: str = "<",
    data: int = 0,
) -> bytes:
    """Return a GGUF file: pairs are (key, type, value), tensors (name, shape, type, offset)."""
    pairs, tensors = list(pairs), list(tensors)
    body = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(pairs))
    for key, kind, value in pairs:
        body += string(key, order)
        if kind == "str":
            body += struct.pack(f"{order}I", 8) + string(value, order)
        elif kind == "strs":
            body += struct.pack(f"{order}IIQ", 9, 8, len(value))
            body += b"".join(string(each, order) for each in value)
        elif kind == "u32s":
            body += struct.pack(f"{order}IIQ{len(value)}I", 9, 4, len(value), *value)
        else:
            number, code = SCALARS[kind]
            body += struct.pack(f"{order}I{code}", number, value)
    for name, shape, kind_of_tensor, offset in tensors:
        body += string(name, order) + struct.pack(f"{order}I{len(shape)}Q", len(shape), *shape)
        body += struct.pack(f"{order}IQ", kind_of_tensor, offset)
    if data:
        body += bytes(-len(body) % 32) + bytes(data)
    return body


def safetensors(header: Any, data: int = 0) -> bytes:
    """Return a safetensors file; the header may be bytes, to be none."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tar(bodies: dict[str, bytes], kind: int = tarfile.PAX_FORMAT, **fields: Any) -> bytes:
    """Return a tar archive of files, each with these fields of `TarInfo`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        for path, body in bodies.items():
            member = tarfile.TarInfo(path)
            member.size = len(body)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()

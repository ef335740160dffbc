"""What packs a model in a test: blobs in memory, tar layers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any

from mlext.formats.description import Limits
from mlext.formats.reading import BlobPieces, Budget, Reader
from ociserver.errors import BlobUnknown
from ociserver.refs import Digest


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

    def reader(self, body: bytes, limits: Limits | None = None) -> Reader:
        """Return a reader of the bytes, as of a blob."""
        digest = Digest(self.add(body)["digest"])
        return Reader(BlobPieces(self, digest, len(body), Budget(limits or Limits())))


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

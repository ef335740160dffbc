"""Downloads: what a digest is to one who may pull it, file by file, and what signs its address."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlext.errors import ArtifactUnknown
from mlext.listing import listed
from mlext.ports import ModelsCatalog, ModelsTx
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.errors import Unavailable
from ociserver.ports import StoredBlob
from ociserver.refs import Digest, RepositoryName

_PATH_MAX = 1_000
# Repositories that hold one digest, among which one is looked for that the caller may pull.
_HOLDERS = 1_000
_SECRET = "download-links"  # noqa: S105 - its name
_SECRET_BYTES = 32
_LOOK_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A layer of a manifest. `path` is None where it has none that is safe to write to;
    `stored` where its bytes are not here.
    """

    path: str | None
    digest: Digest
    size: int
    stored: StoredBlob | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A manifest with its files, or a blob: what is not `stored` is a manifest."""

    repository: RepositoryName
    digest: Digest
    size: int
    stored: StoredBlob | None = None
    files: Sequence[File] = ()


def artifact(
    tx: ModelsTx, by: Author, digest: Digest, repository: RepositoryName | None
) -> Artifact:
    """Return it as the repository has it, or the first by name that they may pull it from.

    Raises ArtifactUnknown, whether it is not there or not for them.
    """
    named = [repository] if repository is not None else None
    for name in _allowed(by, named or tx.manifest_holders(digest, _HOLDERS)):
        stored = tx.manifest(name, digest)
        if stored is not None:
            files = _files(tx, name, stored.body)
            size = len(stored.body)
            return Artifact(repository=name, digest=digest, size=size, files=files)
    for name in _allowed(by, named or tx.holding(digest, _HOLDERS)):
        blob = tx.blobs_of(name, [digest]).get(digest)
        if blob is not None:
            return Artifact(repository=name, digest=digest, size=blob.size, stored=blob)
    raise ArtifactUnknown(f"there is no artifact {digest} that {by.name} may pull")


def _allowed(by: Author, names: Iterable[RepositoryName]) -> Sequence[RepositoryName]:
    """Return the first of them that they may pull from, with the token they showed, if any."""
    return [
        each for each in names if by.may(Action.PULL, each, None) and by.holds(Action.PULL, each)
    ][:1]


def _files(tx: ModelsTx, repository: RepositoryName, body: bytes) -> Sequence[File]:
    layers = listed(body, "layers", "blobs")
    held = tx.blobs_of(repository, {each.digest for each in layers})
    return [
        File(
            path=next(filter(None, map(safe_path, each.names)), None),
            digest=each.digest,
            size=each.size,
            stored=held.get(each.digest),
        )
        for each in layers
    ]


def safe_path(text: str) -> str | None:
    """Return the relative path, None where a client that writes there could be led astray."""
    if len(text) > _PATH_MAX or not text.isprintable():
        return None
    path = text.removeprefix("./").rstrip("/")
    parts = path.split("/")
    # A backslash and a colon are parts of a name here, and of a way elsewhere.
    strange = any(each in ("", ".", "..") for each in parts) or "\\" in path or ":" in parts[0]
    return None if strange else path


class LinkKey:
    """What all workers of all replicas sign addresses with: random bytes that the catalog holds.

    To take the row `download-links` from the table `secret` ends all that was given out, within a
    minute.
    """

    def __init__(self, catalog: ModelsCatalog) -> None:
        self._catalog = catalog
        self._key: bytes | None = None
        self._read_at = 0.0

    async def known(self) -> bytes | None:
        """Return the key, None where nothing was ever signed. Raises Unavailable."""
        now = time.monotonic()
        if self._key is None or now - self._read_at > _LOOK_AGAIN_SECONDS:
            try:
                self._key = await self._catalog.read(lambda tx: tx.secret(_SECRET))
                self._read_at = now
            except Unavailable:
                if self._key is None:
                    raise
        return self._key

    async def made(self) -> bytes:
        """Return the key, a new one where there is none. Raises Unavailable, StorageFull."""
        found = await self.known()
        if found is None:
            fresh = secrets.token_bytes(_SECRET_BYTES)
            found = await self._catalog.write(lambda tx: tx.keep_secret(_SECRET, fresh))
            self._key, self._read_at = found, time.monotonic()
        return found

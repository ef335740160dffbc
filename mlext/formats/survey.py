"""What is found in the layers of one manifest: its files, what their headers say, and what could
not be read. Reads; what the findings mean is for others to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from mlext.formats.claims import Claims
from mlext.formats.declarations import ADAPTER_CONFIG, MODEL_CONFIG, from_file
from mlext.formats.description import File
from mlext.formats.documents import loaded
from mlext.formats.gguf import MAGIC, read_gguf
from mlext.formats.paths import clean_path, format_of, is_beside, kind_of, weights_of
from mlext.formats.reading import BlobPieces, BlobRange, Budget, Part, Reader, Unreadable
from mlext.formats.recognition import Layer
from mlext.formats.safetensors import LENGTH, read_safetensors
from mlext.formats.tars import Member, members
from mlext.formats.unpacking import Unpacked
from mlext.formats.weights import Shard
from ociserver.errors import BlobDamaged, LadingError, Unavailable
from ociserver.refs import Digest, shortened

# Where KServe looks for the model in an image.
_MODELS = "models"
# A file that is removed in an upper layer, and a folder whose lower layers do not show (image
# spec, layer.md, "Whiteouts").
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
# Both formats show themselves in this many bytes: GGUF by its magic, safetensors by the brace
# behind its length.
_SNIFFED = 9


class Survey:
    """Collects `files` by path, `shards`, `claims` of files and `warnings` while it is shown the
    layers. `incomplete` says that weights may be missing from `shards`.

    Whatever is asked of it raises Unavailable alone.
    """

    def __init__(self, blobs: BlobRange, budget: Budget) -> None:
        self._blobs = blobs
        self._budget = budget
        self._claims: list[tuple[int, Claims]] = []
        self._nameless: Counter[str] = Counter()
        self.files: dict[str, File] = {}
        self.shards: list[Shard] = []
        self.header_claims: list[Claims] = []
        self.incomplete = False
        self.warnings: list[str] = []

    @property
    def file_claims(self) -> list[Claims]:
        """What files say, the outermost first: a model of several parts has a config in each."""
        return [claims for _, claims in sorted(self._claims, key=lambda each: each[0])]

    def warn(self, sentence: str) -> None:
        """Say it, once and not without end."""
        most = self._budget.limits.warnings
        if sentence in self.warnings:
            return
        if len(self.warnings) < most:
            self.warnings.append(sentence)
        elif len(self.warnings) == most:
            self.warnings.append("There are more warnings than are kept.")

    @asynccontextmanager
    async def tolerated(self, what: str, *, weights: bool = False) -> AsyncIterator[None]:
        """Turn what cannot be read inside into a warning that begins with `what`. `weights` says
        that there are, or may be, weights in it.
        """
        try:
            yield
        except Unreadable as error:
            self.warn(f"{what} {error}.")
        except LadingError as error:
            if isinstance(error, Unavailable) and not isinstance(error, BlobDamaged):
                raise
            self.warn(f"{what} cannot be read: {error.message}.")
        else:
            return
        self.incomplete = self.incomplete or weights

    async def document(self, digest: Digest, size: int, what: str) -> dict[str, Any]:
        """Return the JSON object that a blob is, {} with a warning where it is none."""
        async with self.tolerated(what):
            return await self._loaded(self._reader(digest, size), size)
        return {}

    async def layers(self, layers: Iterable[Layer], paths: dict[str, str]) -> None:
        """Take in layers of a model artifact; `paths` are by digest, for those that name none."""
        layers = list(layers)
        named = [layer.path or paths.get(layer.digest) for layer in layers]
        shards = Counter(
            layer.called
            for layer, path in zip(layers, named, strict=True)
            if path is None or layer.part == "tensor"
        )
        for layer, path in zip(layers, named, strict=True):
            async with self.tolerated(_layer(layer), weights=True):
                if layer.is_tar:
                    await self._tar(layer)
                else:
                    await self._raw(layer, path, shards)

    async def image(self, layers: list[Layer]) -> None:
        """Take in what an image has under `/models`. Upper layers come first: they decide."""
        hidden: set[str] = set()
        for layer in reversed(layers):
            hides: set[str] = set()
            async with self.tolerated(_layer(layer), weights=True):
                if not layer.is_tar:
                    raise Unreadable("is no tar archive by its media type")
                async with aclosing(self._members(layer)) as found:
                    async for member, part in found:
                        await self._in_image(layer, member, part, hidden, hides)
            hidden |= hides

    async def _in_image(
        self, layer: Layer, member: Member, part: Part, hidden: set[str], hides: set[str]
    ) -> None:
        path = clean_path(member.path)
        if path is None:
            if _MODELS in member.path.split("/"):
                self.warn(f"{_layer(layer)} has a path that is left out: {_shown(member.path)}.")
            return
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            hides.add(folder)
        elif name.startswith(_WHITEOUT):
            hides.add(f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/"))
        elif path.startswith(f"{_MODELS}/") and not hidden & _and_above(path):
            inside = path.removeprefix(f"{_MODELS}/")
            if inside not in self.files:
                await self._member(layer, member, inside, part)

    async def _tar(self, layer: Layer) -> None:
        async with aclosing(self._members(layer)) as found:
            async for member, part in found:
                if member.kind == "other":
                    continue
                path = clean_path(member.path)
                if path is None:
                    self.warn(
                        f"{_layer(layer)} has a path that is left out: {_shown(member.path)}."
                    )
                else:
                    await self._member(layer, member, path, part)

    def _members(self, layer: Layer) -> AsyncGenerator[tuple[Member, Part], None]:
        self._budget.opened()
        return members(self._unpacked(layer), self._budget)

    async def _member(self, layer: Layer, member: Member, path: str, part: Part) -> None:
        if member.kind == "link":
            self.warn(f"{_shown(path)} is a link in its layer and left out.")
        if member.kind != "file":
            return
        file = File(
            path=path,
            size=member.size,
            digest=None,
            media_type=layer.media_type,
            kind=kind_of(path, layer.kind),
            layer=layer.digest,
            offset=None if layer.compression else member.offset,
        )
        if self._kept(file) and not layer.beside:
            name, total = weights_of(path)
            await self._open(file, Reader(part), name, total)

    async def _raw(self, layer: Layer, named: str | None, shards: Counter[str]) -> None:
        path = self._unused(layer.called) if named is None else clean_path(named)
        if path is None:
            raise Unreadable(f"has a path that is left out: {_shown(str(named))}")
        file = File(
            path=path,
            size=layer.size,
            digest=None if layer.compression else layer.digest,
            media_type=layer.media_type,
            kind=kind_of(path, layer.kind),
            layer=layer.digest,
            offset=None if layer.compression else 0,
        )
        if not self._kept(file) or layer.beside:
            return
        if layer.compression:
            # Nothing says how long it is unpacked, by which a header would be judged.
            raise Unreadable(f"has {_shown(path)} compressed: the size is that of the layer")
        together = named is None or layer.part == "tensor"
        name, total = (layer.called, shards[layer.called]) if together else weights_of(path)
        await self._open(file, self._raw_reader(layer, file), name, total)

    def _unused(self, name: str) -> str:
        self._nameless[name] += 1
        if self._nameless[name] == 1:
            return name
        stem, dot, extension = name.partition(".")
        return f"{stem}-{self._nameless[name]}{dot}{extension}"

    def _kept(self, file: File) -> bool:
        if len(self.files) >= self._budget.limits.files:
            raise Unreadable(f"has files beyond the {self._budget.limits.files} that are listed")
        if file.path in self.files:
            self.warn(f"{_shown(file.path)} is there twice; the first is shown.")
            return False
        self.files[file.path] = file
        return True

    async def _open(self, file: File, reader: Reader, name: str, total: int) -> None:
        """Read what the file says of the model, if it is one that does."""
        async with self.tolerated(_shown(file.path), weights=file.kind == "weight"):
            base = file.path.rpartition("/")[2]
            if base in {MODEL_CONFIG, ADAPTER_CONFIG}:
                self._budget.opened()
                document = await self._loaded(reader, file.size)
                self._claims.append((file.path.count("/"), from_file(base, document)))
            elif file.kind == "weight" and not is_beside(file.path):
                await self._weights(file, reader, name, total)

    async def _weights(self, file: File, reader: Reader, name: str, total: int) -> None:
        found = format_of(file.path) or await _sniffed(reader, file.size)
        if found in {"gguf", "safetensors"}:
            self._budget.opened()
            read = read_gguf if found == "gguf" else read_safetensors
            header = await read(reader, file.size, self._budget)
            self.shards.append(Shard(name=name, total=total, header=header))
            self.header_claims.append(header.claims)

    async def _loaded(self, reader: Reader, size: int) -> dict[str, Any]:
        most = self._budget.limits.document_bytes
        if size > most:
            raise Unreadable(f"is a document of {size} bytes; at most {most} are read")
        self._budget.parse(size)
        return loaded(await reader.take(size))

    def _reader(self, digest: Digest, size: int) -> Reader:
        return Reader(BlobPieces(self._blobs, digest, size, self._budget))

    def _raw_reader(self, layer: Layer, file: File) -> Reader:
        if file.kind != "weight":
            return self._reader(layer.digest, layer.size)
        # So that no step, however long by now, goes beyond what a header may be.
        most = self._budget.limits.header_bytes + LENGTH
        return self._reader(layer.digest, min(layer.size, most))

    def _unpacked(self, layer: Layer) -> Reader:
        packed = BlobPieces(self._blobs, layer.digest, layer.size, self._budget)
        if layer.compression is None:
            return Reader(packed)
        return Reader(Unpacked(packed, layer.compression, self._budget))


async def _sniffed(reader: Reader, size: int) -> str | None:
    """Return the format that the first bytes show, where no name tells it."""
    if size < _SNIFFED:
        return None
    await reader.fill(_SNIFFED)
    start = reader.buffer[reader.start : reader.start + _SNIFFED]
    if start.startswith(MAGIC):
        return "gguf"
    return "safetensors" if start.endswith(b"{") else None


def _and_above(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:count]) for count in range(len(parts) + 1)}


def _layer(layer: Layer) -> str:
    return f"Layer {layer.digest[:19]}"


def _shown(path: str) -> str:
    return ascii(shortened(path))

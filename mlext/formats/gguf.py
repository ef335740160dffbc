"""The header of a GGUF file: typed key-value pairs, then the name, shape and type of each tensor.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, either byte order. Most
of a header is the vocabulary: arrays are passed over, never kept.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

from mlext.formats.claims import Claims, numbers
from mlext.formats.documents import count, text, tidy
from mlext.formats.ggml import FILE_TYPES, TYPES
from mlext.formats.reading import Budget, Reader, Unreadable
from mlext.formats.weights import UNKNOWN, Header
from ociserver.refs import shortened

MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_DIMENSIONS = 4
_KEY_MAX = 65_535
_NAME_MAX = 1_024
_KEPT_MAX = 4_096
_MANY = 2**63
_ALIGNMENT = 32
# Bytes of a vocabulary that take as long as one pair or tensor does, about.
_ENTRY = 256

# Value types: `enum gguf_metadata_value_type`, the scalars as struct has them.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


async def read_gguf(reader: Reader, size: int, budget: Budget) -> Header:
    """Return what the header says; `size` is the file's, in bytes. Raises Unreadable."""
    return await _Walk(reader, size, budget).header()


class _Walk:
    def __init__(self, reader: Reader, size: int, budget: Budget) -> None:
        self._reader = reader
        self._size = size
        self._budget = budget
        self._limits = budget.limits
        self._order = "<"

    async def header(self) -> Header:
        if await self._take(4) != MAGIC:
            raise Unreadable("is no GGUF file")
        version = await self._number("I")
        if version and not version & 0xFFFF:
            # Nothing but the version tells a big-endian file ("File Structure").
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in _VERSIONS:
            raise Unreadable(f"is GGUF of version {version}, which is not read")
        tensors, pairs = await self._number("Q"), await self._number("Q")
        for many, what in ((tensors, "tensors"), (pairs, "pairs")):
            if many > self._limits.tensors:
                raise Unreadable(f"has {many} {what}; at most {self._limits.tensors} are read")
        self._budget.parse(_ENTRY * (tensors + pairs))
        metadata = await self._metadata(pairs)
        elements, data_bytes = await self._tensors(tensors, metadata)
        return Header(
            tensors=tensors, elements=elements, data_bytes=data_bytes, claims=_claims(metadata)
        )

    async def _metadata(self, pairs: int) -> dict[str, Any]:
        """Return the pairs that a description rests on."""
        seen: set[str] = set()
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = await self._string(_KEY_MAX)
            if key in seen:
                raise Unreadable(f"has the key {shortened(key)!r} twice")
            seen.add(key)
            value_type = await self._number("I")
            if key.startswith("general.") or key.endswith(".context_length"):
                metadata[key] = await self._value(value_type)
            else:
                await self._pass_value(value_type)
        return metadata

    async def _value(self, value_type: int) -> Any:
        """Return a scalar or a short string; None for what is passed over instead."""
        if value_type in _SCALARS:
            return await self._number(_SCALARS[value_type])
        if value_type != _STRING:
            return await self._pass_value(value_type)
        length = await self._number("Q")
        if length > _KEPT_MAX:
            return await self._skip(length)
        return _decoded(await self._take(length))

    async def _pass_value(self, value_type: int) -> None:
        if value_type == _STRING:
            await self._skip(await self._number("Q"))
        elif value_type == _ARRAY:
            await self._pass_array(await self._number("I"), await self._number("Q"))
        else:
            await self._skip(_width(value_type))

    async def _pass_array(self, value_type: int, many: int) -> None:
        if value_type != _STRING:
            # An array of arrays, which the specification allows, no writer makes and ggml's own
            # reader refuses.
            await self._skip(many * _width(value_type))
            return
        length = struct.Struct(self._order + "Q")
        while many:
            await self._fill(length.size)
            many -= self._pass_strings(length, many)
            if many:
                # One that goes on beyond what was read.
                await self._skip(await self._number("Q"))
                many -= 1

    def _pass_strings(self, length: struct.Struct, many: int) -> int:
        """Pass over the strings that are whole in the buffer; return how many those were."""
        buffer, start = self._reader.buffer, self._reader.start
        at, last, passed = start, len(buffer) - length.size, 0
        while passed < many and at <= last:
            behind = at + length.size + length.unpack_from(buffer, at)[0]
            if behind > len(buffer):
                break
            at = behind
            passed += 1
        self._budget.parse(at - start)
        self._reader.pass_over(at - start)
        return passed

    async def _tensors(
        self, many: int, metadata: dict[str, Any]
    ) -> tuple[dict[str, int], int | None]:
        """Return elements by type, and the bytes of all tensors where each type is known."""
        names: set[str] = set()
        elements: Counter[str] = Counter()
        spans = []
        for _ in range(many):
            name = await self._string(_NAME_MAX)
            if name in names:
                raise Unreadable(f"has the tensor {shortened(name)!r} twice")
            names.add(name)
            dtype, held, span = await self._tensor(name)
            elements[dtype] += held
            spans.append(span)
        if sum(elements.values()) >= _MANY:
            raise Unreadable("has tensors of impossible shapes")
        self._check(spans, metadata)
        data_bytes = None if UNKNOWN in elements else sum(length for _, length in spans)
        return dict(elements), data_bytes

    async def _tensor(self, name: str) -> tuple[str, int, tuple[int, int]]:
        """Return type, elements, and where in the data the tensor lies and how long it is."""
        dimensions = await self._number("I")
        if dimensions > _DIMENSIONS:
            raise Unreadable(f"has a tensor {shortened(name)!r} of {dimensions} dimensions")
        shape = [await self._number("Q") for _ in range(dimensions)]
        held = 1
        for dimension in shape:
            held *= dimension
            if held >= _MANY:
                raise Unreadable(f"has a tensor {shortened(name)!r} of an impossible shape")
        dtype, block, block_bytes = TYPES.get(await self._number("I"), (UNKNOWN, 1, 0))
        offset = await self._number("Q")
        if shape and shape[0] % block:
            raise Unreadable(f"has a tensor {shortened(name)!r} with part of a block")
        return dtype, held, (offset, held // block * block_bytes)

    def _check(self, spans: list[tuple[int, int]], metadata: dict[str, Any]) -> None:
        """Raise Unreadable where tensors overlap, or lie outside the file."""
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise Unreadable("has an impossible alignment")
        end = 0
        for offset, length in sorted(spans):
            if offset < end or offset % alignment:
                raise Unreadable("has tensors that overlap or are not aligned")
            end = offset + length
        begins = -(-self._reader.position // alignment) * alignment
        if spans and begins + end > self._size:
            raise Unreadable("has tensors beyond its end")

    async def _string(self, most: int) -> str:
        length = await self._number("Q")
        if length > most:
            raise Unreadable(f"has a name of {length} bytes")
        return _decoded(await self._take(length))

    async def _number(self, code: str) -> Any:
        packed = await self._take(struct.calcsize(f"<{code}"))
        return struct.unpack(self._order + code, packed)[0]

    async def _take(self, length: int) -> bytes:
        await self._fill(length)
        return await self._reader.take(length)

    async def _fill(self, length: int) -> None:
        self._allow(length)
        await self._reader.fill(length)

    async def _skip(self, length: int) -> None:
        self._allow(length)
        await self._reader.skip(length)

    def _allow(self, length: int) -> None:
        if self._reader.position + length > self._limits.header_bytes:
            raise Unreadable(
                f"has a GGUF header of more than the {self._limits.header_bytes} bytes that are "
                "read"
            )


def _width(value_type: int) -> int:
    if value_type not in _SCALARS:
        raise Unreadable(f"has a value of type {value_type}, which is not read")
    return struct.calcsize(f"<{_SCALARS[value_type]}")


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("has a name or a text that is not UTF-8") from error


def _claims(metadata: dict[str, Any]) -> Claims:
    architecture = text(metadata, "general.architecture")
    file_type = metadata.get("general.file_type")
    precision, quantization = numbers(FILE_TYPES.get(file_type) if type(file_type) is int else None)
    bases = [_base(metadata, number) for number in range(min(_bases(metadata), 100))]
    return Claims(
        name=text(metadata, "general.name"),
        format="gguf",
        architecture=architecture,
        # llama.cpp's architectures are what others call families.
        family=architecture,
        parameters_text=text(metadata, "general.size_label"),
        precision=precision,
        quantization=quantization,
        context_length=count(metadata, f"{architecture}.context_length"),
        licences=tuple(filter(None, (text(metadata, "general.license"),))),
        base_models=tuple(base for base in bases if base),
    )


def _bases(metadata: dict[str, Any]) -> int:
    return count(metadata, "general.base_model.count") or 0


def _base(metadata: dict[str, Any], number: int) -> str | None:
    """Return the repository of a base model; its name, with whose it is, where that is all."""
    about = f"general.base_model.{number}."
    name, owner = text(metadata, about + "name"), text(metadata, about + "organization")
    url = text(metadata, about + "repo_url")
    return url or tidy(f"{owner}/{name}" if owner and name else name)

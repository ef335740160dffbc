"""The header of a safetensors file: eight bytes of length, then JSON that names every tensor.

https://huggingface.co/docs/safetensors ("Format"). Its rules are checked as its own reader does: a
tensor has the bytes its shape needs, all lie inside the file, none overlap and none are unused.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlext.formats.claims import Claims
from mlext.formats.documents import loaded
from mlext.formats.reading import Budget, Reader, Unreadable
from mlext.formats.weights import Header
from ociserver.refs import shortened

# Bytes before the JSON.
LENGTH = 8
_DIMENSIONS = 32
_ELEMENTS_MAX = 2**63
# Punctuation of one entry: parsing costs memory for each, far more than its byte in the file.
_COMMAS = 8
_METADATA = "__metadata__"

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


async def read_safetensors(reader: Reader, size: int, budget: Budget) -> Header:
    """Return what the header says; `size` is the file's, in bytes. Raises Unreadable."""
    limits = budget.limits
    length = int.from_bytes(await reader.take(LENGTH), "little")
    if length > size - LENGTH:
        raise Unreadable(f"has a safetensors header of {length} bytes, more than the file")
    if length > limits.header_bytes:
        raise Unreadable(
            f"has a safetensors header of {length} bytes; at most {limits.header_bytes} are read"
        )
    budget.parse(length)
    text = await reader.take(length)
    many = limits.tensors
    if max(text.count(b"{") - 2, text.count(b"[") // 2, text.count(b",") // _COMMAS) > many:
        raise Unreadable(f"has more than the {many} tensors that are read")
    return _header(loaded(text, unique=True), size - LENGTH - length)


def _header(document: dict[str, Any], data_bytes: int) -> Header:
    document.pop(_METADATA, None)
    elements: Counter[str] = Counter()
    spans = []
    for name, entry in document.items():
        dtype, count, span = _tensor(name, entry)
        elements[dtype] += count
        spans.append(span)
    end = 0
    for begins, ends in sorted(spans):
        if begins != end:
            raise Unreadable("has tensors that overlap, or bytes of none")
        end = ends
    if end != data_bytes:
        raise Unreadable(f"has tensors of {end} bytes where the file has {data_bytes}")
    return Header(
        tensors=len(document),
        elements=dict(elements),
        data_bytes=data_bytes,
        claims=Claims(format="safetensors"),
    )


def _tensor(name: str, entry: Any) -> tuple[str, int, tuple[int, int]]:
    """Return the dtype, how many elements there are, and where in the data they lie."""
    where = f"has a tensor {shortened(name)!r}"
    if not isinstance(entry, dict):
        raise Unreadable(f"{where} that is no object")
    dtype = entry.get("dtype")
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise Unreadable(f"{where} of an unknown dtype")
    if shape is None or len(shape) > _DIMENSIONS:
        raise Unreadable(f"{where} of an impossible shape")
    if offsets is None or len(offsets) != 2:  # noqa: PLR2004 - where it begins and ends
        raise Unreadable(f"{where} at impossible offsets")
    count = 1
    for dimension in shape:
        count *= dimension
        if count >= _ELEMENTS_MAX:
            raise Unreadable(f"{where} of an impossible shape")
    if offsets[1] - offsets[0] != -(-count * _BITS[dtype] // 8):
        raise Unreadable(f"{where} whose bytes are not those of its shape")
    return dtype, count, (offsets[0], offsets[1])


def _counts(value: Any) -> list[int] | None:
    """Return a list of whole numbers that a file can have; None where it is none."""
    if isinstance(value, list) and all(
        type(each) is int and 0 <= each < _ELEMENTS_MAX for each in value
    ):
        return value
    return None

"""What one source says of a model: the packer's config, a header, a `config.json`. Sources are
asked in order of trust and the first that says a thing is believed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal

# Names of plain number formats, as ModelPack has them (`precision`), under all their names.
_PRECISIONS = {
    **dict.fromkeys(("f64", "float64", "double"), "float64"),
    **dict.fromkeys(("f32", "float32", "fp32", "float"), "float32"),
    **dict.fromkeys(("f16", "float16", "fp16", "half"), "float16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("f8_e4m3", "float8_e4m3", "float8_e4m3fn"), "float8_e4m3"),
    **dict.fromkeys(("f8_e5m2", "float8_e5m2"), "float8_e5m2"),
    **dict.fromkeys(("i8", "int8"), "int8"),
    **dict.fromkeys(("u8", "uint8"), "uint8"),
    **dict.fromkeys(("i16", "int16"), "int16"),
    **dict.fromkeys(("i32", "int32"), "int32"),
    **dict.fromkeys(("i64", "int64"), "int64"),
}
# llama.cpp names a file by what most of its tensors are; Docker hands that on.
_MOSTLY = re.compile(r"(?:MOSTLY|ALL)_", re.IGNORECASE)

_SCALES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12, "Q": 10**15}
# ModelPack's `paramSize`; others write the same, some with a blank.
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMBTQ])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one source says; None and () where it is silent. Fields as in `Description`."""

    name: str | None = None
    format: str | None = None
    architecture: str | None = None
    family: str | None = None
    parameters_text: str | None = None
    precision: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    licences: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()


def believed(sources: Iterable[Claims]) -> Claims:
    """Return the first word on each single thing, and every word on those there may be many of."""
    best: dict[str, object] = {}
    several: dict[str, dict[str, str]] = {"licences": {}, "base_models": {}}
    for source in sources:
        for field in fields(source):
            value = getattr(source, field.name)
            if field.name in several:
                # SPDX names are the same in any case (SPDX 2.3, annex D).
                for each in value:
                    several[field.name].setdefault(each.lower(), each)
            elif value is not None:
                best.setdefault(field.name, value)
    lists = {name: tuple(values.values()) for name, values in several.items()}
    return Claims(**best, **lists)  # type: ignore[arg-type]  # names and types are the fields' own


def numbers(stored_as: str | None) -> tuple[str | None, str | None]:
    """Return precision and quantization, of which a type of stored numbers is one or the other:
    `F16` is a precision, `Q4_K_M` a quantization.
    """
    if stored_as is None:
        return None, None
    plain = _MOSTLY.sub("", stored_as, count=1)
    precision = precision_of(plain)
    return precision, None if precision else plain


def precision_of(dtype: str) -> str | None:
    """Return the ModelPack name of a plain number format; None for any other."""
    return _PRECISIONS.get(dtype.lower())


def parameters_of(size: str | None) -> int | None:
    """Return the number that a text such as `8.03B` stands for; None where it is not of that form
    (`8x7B` is none: experts share some of their parameters).
    """
    found = _SIZE.fullmatch(size or "")
    return int(Decimal(found[1]) * _SCALES[found[2].upper()]) if found else None


def size_of(parameters: int) -> str:
    """Return the number as model cards write it, with at most two decimals: `8.03B`."""
    for letter, scale in reversed(_SCALES.items()):
        if parameters >= scale:
            return f"{Decimal(parameters) / scale:.2f}".rstrip("0").rstrip(".") + letter
    return str(parameters)

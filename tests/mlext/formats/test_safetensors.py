"""safetensors headers: read as the library writes them, refused where its own reader would, and
never more bytes fetched than a header has.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from mlext.formats.description import KIB, MIB, Limits
from mlext.formats.reading import Budget, Unreadable
from mlext.formats.safetensors import read_safetensors
from mlext.formats.weights import Header
from tests.mlext.formats.packing import Blobs, safetensors

quick = settings(derandomize=True, deadline=None, max_examples=150)


def read(body: bytes, limits: Limits | None = None, blobs: Blobs | None = None) -> Header:
    used = limits or Limits()
    reader = (blobs or Blobs()).reader(body, used)
    return asyncio.run(read_safetensors(reader, len(body), Budget(used)))


def tensor(dtype: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def test_a_file_of_the_library_is_summed() -> None:
    body = save(
        {
            "a": np.zeros((3, 5), np.float16),
            "b": np.zeros((7,), np.float32),
            "scalar": np.zeros((), np.int64),
            "empty": np.zeros((0, 4), np.float16),
        },
        {"format": "pt"},
    )

    header = read(body)

    assert header.tensors == 4
    assert header.elements == {"F16": 15, "F32": 7, "I64": 1}
    assert header.data_bytes == 15 * 2 + 7 * 4 + 8


def test_a_real_header_costs_one_small_read() -> None:
    blobs = Blobs()

    read(save({"a": np.zeros(8 * MIB, np.int8)}), blobs=blobs)

    assert blobs.bytes_read == 64 * KIB


def test_a_large_header_is_read_in_growing_steps() -> None:
    blobs = Blobs()
    body = safetensors({f"{n:050}": tensor("U8", [1], n, n + 1) for n in range(20_000)}, 20_000)

    assert read(body, blobs=blobs).tensors == 20_000
    assert [count // KIB for _, _, count in blobs.asked][:5] == [64, 128, 256, 512, 1024]


def test_numbers_of_less_than_a_byte_are_counted() -> None:
    assert read(safetensors({"a": tensor("F4", [2, 3], 0, 3)}, 3)).elements == {"F4": 6}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ends early"),
        (b"\x01\0\0\0\0\0\0", "ends early"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "more than the file"),
        (safetensors(b"[]"), "not a JSON object"),
        (safetensors(b"{" * 100), "not JSON in UTF-8"),
        (safetensors(b'{"a":' * 40_000), "not JSON in UTF-8"),
        (safetensors(b'{"\xff": 1}'), "not JSON in UTF-8"),
        (safetensors(b'{"a": NaN}'), "not JSON in UTF-8"),
        (safetensors(b'{"a": %s}' % (b"9" * 5_000)), "that is no object"),
        (safetensors(b'{"a": 1, "a": 2}'), "twice"),
        (safetensors({"a": []}), "that is no object"),
        (safetensors({"a": {}}), "unknown dtype"),
        (safetensors({"a": tensor("Q9", [1], 0, 1)}, 1), "unknown dtype"),
        (safetensors({"a": tensor("U8", [-1], 0, 1)}, 1), "impossible shape"),
        (safetensors({"a": tensor("U8", [True], 0, 1)}, 1), "impossible shape"),
        (safetensors({"a": tensor("U8", [1.0], 0, 1)}, 1), "impossible shape"),  # type: ignore[list-item]
        (safetensors({"a": tensor("U8", [2**32, 2**32], 0, 1)}, 1), "impossible shape"),
        (safetensors({"a": tensor("U8", [1] * 33, 0, 1)}, 1), "impossible shape"),
        (safetensors({"a": tensor("U8", [1], 0)}, 1), "impossible offsets"),
        (safetensors({"a": tensor("U8", [1], -1, 0)}, 1), "impossible offsets"),
        (safetensors({"a": tensor("U8", [1], 0, 2)}, 2), "not those of its shape"),
        (safetensors({"a": tensor("U8", [1], 1, 0)}, 1), "not those of its shape"),
        (safetensors({"a": tensor("U8", [9], 0, 9)}, 1), "where the file has 1"),
        (safetensors({"a": tensor("U8", [1], 0, 1)}, 9), "where the file has 9"),
        (
            safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, 3),
            "overlap",
        ),
        (safetensors({"a": tensor("U8", [1], 1, 2)}, 2), "bytes of none"),
    ],
)
def test_a_header_that_lies_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(body)


def test_a_header_over_the_limit_is_not_fetched() -> None:
    blobs = Blobs()
    body = safetensors(b" " * (17 * MIB))

    with pytest.raises(Unreadable, match="at most 16777216 are read"):
        read(body, blobs=blobs)

    assert blobs.bytes_read == 64 * KIB


@pytest.mark.parametrize("flood", [b"{},", b"[],", b"1,"])
def test_a_flood_of_small_values_is_refused_before_it_is_parsed(flood: bytes) -> None:
    body = safetensors(b'{"a":[' + flood * 900_000 + b"0]}")

    with pytest.raises(Unreadable, match="more than the 50000 tensors"):
        read(body)


shapes = st.lists(st.integers(0, 5), max_size=3)


@quick
@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["float16", "float32", "int8", "bool"]), shapes),
        max_size=5,
    )
)
def test_whatever_the_library_writes_is_read(arrays: dict[str, tuple[str, list[int]]]) -> None:
    made = {name: np.zeros(shape, dtype) for name, (dtype, shape) in arrays.items()}

    header = read(save(made))

    assert header.tensors == len(made)
    assert sum(header.elements.values()) == sum(each.size for each in made.values())
    assert header.data_bytes == sum(each.nbytes for each in made.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@quick
@given(
    document=st.dictionaries(st.text(max_size=5), json_values, max_size=4),
    data=st.integers(0, 9),
)
def test_no_document_does_worse_than_being_unreadable(document: dict[str, Any], data: int) -> None:
    try:
        read(safetensors(json.dumps(document).encode(), data))
    except Unreadable as error:
        assert str(error)  # noqa: PT017 - it may also be read


@quick
@given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 250))
def test_no_damaged_file_does_worse_than_being_unreadable(at: int, byte: int, cut: int) -> None:
    body = bytearray(save({"a": np.zeros((3, 5), np.float16), "b": np.zeros(2, np.int8)}))
    body[at % len(body)] = byte

    try:
        read(bytes(body[: cut or None]))
    except Unreadable as error:
        assert str(error)  # noqa: PT017 - it may also be read

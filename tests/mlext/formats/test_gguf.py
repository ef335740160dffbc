"""GGUF headers: every version and byte order that is read, arrays passed over, lies refused."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlext.formats.description import KIB, MIB, Limits
from mlext.formats.gguf import read_gguf
from mlext.formats.reading import Budget, Unreadable
from mlext.formats.weights import Header
from tests.mlext.formats.packing import Blobs, gguf, string

quick = settings(derandomize=True, deadline=None, max_examples=200)

PAIRS: list[tuple[str, str, Any]] = [
    ("general.architecture", "str", "llama"),
    ("general.name", "str", "Tiny"),
    ("general.license", "str", "apache-2.0"),
    ("general.size_label", "str", "1.5K"),
    ("general.file_type", "u32", 15),
    ("general.tags", "strs", ["a", "b"]),
    ("general.base_model.count", "u32", 2),
    ("general.base_model.0.repo_url", "str", "https://huggingface.co/org/base"),
    ("general.base_model.1.name", "str", "Other"),
    ("general.base_model.1.organization", "str", "Org"),
    ("llama.context_length", "u64", 4096),
    ("llama.rope.freq_base", "f32", 1e4),
    ("tokenizer.ggml.tokens", "strs", [f"token {n}" for n in range(1_000)]),
    ("tokenizer.ggml.token_type", "u32s", list(range(1_000))),
]
# A block of Q4_K is 144 bytes for 256 elements.
TENSORS = [("a", (256, 4), 12, 0), ("b", (10,), 0, 576)]


def read(body: bytes, limits: Limits | None = None, blobs: Blobs | None = None) -> Header:
    used = limits or Limits()
    reader = (blobs or Blobs()).reader(body, used)
    return asyncio.run(read_gguf(reader, len(body), Budget(used)))


@pytest.mark.parametrize(("version", "order"), [(2, "<"), (3, "<"), (3, ">")])
def test_what_a_header_says_is_read(version: int, order: str) -> None:
    header = read(gguf(PAIRS, TENSORS, version=version, order=order, data=616))

    assert header.tensors == 2
    assert header.elements == {"Q4_K": 1024, "F32": 10}
    assert header.data_bytes == 616
    claims = header.claims
    assert (claims.name, claims.format, claims.architecture) == ("Tiny", "gguf", "llama")
    assert (claims.precision, claims.quantization) == (None, "Q4_K_M")
    assert (claims.parameters_text, claims.context_length) == ("1.5K", 4096)
    assert claims.licences == ("apache-2.0",)
    assert claims.base_models == ("https://huggingface.co/org/base", "Org/Other")


def test_a_plain_file_type_is_a_precision() -> None:
    claims = read(gguf([("general.file_type", "u32", 32)])).claims

    assert (claims.precision, claims.quantization) == ("bfloat16", None)


def test_a_type_that_no_table_has_leaves_the_bytes_unknown() -> None:
    header = read(gguf([], [("a", (5,), 99, 0), ("b", (5,), 98, 0)], data=9))

    assert header.elements == {"unknown": 10}
    assert header.data_bytes is None


def test_a_vocabulary_is_passed_over_in_growing_steps() -> None:
    tokens = [f"a token, number {n}" for n in range(250_000)]
    body = gguf([("tokenizer.ggml.tokens", "strs", tokens)], data=MIB)
    blobs = Blobs()

    assert read(body, blobs=blobs).tensors == 0

    assert [count // KIB for _, _, count in blobs.asked][:5] == [64, 128, 256, 512, 1024]
    assert all(count <= 4 * MIB for _, _, count in blobs.asked)


def test_weights_are_not_fetched() -> None:
    blobs = Blobs()

    read(gguf(PAIRS, [("a", (8 * MIB,), 24, 0)], data=8 * MIB), blobs=blobs)

    assert blobs.bytes_read == 64 * KIB


def counts(tensors: int, pairs: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def pair(key: bytes, kind: int, value: bytes = b"") -> bytes:
    return counts(0, 1) + string(key) + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ends early"),
        (b"GGML" + bytes(20), "no GGUF file"),
        (b"GGUF" + bytes(20), "version 0"),
        (counts(0, 0, version=1), "version 1"),
        (counts(0, 0, version=2**32 - 1), "version 4294967295"),
        (counts(2**64 - 1, 0), "tensors; at most 50000"),
        (counts(0, 2**63), "pairs; at most 50000"),
        (counts(0, 1), "ends early"),
        (counts(0, 1) + struct.pack("<Q", 2**63), "a name of"),
        (pair(b"\xff\xfe", 4, bytes(4)), "not UTF-8"),
        (pair(b"general.name", 8, string(b"\xff")), "not UTF-8"),
        (pair(b"a", 13), "value of type 13"),
        (pair(b"a", 8, struct.pack("<Q", 2**64 - 1)), "more than the 16777216 bytes"),
        (pair(b"a", 9, struct.pack("<IQ", 4, 2**62)), "more than the 16777216 bytes"),
        (pair(b"a", 9, struct.pack("<IQ", 8, 2**62)), "ends early"),
        (pair(b"a", 9, struct.pack("<IQ", 9, 1)), "value of type 9"),
        (gguf([("a", "u32", 1), ("a", "u32", 2)]), "'a' twice"),
        (gguf([], [("a", (1,), 0, 0), ("a", (1,), 0, 32)], data=64), "'a' twice"),
        (gguf([], [("a", (1,) * 5, 0, 0)], data=4), "5 dimensions"),
        (gguf([], [("a", (2**32, 2**32), 0, 0)]), "impossible shape"),
        (gguf([], [(f"{n}", (2**62,), 99, 0) for n in range(2)]), "impossible shapes"),
        (gguf([], [("a", (100,), 12, 0)], data=144), "part of a block"),
        (gguf([], [("a", (8,), 0, 0), ("b", (8,), 0, 0)], data=64), "overlap"),
        (gguf([], [("a", (8,), 0, 3)], data=64), "not aligned"),
        (gguf([], [("a", (8,), 0, 2**63)], data=64), "beyond its end"),
        (gguf([], [("a", (17,), 0, 0)], data=64), "beyond its end"),
        (gguf([("general.alignment", "u32", 0)], [("a", (1,), 0, 0)], data=4), "alignment"),
        (gguf([("general.alignment", "u32", 24)], [("a", (1,), 0, 0)], data=4), "alignment"),
        (gguf([("general.alignment", "f32", 8.0)], [("a", (1,), 0, 0)], data=4), "alignment"),
    ],
)
def test_a_header_that_lies_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(body)


def test_a_header_over_the_limit_is_not_read_to_its_end() -> None:
    blobs = Blobs()
    limits = Limits(header_bytes=256 * KIB)
    body = gguf([("tokens", "strs", ["x" * 100] * 20_000)])

    with pytest.raises(Unreadable, match="more than the 262144 bytes"):
        read(body, limits, blobs)

    assert blobs.bytes_read < MIB


def test_an_array_of_empty_strings_without_end_is_bounded() -> None:
    endless = pair(b"a", 9, struct.pack("<IQ", 8, 2**60) + bytes(17 * MIB))

    with pytest.raises(Unreadable, match="more than the 16777216 bytes"):
        read(endless)


@quick
@given(at=st.integers(0, 1_000), byte=st.integers(0, 255), cut=st.integers(0, 1_500))
def test_no_damaged_header_does_worse_than_being_unreadable(at: int, byte: int, cut: int) -> None:
    pairs = [(*each[:2], each[2][:3]) if each[1].endswith("s") else each for each in PAIRS]
    body = bytearray(gguf(pairs, TENSORS, data=616))
    body[at % len(body)] = byte

    try:
        read(bytes(body[: cut or None]))
    except Unreadable as error:
        assert str(error)  # noqa: PT017 - it may also be read


@quick
@given(rest=st.binary(max_size=120), tensors=st.integers(0, 3), pairs=st.integers(0, 3))
def test_no_bytes_do_worse_than_being_unreadable(rest: bytes, tensors: int, pairs: int) -> None:
    try:
        read(counts(tensors, pairs) + rest)
    except Unreadable as error:
        assert str(error)  # noqa: PT017 - it may also be read

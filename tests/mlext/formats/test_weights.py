"""What headers add up to, and what the words of packers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.formats.claims import Claims, believed, numbers, parameters_of, size_of
from mlext.formats.paths import clean_path, is_beside, kind_of, weights_of
from mlext.formats.weights import Header, Shard, Weights, added_up


def added(*shards: tuple[str, int, dict[str, int]]) -> Weights | None:
    return added_up(
        Shard(
            name=name,
            total=total,
            header=Header(tensors=len(elements), elements=elements, data_bytes=10, claims=Claims()),
        )
        for name, total, elements in shards
    )


def test_no_headers_are_no_weights() -> None:
    assert added() is None


def test_shards_are_summed() -> None:
    weights = added(("m.safetensors", 2, {"F16": 7}), ("m.safetensors", 2, {"F16": 3, "F32": 1}))

    assert weights is not None
    assert weights.tensors.elements == {"F16": 10, "F32": 1}
    assert (weights.tensors.count, weights.tensors.bytes) == (3, 20)
    assert (weights.parameters, weights.precision) == (11, "float16")


def test_a_missing_shard_leaves_the_number_of_parameters_unknown() -> None:
    weights = added(("m.safetensors", 2, {"F16": 7}))

    assert weights is not None
    assert not weights.whole
    assert weights.parameters is None


def test_of_several_sets_in_one_folder_the_largest_counts() -> None:
    weights = added(("a.gguf", 1, {"F16": 7}), ("b.gguf", 1, {"F16": 9}), ("c.gguf", 1, {}))

    assert weights is not None
    assert (weights.parameters, weights.left_out) == (9, 2)


def test_folders_are_parts_of_one_model() -> None:
    weights = added(("unet/m.safetensors", 1, {"F16": 7}), ("vae/m.safetensors", 1, {"F16": 9}))

    assert weights is not None
    assert (weights.parameters, weights.left_out) == (16, 0)


def test_packed_numbers_are_no_parameters() -> None:
    weights = added(("m.safetensors", 1, {"I32": 7, "F16": 9}))

    assert weights is not None
    assert weights.parameters is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8B", 8_000_000_000),
        ("8.03b", 8_030_000_000),
        ("164.03K", 164_030),
        ("0.5 M", 500_000),
        ("1.2T", 1_200_000_000_000),
        ("0.1", None),
        ("8x7B", None),
        ("B", None),
        ("", None),
        (None, None),
        ("9" * 99 + "B", None),
    ],
)
def test_sizes_are_numbers(text: str | None, number: int | None) -> None:
    assert parameters_of(text) == number


@given(st.integers(0, 10**17))
def test_a_number_is_written_as_it_is_read(number: int) -> None:
    read = parameters_of(size_of(number))

    assert read is None if number < 1000 else read is not None
    assert read is None or abs(read - number) * 199 <= number


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("MOSTLY_F16", ("float16", None)),
        ("ALL_F32", ("float32", None)),
        ("MOSTLY_Q4_K_M", (None, "Q4_K_M")),
        ("BF16", ("bfloat16", None)),
        ("gptq", (None, "gptq")),
        (None, (None, None)),
    ],
)
def test_stored_numbers_are_a_precision_or_a_quantization(
    text: str | None, both: tuple[str | None, str | None]
) -> None:
    assert numbers(text) == both


def test_the_first_who_says_it_is_believed_and_lists_are_joined() -> None:
    first = Claims(name="a", licences=("Apache-2.0",))
    second = Claims(name="b", format="gguf", licences=("apache-2.0", "MIT"))

    best = believed([first, second])

    assert (best.name, best.format, best.licences) == ("a", "gguf", ("Apache-2.0", "MIT"))


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a/b.bin", "a/b.bin"),
        ("./a//b.bin", "a/b.bin"),
        ("a/./b", "a/b"),
        ("..a/b..", "..a/b.."),
        ("ünï/模型", "ünï/模型"),
        ("../a", None),
        ("a/../b", None),
        ("a/..", None),
        ("/etc/passwd", None),
        ("a\\b", None),
        ("a\nb", None),
        ("a\0b", None),
        ("a\x7fb", None),
        ("a\u202egnp.exe", None),
        ("a\ud800", None),
        ("a\u2028b", None),
        ("", None),
        (".", None),
        ("a" * 5_000, None),
    ],
)
def test_paths_that_are_unsafe_are_none(path: str, clean: str | None) -> None:
    assert clean_path(path) == clean


@given(st.text(max_size=30))
def test_a_clean_path_stays_as_it_is_and_below(path: str) -> None:
    clean = clean_path(path)

    assert clean is None or clean_path(clean) == clean
    assert clean is None or not {"", ".", ".."} & set(clean.split("/"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("m.safetensors", "weight"),
        ("x/M.GGUF", "weight"),
        ("model.safetensors.index.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("vocab.txt", "tokenizer"),
        ("LICENSE", "licence"),
        ("licence.md", "licence"),
        ("NOTICE", "licence"),
        ("README.md", "doc"),
        ("train.py", "code"),
        ("train.parquet", "dataset"),
        ("strange", "other"),
    ],
)
def test_kinds_are_known_by_name(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def test_a_declared_kind_is_believed_but_for_licences_and_tokenizers() -> None:
    assert kind_of("LICENSE", "doc") == "licence"
    assert kind_of("tokenizer.json", "config") == "tokenizer"
    assert kind_of("README.md", "code") == "code"
    assert kind_of("LICENSE", "weight") == "weight"


def test_shards_are_known_by_name() -> None:
    assert weights_of("a/m-00002-of-00003.gguf") == ("a/m.gguf", 3)
    assert weights_of("a/m.gguf") == ("a/m.gguf", 1)
    assert weights_of("m-2-of-3.gguf") == ("m-2-of-3.gguf", 1)


def test_aids_beside_a_model_are_known_by_name() -> None:
    assert is_beside("a/mmproj-model-f16.gguf")
    assert is_beside("mtp-model.gguf")
    assert not is_beside("mtp/model.gguf")

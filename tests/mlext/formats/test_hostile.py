"""Manifests that a stranger wrote: whatever is in them, a description comes out, it says what was
not read, and it cost no more than its limits.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlext.formats import Description, Limits, describe
from mlext.formats.description import KIB, MIB
from ociserver.content import OCI_MANIFEST
from ociserver.errors import BlobDamaged, LadingError, ManifestInvalid, Unavailable
from ociserver.refs import Digest
from tests.mlext.formats.packing import Blobs, files, gguf, manifest, safetensors, tar, titled

quick = settings(derandomize=True, deadline=None, max_examples=150)

GOOD = safetensors({"t": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}, 8)
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Failing(Blobs):
    """A store that answers every read with this error."""

    def __init__(self, error: LadingError) -> None:
        super().__init__()
        self.error = error

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        raise self.error


def image(blobs: Blobs, *layers: tuple[bytes, str]) -> dict[str, Any]:
    config = blobs.add(b"{}", "application/vnd.oci.image.config.v1+json")
    return manifest(config, [blobs.add(body, LAYER + packing) for body, packing in layers])


def test_a_store_that_cannot_answer_ends_a_description() -> None:
    blobs = Failing(Unavailable("the store is down"))

    with pytest.raises(Unavailable):
        blobs.describe(files(blobs, {"m.safetensors": GOOD}))


def test_a_damaged_blob_is_a_warning() -> None:
    blobs = Failing(BlobDamaged("the object is gone"))

    description = blobs.describe(files(blobs, {"m.safetensors": GOOD}))

    assert [file.path for file in description.files] == ["m.safetensors"]
    assert description.warnings == ("'m.safetensors' cannot be read: the object is gone.",)


def test_a_blob_that_is_not_there_is_a_warning() -> None:
    blobs = Blobs()
    document = files(blobs, {"m.safetensors": GOOD, "n.safetensors": GOOD[:-1] + b"1"})
    del blobs.kept[document["layers"][0]["digest"]]

    description = blobs.describe(document)

    assert len(description.files) == 2
    (warning,) = description.warnings
    assert warning.startswith("'m.safetensors' cannot be read: no blob sha256:")
    assert description.parameters is None


def test_one_bad_header_leaves_the_others_and_no_count() -> None:
    blobs = Blobs()

    description = blobs.describe(
        files(
            blobs,
            {
                "m-00001-of-00002.safetensors": GOOD,
                "m-00002-of-00002.safetensors": safetensors(b"{" * 9),
                "config.json": b'{"model_type":"llama"}',
            },
        )
    )

    assert description.family == "llama"
    assert description.parameters is None
    assert description.tensors is not None
    assert description.tensors.elements == {"F16": 4}
    assert [warning.partition(" ")[0] for warning in description.warnings] == [
        "'m-00002-of-00002.safetensors'",
        "Some",
    ]


def test_a_layer_that_is_cut_short_leaves_no_count() -> None:
    blobs = Blobs()
    layer = tar({"models/a.safetensors": GOOD, "models/z": bytes(2 * MIB)})
    document = image(blobs, (gzip.compress(layer), "+gzip"))

    description = blobs.describe(document, Limits(unpacked_bytes=MIB))

    assert description.parameters is None
    assert description.tensors is not None


def test_a_compressed_file_is_listed_as_it_is_stored() -> None:
    blobs = Blobs()
    body = gzip.compress(GOOD)
    layer = blobs.add(
        body,
        "application/vnd.kitops.modelkit.model.v1.raw+gzip",
        annotations=titled("m.safetensors"),
    )
    document = manifest(blobs.add(b"{}", "application/vnd.kitops.modelkit.config.v1+json"), [layer])

    description = blobs.describe(document)

    (file,) = description.files
    assert (file.path, file.size, file.digest, file.offset) == (
        "m.safetensors",
        len(body),
        None,
        None,
    )
    (warning,) = description.warnings
    assert warning.endswith("has 'm.safetensors' compressed: the size is that of the layer.")


def test_the_outermost_config_speaks_for_the_model() -> None:
    blobs = Blobs()
    parts = {"unet/config.json": b'{"model_type":"unet"}', "config.json": b'{"model_type":"all"}'}

    assert blobs.describe(files(blobs, parts)).family == "all"


def test_sets_of_weights_that_do_not_count_are_said() -> None:
    blobs = Blobs()
    small = safetensors({"t": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}, 2)

    description = blobs.describe(files(blobs, {"a.safetensors": GOOD, "b.safetensors": small}))

    assert description.parameters == 4
    assert description.warnings == (
        "Not counted are 1 sets of weights: each has a larger one in its folder.",
    )


@pytest.mark.parametrize(
    "path", ["../a", "/etc/passwd", "a/../../b", "a\nb", "a\u202eb", "\ud800", "a\\b"]
)
def test_a_path_that_is_unsafe_is_left_out_and_said(path: str) -> None:
    blobs = Blobs()

    description = blobs.describe(files(blobs, {path: b"a", "b": b"b"}))

    assert [file.path for file in description.files] == ["b"]
    (warning,) = description.warnings
    assert "has a path that is left out" in warning
    assert warning.isascii()
    assert warning.isprintable()


def test_an_unsafe_path_in_a_tar_is_left_out_and_said() -> None:
    blobs = Blobs()
    layer = tar({"models/../../etc/cron": b"a", "models/b": b"b", "/models/c": b"c", "../d": b""})

    description = blobs.describe(image(blobs, (layer, "")))

    assert [file.path for file in description.files] == ["b"]
    assert len(description.warnings) == 2


def test_an_unsafe_path_in_a_kit_is_left_out_and_said() -> None:
    blobs = Blobs()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind in [("../a", tarfile.REGTYPE), ("b", tarfile.DIRTYPE), ("c", b"0")]:
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
    kit = "application/vnd.kitops.modelkit"
    layers = [blobs.add(packed.getvalue(), f"{kit}.model.v1.tar")] * 2

    description = blobs.describe(manifest(blobs.add(b"{}", f"{kit}.config.v1+json"), layers))

    assert [file.path for file in description.files] == ["c"]
    assert len(description.warnings) == 2
    assert "has a path that is left out: '../a'" in description.warnings[0]
    assert description.warnings[1] == "'c' is there twice; the first is shown."


def test_a_layer_of_an_image_that_is_no_tar_is_said() -> None:
    blobs = Blobs()

    description = blobs.describe(image(blobs, (b"erofs", ".erofs"), (tar({"models/a": b""}), "")))

    assert [file.path for file in description.files] == ["a"]
    assert "is no tar archive by its media type" in description.warnings[0]


@pytest.mark.parametrize("packing", ["", "+gzip"])
def test_headers_inside_a_tar_are_read_and_end_with_their_file(packing: str) -> None:
    blobs = Blobs()
    weights = gguf(
        [("general.architecture", "str", "llama"), ("long", "str", "x" * 200_000)],
        [("t", (8,), 0, 0)],
        data=32,
    )
    layer = tar(
        {
            "models/a.gguf": weights,
            "models/b/c.gguf": weights[:100],
            "models/d": b"d",
            "models/e/f.gguf": gguf()[:10],
        }
    )

    description = blobs.describe(
        image(blobs, (gzip.compress(layer) if packing else layer, packing))
    )

    assert [file.path for file in description.files] == [
        "a.gguf",
        "b/c.gguf",
        "d",
        "e/f.gguf",
    ]
    assert description.architecture == "llama"
    assert description.tensors is not None
    assert description.tensors.elements == {"F32": 8}
    assert description.warnings == ("'b/c.gguf' ends early.", "'e/f.gguf' ends early.")


def test_a_layer_that_ends_inside_a_header_is_said() -> None:
    blobs = Blobs()
    layer = tar({"models/config.json": b'{"model_type":"llama"}'})[: 512 + 10]

    description = blobs.describe(image(blobs, (gzip.compress(layer), "+gzip")))

    assert [file.path for file in description.files] == ["config.json"]
    assert [warning.endswith("ends early.") for warning in description.warnings] == [True] * 2


def test_the_same_path_twice_is_said() -> None:
    blobs = Blobs()
    document = files(blobs, {"a": b"first"})
    document["layers"] += files(blobs, {"./a": b"second one"})["layers"]

    description = blobs.describe(document)

    assert [(file.path, file.size) for file in description.files] == [("a", 5)]
    assert description.warnings == ("'a' is there twice; the first is shown.",)


def test_a_sparse_layer_is_refused() -> None:
    blobs = Blobs()
    layer = tar({"models/a": b""}, tarfile.GNU_FORMAT, type=tarfile.GNUTYPE_SPARSE)

    description = blobs.describe(image(blobs, (layer, "")))

    assert description.flavour == "unknown"
    assert "has a sparse member" in description.warnings[0]


@pytest.mark.parametrize("packing", ["+gzip", "+zstd"])
def test_a_bomb_is_listed_as_far_as_the_limit(packing: str) -> None:
    blobs = Blobs()
    layer = tar({"models/config.json": b'{"model_type":"llama"}', "models/z": bytes(64 * MIB)})
    pack = gzip.compress if packing == "+gzip" else zstandard.compress
    document = image(blobs, (pack(layer), packing))

    description = blobs.describe(document, Limits(unpacked_bytes=8 * MIB))

    assert description.family == "llama"
    assert [file.path for file in description.files] == ["config.json", "z"]
    assert "unpacks to more than 8388608 bytes" in description.warnings[0]


def test_layers_share_one_limit() -> None:
    blobs = Blobs()
    bombs = [gzip.compress(tar({f"models/{n}": bytes(8 * MIB)})) for n in range(4)]
    document = image(blobs, *((bomb, "+gzip") for bomb in bombs))

    description = blobs.describe(document, Limits(unpacked_bytes=20 * MIB))

    # The first of them is the last to be read: what an upper layer has counts.
    assert [file.path for file in description.files] == ["3", "2", "1"]
    assert len(description.warnings) == 2


def test_what_a_description_reads_is_bounded() -> None:
    blobs = Blobs()
    document = files(
        blobs, {f"{n}.gguf": gguf([("t", "strs", [f"{n}" * 900] * 4_000)]) for n in range(9)}
    )

    description = blobs.describe(document, Limits(read_bytes=5 * MIB, header_bytes=2 * MIB))

    assert blobs.bytes_read <= 5 * MIB
    assert len(description.warnings) == 9


def test_what_is_parsed_in_all_is_bounded() -> None:
    blobs = Blobs()
    vocabulary = gguf([("t", "strs", ["token"] * 9_000)])
    document = files(
        blobs,
        {
            "a/m.gguf": vocabulary,
            "b/m.gguf": vocabulary,
            "c/m.safetensors": GOOD,
            "d/config.json": b'{"a": 1}',
        },
    )

    description = blobs.describe(document, Limits(parsed_bytes=130_000))

    assert [warning.rpartition(" is ")[2] for warning in description.warnings] == [
        "beyond the 130000 bytes of headers in all."
    ] * 3


def test_no_header_takes_more_than_its_limit() -> None:
    blobs = Blobs()
    document = files(blobs, {"m.gguf": gguf([("t", "strs", ["x" * 900] * 9_000)])})

    blobs.describe(document, Limits(header_bytes=MIB))

    assert blobs.bytes_read <= MIB + 8


def test_a_config_that_is_a_flood_is_not_read() -> None:
    blobs = Blobs()
    config = blobs.add(b"[" * (2 * MIB), "application/vnd.cncf.model.config.v1+json")

    description = blobs.describe(manifest(config, []))

    assert description == Description(
        flavour="modelpack",
        warnings=("The config is a document of 2097152 bytes; at most 1048576 are read.",),
    )
    assert blobs.asked == []


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"a":' * 200_000, b"\xff", b"null", b""])
def test_a_config_that_is_none_is_a_warning(body: bytes) -> None:
    blobs = Blobs()
    config = blobs.add(body, "application/vnd.cncf.model.config.v1+json")

    (warning,) = blobs.describe(manifest(config, [])).warnings

    assert warning.startswith("The config is not ")


def test_files_and_openings_and_warnings_have_limits() -> None:
    blobs = Blobs()
    many = files(blobs, {f"{n}/m.safetensors": f"bad {n}".encode() for n in range(20)})

    listed = blobs.describe(many, Limits(files=5))
    opened = blobs.describe(many, Limits(opened=5))
    warned = blobs.describe(many, Limits(warnings=5))

    assert len(listed.files) == 5
    assert sum("is beyond the 5 files" in warning for warning in opened.warnings) == 15
    assert len(warned.warnings) == 6
    assert warned.warnings[-1] == "There are more warnings than are kept."


def test_words_of_a_config_are_fit_to_be_shown() -> None:
    blobs = Blobs()
    config = {
        "descriptor": {"name": "a\n\x1b[31m\u202eb" + "c" * 5_000, "licenses": ["MIT", 7, None]},
        "config": {"architecture": ["x"], "format": 5, "paramSize": {}},
    }
    described = blobs.describe(
        manifest(
            blobs.add(json.dumps(config).encode(), "application/vnd.cncf.model.config.v1+json"), []
        )
    )

    assert described.name is not None
    assert described.name.startswith("a [31m bccc")
    assert len(described.name) == KIB
    assert described.licences == ("MIT",)
    assert (described.architecture, described.format, described.parameters) == (None, None, None)


PARTS = [
    "application/vnd.cncf.model.weight.v1.raw",
    "application/vnd.cncf.model.doc.v1.tar+gzip",
    "application/vnd.cnai.model.weight.v1.tar",
    "application/vnd.kitops.modelkit.model.v1.tar+zstd",
    "application/vnd.kitops.modelkit.code.v1.raw+gzip",
    "application/vnd.docker.ai.gguf.v3",
    "application/vnd.ollama.image.model",
    "application/vnd.ollama.image.tensor",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
]
CONFIGS = [
    "application/vnd.cncf.model.config.v1+json",
    "application/vnd.kitops.modelkit.config.v1+json",
    "application/vnd.docker.ai.model.config.v0.1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.empty.v1+json",
]
KEYS = st.sampled_from(
    [
        "descriptor",
        "config",
        "model",
        "parts",
        "package",
        "path",
        "digest",
        "license",
        "name",
        "from",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            GOOD,
            gguf([("general.architecture", "str", "llama")]),
            tar({"models/m.safetensors": GOOD, "config.json": b"{}"}),
            gzip.compress(tar({"models/m.gguf": gguf(), "adapter_config.json": b"[]"})),
            zstandard.compress(tar({"models/m.gguf": b"GGUF"})),
        ]
    ),
)
notes = st.dictionaries(
    st.sampled_from(
        [
            "org.opencontainers.image.title",
            "org.cncf.model.filepath",
            "io.lading.base.digest",
            "ml.kitops.modelkit.kitfile",
            "org.opencontainers.image.licenses",
        ]
    ),
    st.text(max_size=8) | st.sampled_from(["config.json", "m.safetensors", "{}", "a/../b"]),
    max_size=2,
)


@quick
@given(
    config=st.tuples(st.sampled_from(CONFIGS), bodies),
    layers=st.lists(
        st.tuples(st.sampled_from(PARTS), bodies, notes | json_values, json_values),
        max_size=4,
    ),
    noted=notes,
    lie=st.integers(-3, 3),
)
def test_whatever_is_pushed_is_described(
    config: tuple[str, bytes],
    layers: list[tuple[str, bytes, Any, Any]],
    noted: dict[str, str],
    lie: int,
) -> None:
    blobs = Blobs()
    descriptors = [
        blobs.add(body, media_type, annotations=marked, name=more, **{"from": more})
        for media_type, body, marked, more in layers
    ]
    for descriptor in descriptors[:1]:
        descriptor["size"] = max(0, descriptor["size"] + lie)
    document = manifest(blobs.add(config[1], config[0]), descriptors, annotations=noted)
    body = json.dumps(document).encode()

    try:
        description = asyncio.run(describe(body, OCI_MANIFEST, blobs))
    except ManifestInvalid:
        return

    assert json.loads(json.dumps(description.to_json())) == description.to_json()
    for digest, offset, count in blobs.asked:
        named = [
            descriptor
            for descriptor in [document["config"], *descriptors]
            if descriptor["digest"] == digest
        ]
        assert any(offset + count <= descriptor["size"] for descriptor in named)

"""One tiny model as the real tools packed it: the same facts come out of each layout."""

from __future__ import annotations

import asyncio
import json

from mlext.formats import Description, File, Kind, Tensors, describe
from ociserver.refs import Digest
from tests.mlext.formats.packing import Blobs
from tests.mlext.formats.tiny_model import LAYOUT, blob

TENSORS = Tensors(count=17, elements={"F16": 164_032}, bytes=328_064)
INDEX = "model.safetensors.index.json"
SHARDS = {
    f"model-0000{number}-of-00003.safetensors": digest
    for number, digest in (
        (1, "a0d7ae238fe91b176b9000a7e75dbb59072f2d0bb726082ddc804d3d88cc93b3"),
        (2, "39d458870efdefa56926866d9b6a2ad52dcde019cdf5eb9195d64934b03233f5"),
        (3, "ff89a6b67c8564aaaee466c44b718989a665817df1b54edf3ea537ef8c4f585a"),
    )
}
DIGESTS = SHARDS | {
    "config.json": "ebf74fcbaec97875de956c1659b2a664327fe938d4f0ad561aac295cdf8758ef",
    "generation_config.json": "c083976164c1b2dd91d7051d9a295d00ad5bd8300e3bc89407b0021e6df8fa79",
    INDEX: "29409bd2317f6060eb1019302c301249f94b9f1a204f32c931a7359995f036e3",
    "tokenizer.json": "98085ce1ed36c934d54638982eea34335d80b3cceb7915601b08bbb271e3b651",
    "LICENSE": "f94cf40a2016f4f59a0ab90242a5ab8ea0a384d22c56a8c6b0f44ac5fe96059a",
    "README.md": "619c2e66c24893ef0c909108e786b7b20efe213ee96bc226a69c2d0dedcf64dc",
}
SIZES = {
    "model-00001-of-00003.safetensors": 123_648,
    "model-00002-of-00003.safetensors": 123_632,
    "model-00003-of-00003.safetensors": 82_568,
    "config.json": 250,
    "generation_config.json": 19,
    INDEX: 1_348,
    "tokenizer.json": 6_505,
    "LICENSE": 51,
    "README.md": 59,
}
KINDS: dict[str, Kind] = {
    **dict.fromkeys(SHARDS, "weight"),
    "config.json": "config",
    "generation_config.json": "config",
    INDEX: "config",
    "tokenizer.json": "tokenizer",
    "LICENSE": "licence",
    "README.md": "doc",
}


class Layout(Blobs):
    """The blobs of the layout."""

    async def read(self, digest: Digest, offset: int, count: int) -> bytes:
        self.asked.append((digest, offset, count))
        return blob(digest)[offset : offset + count]


def packed_by(tool: str) -> tuple[Description, Layout]:
    index = json.loads((LAYOUT / "index.json").read_text())
    (found,) = (
        each
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == tool
    )
    blobs = Layout()
    description = asyncio.run(describe(blob(found["digest"]), found["mediaType"], blobs))
    return description, blobs


def raw(path: str, media_type: str) -> File:
    digest = Digest.parse(f"sha256:{DIGESTS[path]}")
    return File(
        path=path,
        size=SIZES[path],
        digest=digest,
        media_type=media_type,
        kind=KINDS[path],
        layer=digest,
        offset=0,
    )


def inside(path: str, layer: str, media_type: str, offset: int | None) -> File:
    return File(
        path=path,
        size=SIZES[path],
        digest=None,
        media_type=media_type,
        kind=KINDS[path],
        layer=Digest.parse(f"sha256:{layer}"),
        offset=offset,
    )


def test_modelpack_as_modctl_writes_it() -> None:
    description, _ = packed_by("modelpack")

    def part(path: str, part: str) -> File:
        return raw(path, f"application/vnd.cncf.model.{part}.v1.raw")

    assert description == Description(
        flavour="modelpack",
        name="tiny",
        format="safetensors",
        architecture="transformer",
        family="llama",
        parameters=164_032,
        parameters_text="0.1",
        precision="float16",
        context_length=128,
        files=(
            part("config.json", "weight.config"),
            part("generation_config.json", "weight.config"),
            part(INDEX, "weight.config"),
            part("tokenizer.json", "weight.config"),
            *(part(path, "weight") for path in SHARDS),
            part("LICENSE", "doc"),
            part("README.md", "doc"),
        ),
        tensors=TENSORS,
    )


def test_kitops_as_kit_writes_it() -> None:
    description, _ = packed_by("kitops")
    model = "df21db579690a09024cad6cee0dfee4c9b9c593b26dced8dab7fc3cb19a26bc6"
    part = "3635e095ce107f610e2e76aac909fdd73343cbcd13a78378041b3d82ef18d553"
    docs = "584595188cf2f8c7135a887d3bdd659090bc75309cafd364a0707fb7844ce9dd"
    offsets = {
        "LICENSE": 512,
        "config.json": 1_536,
        "generation_config.json": 2_560,
        "model-00001-of-00003.safetensors": 3_584,
        "model-00002-of-00003.safetensors": 128_000,
        "model-00003-of-00003.safetensors": 252_416,
        INDEX: 335_872,
    }
    kit = "application/vnd.kitops.modelkit"

    assert description == Description(
        flavour="kitops",
        name="tiny-llama",
        format="safetensors",
        architecture="LlamaForCausalLM",
        family="llama",
        parameters=164_032,
        parameters_text="164.03K",
        precision="float16",
        context_length=128,
        licences=("Apache-2.0",),
        files=(
            *(inside(path, model, f"{kit}.model.v1.tar", at) for path, at in offsets.items()),
            inside("tokenizer.json", part, f"{kit}.modelpart.v1.tar", 512),
            inside("README.md", docs, f"{kit}.docs.v1.tar", 512),
        ),
        tensors=TENSORS,
    )


def test_a_file_inside_a_plain_tar_is_a_range_of_its_layer() -> None:
    description, _ = packed_by("kitops")

    for file in description.files:
        assert file.offset is not None
        body = blob(file.layer)[file.offset : file.offset + file.size]
        assert body == blob(DIGESTS[file.path])


def test_docker_as_model_runner_writes_it() -> None:
    description, blobs = packed_by("docker-model")
    weights = Digest.parse(
        "sha256:70158c4245354e7a8c143e7f9d72086550bce24fa9c27f0b6b90f383135ba85e"
    )

    assert description == Description(
        flavour="docker",
        name="tiny-llama",
        format="gguf",
        architecture="llama",
        family="llama",
        parameters=164_032,
        parameters_text="164.03K",
        precision="float16",
        context_length=128,
        licences=("apache-2.0",),
        files=(
            File(
                path="tiny.gguf",
                size=335_808,
                digest=weights,
                media_type="application/vnd.docker.ai.gguf.v3",
                kind="weight",
                layer=weights,
                offset=0,
            ),
            raw("LICENSE", "application/vnd.docker.ai.license"),
        ),
        tensors=TENSORS,
    )
    assert blobs.bytes_read == 670 + 64 * 1024


def test_files_as_oras_pushes_them() -> None:
    description, _ = packed_by("oras")

    assert description == Description(
        flavour="oras",
        format="safetensors",
        architecture="LlamaForCausalLM",
        family="llama",
        parameters=164_032,
        parameters_text="164.03K",
        precision="float16",
        context_length=128,
        files=tuple(
            raw(path, "application/vnd.oci.image.layer.v1.tar")
            for path in [
                *SHARDS,
                "config.json",
                "generation_config.json",
                INDEX,
                "tokenizer.json",
                "README.md",
            ]
        ),
        tensors=TENSORS,
    )


def test_a_modelcar_as_crane_appends_it() -> None:
    description, _ = packed_by("modelcar")
    layer = "868254753fbd8de44f8046f5d29250d05a1dcc9b69b67d3a9d9c950a7e080667"

    assert description == Description(
        flavour="modelcar",
        format="safetensors",
        architecture="LlamaForCausalLM",
        family="llama",
        parameters=164_032,
        parameters_text="164.03K",
        precision="float16",
        context_length=128,
        files=tuple(
            inside(path, layer, "application/vnd.oci.image.layer.v1.tar+gzip", None)
            for path in [
                "LICENSE",
                "README.md",
                "config.json",
                "generation_config.json",
                *SHARDS,
                INDEX,
                "tokenizer.json",
            ]
        ),
        tensors=TENSORS,
    )


def test_a_description_is_plain_json() -> None:
    document = packed_by("kitops")[0].to_json()

    assert json.loads(json.dumps(document)) == document
    assert document["tensors"] == {"count": 17, "elements": {"F16": 164_032}, "bytes": 328_064}
    assert document["files"][1] == {
        "path": "config.json",
        "size": 250,
        "digest": None,
        "media_type": "application/vnd.kitops.modelkit.model.v1.tar",
        "kind": "config",
        "layer": "sha256:df21db579690a09024cad6cee0dfee4c9b9c593b26dced8dab7fc3cb19a26bc6",
        "offset": 1_536,
    }

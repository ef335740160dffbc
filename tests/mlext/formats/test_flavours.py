"""Layouts of which there is no fixture, built as their specifications and tools have it: Ollama,
ModelPack under its first name, rarer forms of the others, images, indexes, and what is no model.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from typing import Any

import pytest

from mlext.formats import Description, Limits, Tensors, describe
from ociserver.content import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX
from ociserver.errors import ManifestInvalid
from tests.mlext.formats.packing import Blobs, files, gguf, manifest, safetensors, tar, titled


def cnai(blobs: Blobs) -> dict[str, Any]:
    config = {
        "descriptor": {"name": "tiny", "family": "llama", "licenses": ["Apache-2.0", "MIT"]},
        "config": {
            "architecture": "transformer",
            "format": "safetensors",
            "paramSize": "8B",
            "precision": "bf16",
            "quantization": "awq",
        },
        "modelfs": {"type": "layers", "diffIds": []},
    }
    weights = tar({"a/model.safetensors": safetensors(b"damaged")})
    return manifest(
        blobs.add(json.dumps(config).encode(), "application/vnd.cnai.model.config.v1+json"),
        [
            blobs.add(
                weights,
                "application/vnd.cnai.model.weight.v1.tar",
                annotations={"org.cnai.model.filepath": "a/model.safetensors"},
            ),
            blobs.add(
                gzip.compress(tar({"LICENSE": b"MIT", "notes": b"n"})),
                "application/vnd.cnai.model.doc.v1.tar+gzip",
            ),
            blobs.add(
                b"import torch",
                "application/vnd.cnai.model.code.v1.raw",
                annotations={"org.cnai.model.filepath": "run.py"},
            ),
        ],
        artifactType="application/vnd.cnai.model.manifest.v1+json",
        annotations={"org.cnai.model.name": "not believed", "io.lading.base.digest": "sha256:1"},
    )


def test_the_older_twin_of_modelpack() -> None:
    description = Blobs.describe(blobs := Blobs(), cnai(blobs))

    assert description.flavour == "cnai"
    assert (description.name, description.family) == ("tiny", "llama")
    assert (description.architecture, description.format) == ("transformer", "safetensors")
    assert (description.parameters, description.parameters_text) == (8_000_000_000, "8B")
    assert (description.precision, description.quantization) == ("bfloat16", "awq")
    assert description.licences == ("Apache-2.0", "MIT")
    assert description.base_models == ("sha256:1",)
    assert [(file.path, file.kind, file.offset) for file in description.files] == [
        ("a/model.safetensors", "weight", 512),
        ("LICENSE", "licence", None),
        ("notes", "doc", None),
        ("run.py", "code", 0),
    ]
    assert description.tensors is None
    assert description.warnings == (
        "'a/model.safetensors' is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0).",
    )


def test_the_annotations_of_the_oldest_twin_stand_for_its_config() -> None:
    blobs = Blobs()
    document = manifest(
        blobs.add(b"{}", "application/vnd.oci.empty.v1+json"),
        [],
        artifactType="application/vnd.cnai.model.manifest.v1+json",
        annotations={
            "org.cnai.model.name": "tiny",
            "org.cnai.model.format": "gguf",
            "org.cnai.model.param.size": "2B",
            "org.cnai.model.precision": "int8",
        },
    )

    description = blobs.describe(document)

    assert (description.name, description.format) == ("tiny", "gguf")
    assert (description.parameters, description.precision) == (2_000_000_000, "int8")


def ollama(blobs: Blobs, weights: bytes, **config: Any) -> dict[str, Any]:
    """As Ollama's client pushes it: Docker's types, and keys of its own in the descriptors."""
    written = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "8.0B",
        "file_type": "Q4_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
        **config,
    }
    kind = "application/vnd.ollama.image"
    return manifest(
        blobs.add(json.dumps(written).encode(), "application/vnd.docker.container.image.v1+json"),
        [
            blobs.add(weights, f"{kind}.model", **{"from": "org/llama3:8b"}),
            blobs.add(gguf([], [("v.a", (64,), 0, 0)], data=256), f"{kind}.projector"),
            blobs.add(b"{{ .Prompt }}", f"{kind}.template"),
            blobs.add(b"MIT", f"{kind}.license"),
            blobs.add(b"Apache", f"{kind}.license"),
            blobs.add(b'{"stop":[]}', f"{kind}.params"),
        ],
        mediaType=DOCKER_MANIFEST,
    )


def test_ollama() -> None:
    blobs = Blobs()
    weights = gguf(
        [
            ("general.architecture", "str", "llama"),
            ("general.file_type", "u32", 2),
            ("llama.context_length", "u32", 8_192),
        ],
        [("token_embd.weight", (64, 10), 2, 0)],
        data=360,
    )

    description = blobs.describe(ollama(blobs, weights))

    assert description == Description(
        flavour="ollama",
        format="gguf",
        architecture="llama",
        family="llama",
        parameters=640,
        parameters_text="8.0B",
        quantization="Q4_0",
        context_length=8_192,
        base_models=("org/llama3:8b",),
        files=description.files,
        tensors=Tensors(count=1, elements={"Q4_0": 640}, bytes=360),
    )
    assert [(file.path, file.kind) for file in description.files] == [
        ("model", "weight"),
        ("projector", "weight"),
        ("template", "config"),
        ("license", "licence"),
        ("license-2", "licence"),
        ("params", "config"),
    ]


def test_ollama_with_a_blob_for_each_tensor() -> None:
    blobs = Blobs()
    kind = "application/vnd.ollama.image"
    layers = [
        blobs.add(
            safetensors({"t": {"dtype": "BF16", "shape": [n], "data_offsets": [0, 2 * n]}}, 2 * n),
            f"{kind}.tensor",
            name=f"model/layers/{n}/weight",
        )
        for n in (3, 4)
    ]
    config = blobs.add(
        b'{"model_format":"safetensors"}', "application/vnd.docker.container.image.v1+json"
    )
    document = manifest(
        config,
        [*layers, blobs.add(b'{"model_type":"llama"}', f"{kind}.json", name="config.json")],
        mediaType=DOCKER_MANIFEST,
    )

    description = blobs.describe(document)

    assert [file.path for file in description.files] == [
        "model/layers/3/weight",
        "model/layers/4/weight",
        "config.json",
    ]
    assert (description.parameters, description.family) == (7, "llama")
    assert (description.precision, description.warnings) == ("bfloat16", ())


def test_where_ollama_keeps_its_files_is_no_base_model() -> None:
    blobs = Blobs()
    document = ollama(blobs, b"not GGUF")
    document["layers"][0]["from"] = "/usr/share/ollama/.ollama/models/blobs/sha256-1"

    assert blobs.describe(document).base_models == ()


def test_docker_with_a_layer_per_file_and_without_names() -> None:
    blobs = Blobs()
    config = b'{"config":{"format":"safetensors","parameters":"7","context_size":4096}}'
    document = manifest(
        blobs.add(config, "application/vnd.docker.ai.model.config.v0.2+json"),
        [
            *(
                blobs.add(
                    safetensors(
                        {"t": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}, 4 * n
                    ),
                    "application/vnd.docker.ai.safetensors",
                )
                for n in (3, 4)
            ),
            blobs.add(b"{{ }}", "application/vnd.docker.ai.chat.template.jinja"),
            blobs.add(tar({"tokenizer.json": b"{}"}), "application/vnd.docker.ai.vllm.config.tar"),
            blobs.add(
                b"{}",
                "application/vnd.docker.ai.model.file",
                annotations={"org.cncf.model.filepath": "text_encoder/config.json"},
            ),
        ],
    )

    description = blobs.describe(document)

    assert [(file.path, file.kind) for file in description.files] == [
        ("model.safetensors", "weight"),
        ("model-2.safetensors", "weight"),
        ("template.jinja", "config"),
        ("tokenizer.json", "tokenizer"),
        ("text_encoder/config.json", "config"),
    ]
    assert (description.parameters, description.context_length) == (7, 4_096)
    assert description.warnings == ()


def test_a_kit_that_stands_on_another_names_its_base() -> None:
    blobs = Blobs()
    kitfile = {
        "package": {"name": "tuned", "license": "MIT"},
        "model": {"path": "registry.example.com/org/base:v1"},
        "docs": [{"path": "docs/README.md", "digest": blobs.add(b"# Card")["digest"]}],
    }
    document = manifest(
        blobs.add(json.dumps(kitfile).encode(), "application/vnd.kitops.modelkit.config.v1+json"),
        [blobs.add(b"# Card", "application/vnd.kitops.modelkit.docs.v1.raw")],
        artifactType="application/vnd.kitops.modelkit.manifest.v1+json",
    )

    description = blobs.describe(document)

    assert description.base_models == ("registry.example.com/org/base:v1",)
    assert [file.path for file in description.files] == ["docs/README.md"]


def test_a_kit_in_the_layout_of_modelpack_speaks_through_its_kitfile() -> None:
    blobs = Blobs()
    document = manifest(
        blobs.add(b"{}", "application/vnd.cncf.model.config.v1+json"),
        [],
        artifactType="application/vnd.cncf.model.manifest.v1+json",
        annotations={"ml.kitops.modelkit.kitfile": '{"package":{"name":"a","license":"MIT"}}'},
    )

    description = blobs.describe(document)

    assert (description.flavour, description.name) == ("modelpack", "a")
    assert description.licences == ("MIT",)


def test_an_adapter_names_its_base_model() -> None:
    blobs = Blobs()
    document = files(blobs, {"adapter_config.json": b'{"base_model_name_or_path":"org/base"}'})

    assert blobs.describe(document).base_models == ("org/base",)


def test_a_folder_that_oras_packed_is_listed() -> None:
    blobs = Blobs()
    document = files(blobs, {"a.txt": b"a"})
    document["layers"].append(
        blobs.add(
            gzip.compress(tar({"m/config.json": b'{"model_type":"bert"}'})),
            "application/vnd.oci.image.layer.v1.tar+gzip",
            annotations=titled("m") | {"io.deis.oras.content.unpack": "true"},
        )
    )

    description = blobs.describe(document)

    assert [file.path for file in description.files] == ["a.txt", "m/config.json"]
    assert description.family == "bert"


def image(blobs: Blobs, *layers: bytes) -> dict[str, Any]:
    return manifest(
        blobs.add(b"{}", "application/vnd.oci.image.config.v1+json"),
        [blobs.add(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
    )


def test_an_ordinary_image_is_no_model() -> None:
    blobs = Blobs()

    description = blobs.describe(image(blobs, tar({"etc/passwd": b"", "modelsx/a": b""})))

    assert description == Description(flavour="unknown")


def test_upper_layers_of_a_modelcar_decide() -> None:
    blobs = Blobs()
    lower = tar({f"models/{name}": b"old" for name in ("a", "b", "d/c", "d/e")})
    upper = tar(
        {
            "models/a": b"newer",
            "models/.wh.b": b"",
            "models/d/.wh..wh..opq": b"",
            "models/d/f": b"f",
        }
    )

    description = blobs.describe(image(blobs, lower, upper))

    assert [(file.path, file.size) for file in description.files] == [("a", 5), ("d/f", 1)]


def test_a_link_in_a_modelcar_is_left_out_and_said() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("models/latest")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    blobs = Blobs()

    description = blobs.describe(image(blobs, packed.getvalue(), tar({"models/a": b"a"})))

    assert [file.path for file in description.files] == ["a"]
    assert description.warnings == ("'latest' is a link in its layer and left out.",)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_lists_its_manifests(media_type: str) -> None:
    blobs = Blobs()
    child = blobs.add(b"{}", "application/vnd.oci.image.manifest.v1+json")

    description = blobs.describe(
        {"schemaVersion": 2, "mediaType": media_type, "manifests": [child]}
    )

    assert description.children == (child["digest"],)
    assert description.warnings == (
        "This is an index of 1: each of its manifests is described apart.",
    )
    assert blobs.asked == []


def test_anything_else_is_unknown_and_quiet() -> None:
    blobs = Blobs()
    document = manifest(
        blobs.add(b"{}", "application/vnd.oci.empty.v1+json"),
        [blobs.add(b"signature", "application/vnd.dev.sigstore.bundle.v0.3+json")],
    )

    assert blobs.describe(document) == Description(flavour="unknown")
    assert blobs.asked == []


def test_a_body_that_is_no_manifest_is_refused() -> None:
    with pytest.raises(ManifestInvalid):
        asyncio.run(describe(b"[]", OCI_INDEX, Blobs(), Limits()))

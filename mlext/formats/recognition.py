"""Whose layout a manifest is, and what each of its layers is: read from the manifest alone. Pure.

The rule is artifactType, then config.mediaType, then the layers' media types, then annotations.
Types: ModelPack (model-spec docs/spec.md, specs-go), KitOps (pkg/artifact), Docker Model Runner
(pkg/distribution/types), Ollama (server/layer.go), ORAS, and the image spec.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mlext.formats.description import Flavour, Kind
from mlext.formats.documents import items, section
from mlext.formats.unpacking import Compression
from mlext.listing import NAMES, TITLE
from ociserver.refs import Digest

# ModelPack was called CNAI until 0.0.6: the same types and keys under another name.
_PREFIXES: dict[Flavour, str] = {
    "modelpack": "application/vnd.cncf.model.",
    "cnai": "application/vnd.cnai.model.",
    "kitops": "application/vnd.kitops.modelkit.",
    "docker": "application/vnd.docker.ai.",
    "ollama": "application/vnd.ollama.image.",
}
_IMAGE_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_IMAGE_LAYERS = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)

# Set by ORAS on the tar of a folder that was pushed.
_UNPACK = "io.deis.oras.content.unpack"

# What stands between the prefix and the packaging, as kinds of ours.
_PARTS: dict[str, dict[str, Kind]] = {
    _PREFIXES["modelpack"]: {
        "weight": "weight",
        "weight.config": "config",
        "doc": "doc",
        "code": "code",
        "dataset": "dataset",
    },
    # Other parts of a kit hold files of every kind.
    _PREFIXES["kitops"]: {"dataset": "dataset", "code": "code", "docs": "doc"},
    _PREFIXES["docker"]: {
        "gguf": "weight",
        "safetensors": "weight",
        "dduf": "weight",
        "mmproj": "weight",
        "chat.template.jinja": "config",
        "license": "licence",
    },
    _PREFIXES["ollama"]: {
        "model": "weight",
        "adapter": "weight",
        "projector": "weight",
        "embed": "weight",
        "tensor": "weight",
        "draft": "weight",
        "template": "config",
        "prompt": "config",
        "system": "config",
        "params": "config",
        "messages": "config",
        "json": "config",
        "license": "licence",
    },
}
_PARTS[_PREFIXES["cnai"]] = _PARTS[_PREFIXES["modelpack"]]

# `weight.config.v1.tar+gzip`: part, version, packaging, compression; each but the first optional.
# Docker's image layers write `tar.gzip`.
_TYPE = re.compile(
    r"(?P<part>[a-z0-9.-]+?)(?:\.v[0-9]+)?(?:\.(?P<packaging>raw|tar|gguf|safetensors))?"
    r"(?:[.+](?P<compression>gzip|zstd))?"
)
_COMPRESSIONS: dict[str, Compression] = {"gzip": "gzip", "zstd": "zstd"}
# Beside the model: what these hold are no parameters of it.
_BESIDE = frozenset({"mmproj", "adapter", "projector", "embed", "draft"})
# What the file of a layer that names none is called: as Docker's tool unpacks it, else its part.
_NAMELESS = {
    "gguf": "model.gguf",
    "safetensors": "model.safetensors",
    "dduf": "model.dduf",
    "mmproj": "model.mmproj",
    "chat.template.jinja": "template.jinja",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. `part` is what its media type calls it, `path` what the manifest calls its file.

    `is_tar` says that it packs files with paths of their own. `descriptor` is all that the manifest
    says of it, with the keys that only one tool writes.
    """

    digest: Digest
    size: int
    media_type: str
    descriptor: dict[str, Any]
    part: str
    kind: Kind | None
    path: str | None
    is_tar: bool
    compression: Compression | None

    @property
    def called(self) -> str:
        """What its file is called where nothing names it."""
        return _NAMELESS.get(self.part, self.part)

    @property
    def beside(self) -> bool:
        """Whether weights in it are no part of the model itself."""
        return self.part in _BESIDE


def flavour_of(document: dict[str, Any]) -> Flavour:
    """Return whose layout a manifest is; an ordinary image is a "modelcar" until it is opened."""
    config_type = _type_of(section(document, "config"))
    layers = items(document, "layers")
    types = [document.get("artifactType"), config_type, *map(_type_of, layers)]
    for media_type in types:
        for flavour, prefix in _PREFIXES.items():
            if isinstance(media_type, str) and media_type.startswith(prefix):
                return flavour
    if any(TITLE in annotations_of(layer) for layer in layers):
        return "oras"
    if config_type in _IMAGE_CONFIGS and any(
        _type_of(layer).startswith(_IMAGE_LAYERS) for layer in layers
    ):
        return "modelcar"
    return "unknown"


def layers_of(document: dict[str, Any], flavour: Flavour) -> list[Layer]:
    """Return the layers that may hold files of the model, as the manifest lists them."""
    return [_layer(each, flavour) for each in items(document, "layers")]


def annotations_of(document: dict[str, Any]) -> dict[str, str]:
    """Return the annotations that are texts."""
    found = section(document, "annotations")
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _type_of(descriptor: dict[str, Any]) -> str:
    media_type = descriptor.get("mediaType")
    return media_type if isinstance(media_type, str) else ""


def _layer(descriptor: dict[str, Any], flavour: Flavour) -> Layer:
    media_type, annotations = _type_of(descriptor), annotations_of(descriptor)
    prefixes = [*_PREFIXES.values(), *_IMAGE_LAYERS]
    prefix = next((each for each in prefixes if media_type.startswith(each)), "")
    found = _TYPE.fullmatch(media_type.removeprefix(prefix))
    part, packaging = (found["part"], found["packaging"]) if found else (media_type, None)
    compression = _COMPRESSIONS.get(found["compression"] or "") if found else None
    is_tar = packaging == "tar" or part == "tar"
    if flavour == "oras":
        # Files of any name go as image layers there; only a folder is a tar.
        is_tar = is_tar and annotations.get(_UNPACK) == "true"
    if flavour == "oras" and not is_tar:
        compression = None
    # A layer keeps its meaning in another tool's manifest: Docker writes both.
    kind = _PARTS.get(prefix, {}).get(part)
    return Layer(
        digest=Digest(descriptor["digest"]),
        size=descriptor["size"],
        media_type=media_type,
        descriptor=descriptor,
        part=part,
        kind=kind,
        path=_path(descriptor, annotations, flavour),
        is_tar=is_tar,
        compression=compression,
    )


def _path(descriptor: dict[str, Any], annotations: dict[str, str], flavour: Flavour) -> str | None:
    name = descriptor.get("name")
    if flavour == "ollama":
        return name if isinstance(name, str) else None
    return next((annotations[key] for key in NAMES if annotations.get(key)), None)

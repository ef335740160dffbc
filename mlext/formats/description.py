"""What a description says, and how much work one may cost. Values only.

A description is a view: it is made anew from the stored manifest and the headers of its files, so
it may gain fields, and nothing that is signed or hashed may rest on it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ociserver.refs import Digest

Flavour = Literal["modelpack", "cnai", "kitops", "docker", "ollama", "oras", "modelcar", "unknown"]
Kind = Literal["weight", "config", "doc", "code", "dataset", "licence", "tokenizer", "other"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one description may read, unpack and keep. What is over a limit is a warning, never
    an error.

    Of all files together: `read_bytes` come from the blob store, `unpacked_bytes` out of gzip and
    zstd, and `parsed_bytes` are headers and documents, which cost the most time; `entries` are
    members of tar layers, kept or not, and `files` those that are kept; `opened` are weight files,
    documents and tar layers that are looked into.

    Of one weight file: `header_bytes` and `tensors`. safetensors itself allows 100 MB, real headers
    are below 10 MiB. Of one JSON document: `document_bytes`.
    """

    read_bytes: int = 512 * MIB
    unpacked_bytes: int = 256 * MIB
    parsed_bytes: int = 64 * MIB
    header_bytes: int = 16 * MIB
    document_bytes: int = MIB
    tensors: int = 50_000
    entries: int = 100_000
    files: int = 10_000
    opened: int = 1_000
    warnings: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of the model. `path` is relative, below no `..`; a modelcar's is below `/models`.

    `size` is in bytes, as the manifest or the tar layer declares it. `digest` is of the file's own
    bytes: None inside a tar or a compressed layer, where nobody hashed them. `layer` is the blob
    that holds them and `offset` the byte in it where they start, None where the blob is
    compressed: then no range of it is the file. `media_type` is the layer's.
    """

    path: str
    size: int
    digest: Digest | None
    media_type: str
    kind: Kind
    layer: Digest
    offset: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """What the headers of the weights add up to: tensors, elements by dtype, bytes of all data.

    Dtypes are named as the file's format names them (`BF16`, `Q4_K`). A `bytes` is None where the
    size of a dtype is not known.
    """

    count: int
    elements: dict[str, int]
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One model as its stored manifest and headers show it; None is what nothing says.

    `parameters` is a count, `parameters_text` the packer's words for it (`8B`), `context_length` in
    tokens. `precision` is in the words of the ModelPack specification (`bfloat16`, `float8_e4m3`),
    `quantization` the packer's (`Q4_K_M`, `gptq`). `base_models` are names, URLs or digests.
    `children` are the manifests of an index, which is no model itself. `warnings` are sentences.
    """

    flavour: Flavour
    name: str | None = None
    format: str | None = None
    architecture: str | None = None
    family: str | None = None
    parameters: int | None = None
    parameters_text: str | None = None
    precision: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    licences: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    tensors: Tensors | None = None
    children: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it: plain dicts, lists, strings, whole numbers and None."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

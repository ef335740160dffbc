"""What a packer says of a model: in the config document of each layout, in annotations, and in the
`config.json` that Hugging Face's tools keep beside the weights. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlext.formats.claims import Claims, numbers, precision_of
from mlext.formats.description import Flavour
from mlext.formats.documents import count, items, loaded, section, text, texts
from mlext.formats.recognition import Layer, annotations_of

_KITFILE = "ml.kitops.modelkit.kitfile"
_BASE = "io.lading.base.digest"
_LICENCES = "org.opencontainers.image.licenses"

# Files of Hugging Face's tools that say something of the model (transformers, PEFT).
MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


def from_config(flavour: Flavour, config: dict[str, Any], layers: Iterable[Layer]) -> Claims:
    """Return what the config document of this layout says."""
    if flavour in {"modelpack", "cnai"}:
        return _modelpack(config)
    if flavour == "kitops":
        return from_kitfile(config, layers)
    if flavour == "docker":
        return _docker(config)
    if flavour == "ollama":
        return _ollama(config, layers)
    return Claims()


def from_annotations(document: dict[str, Any]) -> Claims:
    """Return what the manifest's own annotations say: ours, the image spec's, and those of CNAI
    before 0.0.5, which had no config document.
    """
    annotations = annotations_of(document)
    keys = {
        "name": "name",
        "format": "format",
        "architecture": "architecture",
        "family": "family",
        "parameters_text": "param.size",
        "precision": "precision",
        "quantization": "quantization",
    }
    found = {field: text(annotations, f"org.cnai.model.{key}") for field, key in keys.items()}
    return Claims(
        **found,  # type: ignore[arg-type]  # each of these fields is a text or None
        licences=texts(annotations, _LICENCES),
        base_models=texts(annotations, _BASE),
    )


def kitfile_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the Kitfile among the annotations, where kits in ModelPack's layout carry it
    (kitops#1000); {} where there is none. Raises Unreadable.
    """
    return loaded(annotations_of(document).get(_KITFILE, "{}").encode())


def from_file(name: str, document: dict[str, Any]) -> Claims:
    """Return what `config.json` or `adapter_config.json` says."""
    if name == ADAPTER_CONFIG:
        return Claims(base_models=texts(document, "base_model_name_or_path"))
    dtype = text(document, "torch_dtype") or text(document, "dtype")
    return Claims(
        architecture=next(iter(texts(document, "architectures")), None),
        family=text(document, "model_type"),
        precision=precision_of(dtype.removeprefix("torch.")) if dtype else None,
        quantization=text(section(document, "quantization_config"), "quant_method"),
        context_length=count(document, "max_position_embeddings"),
    )


def kit_paths(kitfile: dict[str, Any]) -> dict[str, str]:
    """Return the path that a Kitfile gives each layer, by its digest: a raw layer has no other."""
    model = section(kitfile, "model")
    entries = [model, *items(model, "parts")]
    for part in ("datasets", "code", "docs", "prompts"):
        entries += items(kitfile, part)
    return {
        entry["digest"]: entry["path"]
        for entry in entries
        if isinstance(entry.get("digest"), str) and isinstance(entry.get("path"), str)
    }


def from_kitfile(kitfile: dict[str, Any], layers: Iterable[Layer]) -> Claims:
    """Return what a Kitfile says (KitOps, "Kitfile format"). `model.path` is a folder, or another
    kit that this one stands on: then there is no layer with a model.
    """
    package, model = section(kitfile, "package"), section(kitfile, "model")
    parameters = section(model, "parameters")
    path = text(model, "path")
    stands_on = (
        path if path and not any(layer.part in {"model", "weight"} for layer in layers) else None
    )
    precision, quantization = numbers(text(parameters, "precision"))
    return Claims(
        name=text(model, "name") or text(package, "name"),
        precision=precision,
        quantization=text(parameters, "quantization") or quantization,
        licences=texts(package, "license") + texts(model, "license"),
        base_models=(stands_on,) if stands_on and ":" in stands_on else (),
    )


def _modelpack(document: dict[str, Any]) -> Claims:
    descriptor, config = section(document, "descriptor"), section(document, "config")
    precision = text(config, "precision")
    return Claims(
        name=text(descriptor, "name"),
        format=text(config, "format"),
        architecture=text(config, "architecture"),
        family=text(descriptor, "family"),
        parameters_text=text(config, "paramSize"),
        precision=(precision_of(precision) or precision) if precision else None,
        quantization=text(config, "quantization"),
        licences=texts(descriptor, "licenses"),
    )


def _docker(document: dict[str, Any]) -> Claims:
    config = section(document, "config")
    gguf = section(config, "gguf")
    precision, quantization = numbers(text(config, "quantization"))
    return Claims(
        name=text(gguf, "general.name"),
        format=text(config, "format"),
        architecture=text(config, "architecture"),
        parameters_text=text(config, "parameters"),
        precision=precision,
        quantization=quantization,
        context_length=count(config, "context_size"),
        licences=texts(gguf, "general.license"),
    )


def _ollama(document: dict[str, Any], layers: Iterable[Layer]) -> Claims:
    """Return what Ollama's config says; its `architecture` is a processor's, as in any image."""
    precision, quantization = numbers(text(document, "file_type"))
    came_from = [text(layer.descriptor, "from") for layer in layers if layer.part == "model"]
    return Claims(
        name=text(document, "base_name"),
        format=text(document, "model_format"),
        family=text(document, "model_family"),
        parameters_text=text(document, "model_type"),
        precision=precision,
        quantization=quantization,
        context_length=count(document, "context_length") or None,
        # A path on the maker's disk tells nothing; the name of a model is where this began.
        base_models=tuple(
            base
            for base in came_from
            if base
            and not base.startswith(("/", "\\", "."))
            and "sha256-" not in base
            and ":\\" not in base
        ),
    )

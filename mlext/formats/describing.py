"""From a stored manifest to one description, whoever packed it: recognise the layout, list the
files, open what says something of the model, and let the sources speak in order of trust.

What cannot be read is left out and said in a warning. Only a blob store that cannot answer ends a
description, for then the same manifest would be described otherwise a minute later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from mlext.formats.claims import Claims, believed, parameters_of, size_of
from mlext.formats.declarations import (
    from_annotations,
    from_config,
    from_kitfile,
    kit_paths,
    kitfile_of,
)
from mlext.formats.description import Description, File, Flavour, Limits
from mlext.formats.documents import loaded, section
from mlext.formats.paths import format_of
from mlext.formats.reading import BlobRange, Budget
from mlext.formats.recognition import flavour_of, layers_of
from mlext.formats.survey import Survey
from mlext.formats.weights import Weights, added_up
from ociserver.content import INDEXES, parse_manifest
from ociserver.refs import Digest

_DEFAULTS = Limits()
# Others have none, or an image's, which says nothing of a model.
_WITH_CONFIG = frozenset({"modelpack", "cnai", "kitops", "docker", "ollama"})


async def describe(
    body: bytes, media_type: str, blobs: BlobRange, limits: Limits = _DEFAULTS
) -> Description:
    """Return what the manifest says of a model, with what the headers of its files say.

    `media_type` is what it was pushed as. Weights are never read, but where a layer is compressed:
    that is unpacked as far as `limits` allow. Raises ManifestInvalid where the body is no manifest,
    and Unavailable where the blob store cannot answer now.
    """
    manifest = parse_manifest(body, media_type)
    if manifest.media_type in INDEXES:
        many = len(manifest.manifests)
        return Description(
            flavour="unknown",
            children=manifest.manifests,
            warnings=(f"This is an index of {many}: each of its manifests is described apart.",),
        )
    document = loaded(body)
    return await _described(document, flavour_of(document), Survey(blobs, Budget(limits)))


async def _described(document: dict[str, Any], flavour: Flavour, survey: Survey) -> Description:
    layers = layers_of(document, flavour)
    config: dict[str, Any] = {}
    descriptor = section(document, "config")
    if flavour in _WITH_CONFIG and descriptor:
        digest, size = Digest(descriptor["digest"]), descriptor["size"]
        config = await survey.document(digest, size, "The config")
    kitfile: dict[str, Any] = {}
    async with survey.tolerated("The Kitfile among the annotations"):
        kitfile = kitfile_of(document)
    if flavour == "modelcar":
        await survey.image(layers)
        flavour = flavour if survey.files else "unknown"
    elif flavour == "oras":
        # A layer without a title is no file there.
        await survey.layers([layer for layer in layers if layer.path is not None], {})
    elif flavour != "unknown":
        await survey.layers(layers, kit_paths(config if flavour == "kitops" else kitfile))
    claims = (
        from_config(flavour, config, layers),
        from_kitfile(kitfile, layers),
        from_annotations(document),
        *survey.header_claims,
        *survey.file_claims,
    )
    return _concluded(flavour, believed(claims), survey)


def _concluded(flavour: Flavour, best: Claims, survey: Survey) -> Description:
    files = tuple(survey.files.values())
    weights = added_up(survey.shards)
    _warn_of(weights, survey)
    # A count is surer than what a packer was told, where nothing is missing from it.
    counted = weights.parameters if weights and not survey.incomplete else None
    precision = best.precision
    if weights and precision is None and best.quantization is None:
        precision = weights.precision
    return Description(
        flavour=flavour,
        name=best.name,
        format=best.format or _format(files),
        architecture=best.architecture,
        family=best.family,
        parameters=parameters_of(best.parameters_text) if counted is None else counted,
        parameters_text=best.parameters_text or (size_of(counted) if counted else None),
        precision=precision,
        quantization=best.quantization,
        context_length=best.context_length,
        licences=best.licences,
        base_models=best.base_models,
        files=files,
        tensors=weights.tensors if weights else None,
        warnings=tuple(survey.warnings),
    )


def _warn_of(weights: Weights | None, survey: Survey) -> None:
    if weights and weights.left_out:
        survey.warn(
            f"Not counted are {weights.left_out} sets of weights: each has a larger one in its "
            "folder."
        )
    if weights and not weights.whole:
        survey.warn("Some shards of the weights are not there, or could not be read.")


def _format(files: Iterable[File]) -> str | None:
    """Return the format of most weight files, by their names."""
    formats = Counter(format_of(file.path) for file in files if file.kind == "weight")
    formats.pop(None, None)
    return next((name for name, _ in formats.most_common(1)), None)

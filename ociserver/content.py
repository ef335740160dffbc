"""Manifests as documents: what one names and what a referrers list says of it. The bytes are kept
elsewhere and served as they came; what is parsed here is a view that is never encoded back.
Pure: no I/O, no clock.

Image spec: manifest.md, image-index.md, descriptor.md. Docker: schema 2 and manifest lists.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from ociserver.errors import DigestInvalid, ManifestInvalid
from ociserver.refs import Digest, shortened

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
# More make no size of a blob, and Python refuses to read them as a whole number at all.
_DIGITS = 1_000

# Layers that a registry must not require: their licence keeps them at the `urls` they carry
# (image spec, layer.md, "Non-Distributable Layers").
_FOREIGN = re.compile(
    r"application/vnd\.oci\.image\.layer\.nondistributable\.v1\..*"
    r"|application/vnd\.docker\.image\.rootfs\.foreign\.diff\..*"
)
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a manifest says: its type and every digest it names."""

    media_type: str
    artifact_type: str | None
    subject: Digest | None
    blobs: tuple[Digest, ...]
    manifests: tuple[Digest, ...]
    annotations: dict[str, str]

    def descriptor(self, digest: Digest, size: int) -> bytes:
        """Return what a referrers list says of this manifest (spec, "Listing Referrers")."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": digest,
            "size": size,
        }
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = self.annotations
        return _encoded(document)


def parse_manifest(body: bytes, content_type: str | None) -> Manifest:
    """Return a view of the manifest; `content_type` is the header as sent, parameters ignored.

    Raises ManifestInvalid. Unknown fields and unknown media types are accepted as they are.
    """
    document = _document(body)
    media_type = _media_type(document, content_type)
    _refuse_ambiguity(document, media_type)
    subject = _optional(document, "subject")
    config = _optional(document, "config")
    layers = [
        _descriptor(each, f"{field}[{index}]")
        for field in ("layers", "blobs")
        for index, each in enumerate(_list(document, field))
    ]
    children = [
        _descriptor(each, f"manifests[{index}]")
        for index, each in enumerate(_list(document, "manifests"))
    ]
    artifact_type = _artifact_type(document, media_type, config)
    annotations = _annotations(document)
    _encoded([artifact_type, annotations])
    required = [each for each in ([config] if config else []) + layers if not _is_foreign(each)]
    return Manifest(
        media_type=media_type,
        artifact_type=artifact_type,
        subject=subject["digest"] if subject else None,
        blobs=tuple(dict.fromkeys(each["digest"] for each in required)),
        manifests=tuple(dict.fromkeys(each["digest"] for each in children)),
        annotations=annotations,
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            body.decode("utf-8"), parse_constant=_not_json, parse_int=_whole_number
        )
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is not JSON in UTF-8: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is not a JSON object")
    return document


def _whole_number(digits: str) -> int | float:
    """Return the number. One that no field of ours can have is valid JSON all the same."""
    return int(digits) if len(digits) < _DIGITS else float(digits)


def _encoded(document: Any) -> bytes:
    # Not as ASCII: escapes would make a descriptor several times the size of its manifest.
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ManifestInvalid("the manifest has half a surrogate pair in a string") from error


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    header = (content_type or "").partition(";")[0].strip()
    inside = document.get("mediaType")
    if inside is not None and not isinstance(inside, str):
        raise ManifestInvalid("mediaType is not a string")
    if inside and header and inside != header:
        raise ManifestInvalid(
            f"Content-Type {shortened(header)!r} is not the manifest's mediaType "
            f"{shortened(inside)!r}"
        )
    media_type = header or inside or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ManifestInvalid(f"{shortened(media_type)!r} is not a media type (RFC 6838)")
    return media_type


def _refuse_ambiguity(document: dict[str, Any], media_type: str) -> None:
    # A document that reads as manifest and as index at once means different things to different
    # clients (CVE-2021-41190; image spec, manifest.md, `mediaType`).
    if media_type in MANIFESTS and "manifests" in document:
        raise ManifestInvalid("an image manifest must not have a field 'manifests'")
    if media_type in INDEXES and ("layers" in document or "config" in document):
        raise ManifestInvalid("an index must not have a field 'layers' or 'config'")
    if media_type in MANIFESTS | INDEXES and document.get("schemaVersion") != 2:  # noqa: PLR2004
        raise ManifestInvalid("schemaVersion is not 2")
    if media_type in MANIFESTS and document.get("config") is None:
        raise ManifestInvalid("an image manifest needs a field 'config'")


def _optional(document: dict[str, Any], field: str) -> dict[str, Any] | None:
    value = document.get(field)
    return None if value is None else _descriptor(value, field)


def _list(document: dict[str, Any], field: str) -> list[Any]:
    value = document.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ManifestInvalid(f"{field} is not a list")
    return value


def _descriptor(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{where} is not a descriptor")
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType", "")
    if not isinstance(digest, str):
        raise ManifestInvalid(f"{where}.digest is not a string")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestInvalid(f"{where}.size is not a number of bytes")
    if not isinstance(media_type, str):
        raise ManifestInvalid(f"{where}.mediaType is not a string")
    try:
        return {**value, "digest": Digest.parse(digest), "mediaType": media_type}
    except DigestInvalid as error:
        raise ManifestInvalid(f"{where}: {error.message}") from error


def _is_foreign(descriptor: dict[str, Any]) -> bool:
    return bool(descriptor.get("urls")) or bool(_FOREIGN.fullmatch(descriptor["mediaType"]))


def _artifact_type(
    document: dict[str, Any], media_type: str, config: dict[str, Any] | None
) -> str | None:
    declared = document.get("artifactType")
    if declared is not None and not isinstance(declared, str):
        raise ManifestInvalid("artifactType is not a string")
    if declared or media_type in INDEXES or config is None:
        return declared or None
    # Older cosign and every plain image: the config's type stands in (spec, "Listing Referrers").
    return str(config["mediaType"]) or None


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    annotations = document.get("annotations")
    if annotations is None:
        return {}
    if not isinstance(annotations, dict) or not all(
        isinstance(value, str) for value in annotations.values()
    ):
        raise ManifestInvalid("annotations is not a map of strings")
    return annotations

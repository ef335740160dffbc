"""What a stored manifest lists, and the names that packers give files there. Pure.

The registry took the manifest, so each descriptor in it has a digest and a size; everything else
may be anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ociserver.refs import Digest

TITLE = "org.opencontainers.image.title"
# Where packers write a file's name, the surest first: ModelPack, ModelPack by its former name, and
# ORAS and KitOps (`reference/ml-registry.md`).
NAMES = ("org.cncf.model.filepath", "org.cnai.model.filepath", TITLE)
# The registry takes a number of any length where it means nothing; Python reads no more than 4,300.
_DIGITS = 1_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A descriptor: the names that packers gave it, the surest first, and `size` in bytes."""

    names: tuple[str, ...]
    digest: Digest
    size: int


def listed(manifest: bytes, *fields: str) -> list[Listed]:
    """Return what stands in these lists of a manifest that the registry took."""
    document = json.loads(
        manifest, parse_int=lambda text: int(text) if len(text) < _DIGITS else float(text)
    )
    return [
        Listed(_names(each), Digest(each["digest"]), each["size"])
        for field in fields
        for each in document.get(field) or ()
    ]


def _names(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    given = descriptor.get("annotations")
    if not isinstance(given, dict):
        return ()
    return tuple(found for key in NAMES if isinstance(found := given.get(key), str) and found)

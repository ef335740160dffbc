"""Two versions of a model, and what differs between them. Pure.

Files are what the manifests list, by the names that packers give them there; a layer without a name
goes by its digest. Bytes are counted once for each digest: what a client that has the base need not
fetch for the target is shared, whatever it is called.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlext.listing import listed

# Of a version; the rest is which one it is, or has a part of its own.
_FIELDS = ("framework", "description", "run_id", "media_type", "artifact_type")
_SHOWN = ("version", "version_id", "artifact_digest", "created_at", "created_by")
_OF_RUN = ("dataset_version", "code_commit", "container_image", "started_at", "finished_at")


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact; `size` in bytes."""

    path: str
    digest: str
    size: int

    def shown(self) -> dict[str, object]:
        """Return it as the wire shows it."""
        return {"path": self.path, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: its body, its metrics as known last, its run, and its files, None where its
    manifest was deleted.
    """

    version: Mapping[str, Any]
    metrics: Mapping[str, float]
    run: Mapping[str, Any]
    files: Sequence[File] | None


def files_of(manifest: bytes) -> list[File]:
    """Return the files of a manifest that the registry took; of an index, the manifests it lists.

    The config is none: it describes them.
    """
    found: list[File] = []
    seen: set[str] = set()
    for each in listed(manifest, "layers", "blobs", "manifests"):
        path = next(iter(each.names), each.digest)
        # A name that two layers have tells them not apart.
        path = each.digest if path in seen else path
        seen.add(path)
        found.append(File(path, each.digest, each.size))
    return found


def compare(base: Side, target: Side) -> dict[str, Any]:
    """Return what differs, as the wire shows it."""
    return {
        "base": {key: base.version.get(key) for key in _SHOWN},
        "target": {key: target.version.get(key) for key in _SHOWN},
        "metadata": _unequal(base.version, target.version, _FIELDS),
        "run": {
            **_unequal(base.run, target.run, _OF_RUN),
            "hyperparams": _entries(
                base.run.get("hyperparams", {}), target.run.get("hyperparams", {})
            ),
        },
        "params": _entries(base.version["params"], target.version["params"]),
        "tags": _entries(base.version["tags"], target.version["tags"]),
        "metrics": _metrics(base.metrics, target.metrics),
        **_files(base.files, target.files),
    }


def _unequal(
    base: Mapping[str, Any], target: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
    return {
        key: {"base": base.get(key), "target": target.get(key)}
        for key in keys
        if base.get(key) != target.get(key)
    }


def _entries(base: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "added": {key: value for key, value in target.items() if key not in base},
        "removed": {key: value for key, value in base.items() if key not in target},
        # True is 1 to Python, and another value to who wrote it.
        "changed": {
            key: {"base": value, "target": target[key]}
            for key, value in base.items()
            if key in target and json.dumps(value) != json.dumps(target[key])
        },
    }


def _metrics(base: Mapping[str, float], target: Mapping[str, float]) -> dict[str, Any]:
    return {
        key: {"base": base.get(key), "target": target.get(key), "delta": _delta(key, base, target)}
        for key in sorted({*base, *target})
    }


def _delta(key: str, base: Mapping[str, float], target: Mapping[str, float]) -> float | None:
    if key not in base or key not in target:
        return None
    delta = target[key] - base[key]
    return delta if math.isfinite(delta) else None


def _files(base: Sequence[File] | None, target: Sequence[File] | None) -> dict[str, Any]:
    if base is None or target is None:
        return {"files": None, "bytes_shared": None, "bytes_base": None, "bytes_target": None}
    old, new = ({each.path: each for each in side} for side in (base, target))
    both = [(each, new[each.path]) for each in base if each.path in new]
    sizes = [{each.digest: each.size for each in side} for side in (base, target)]
    return {
        "files": {
            "added": [each.shown() for each in target if each.path not in old],
            "removed": [each.shown() for each in base if each.path not in new],
            "changed": [
                {
                    "path": was.path,
                    "base": {"digest": was.digest, "size": was.size},
                    "target": {"digest": now.digest, "size": now.size},
                }
                for was, now in both
                if was.digest != now.digest
            ],
            "shared": [now.shown() for was, now in both if was.digest == now.digest],
        },
        "bytes_shared": sum(sizes[0][each] for each in sizes[0].keys() & sizes[1].keys()),
        "bytes_base": sum(sizes[0].values()),
        "bytes_target": sum(sizes[1].values()),
    }

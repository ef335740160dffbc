"""The document of the wire, OpenAPI 3.1: the registry's part, and what extensions add to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_OWN = Path(__file__).with_name("openapi.yaml")
# In C where PyYAML was built so, and that takes an eighth of the time.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What a file says once and uses in several places; in the whole it stands where it is used.
_PRIVATE = "x-"


def whole(added: Iterable[Path]) -> dict[str, Any]:
    """Return the whole, as JSON has it. What two files say of one thing is a mistake: ValueError.

    Files of an extension add paths, components and tags, and refer to components of the registry.
    """
    document: dict[str, Any] = {}
    for file in (_OWN, *added):
        said = yaml.load(file.read_bytes(), _LOADER)  # noqa: S506 - both loaders are safe
        _add(document, {key: said[key] for key in said if not key.startswith(_PRIVATE)})
    return document


def _add(to: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if key not in to:
            # Anchors make one object of what stands in several places.
            to[key] = _copied(value)
        elif isinstance(value, list):
            to[key] += value
        elif isinstance(value, dict) and key in _MERGED:
            _add(to[key], value)
        else:
            raise ValueError(f"{key} is said twice")


_MERGED = frozenset(
    ("paths", "components", "pathItems", "parameters", "headers", "responses", "schemas")
)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def resolved(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the node refers to, itself where it refers to nothing."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def operations(
    document: Mapping[str, Any],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield path, method and operation of everything that it has, with the path's parameters."""
    for path, item in document["paths"].items():
        said = resolved(document, item)
        for method, operation in said.items():
            if method in _METHODS:
                parameters = [*said.get("parameters", ()), *operation.get("parameters", ())]
                yield path, method, {**operation, "parameters": parameters}


_METHODS = frozenset(("get", "head", "post", "put", "patch", "delete", "options", "trace"))

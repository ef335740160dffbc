"""Lineage: names of the nodes, and of the ways in which one comes from another. Pure.

A node names something that never changes, or nothing was said: an artifact or an image by digest,
code by commit, a dataset by digest or by a version that stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mlext.errors import DocumentInvalid
from mlext.records import ModelVersion, Run
from ociserver.errors import DigestInvalid
from ociserver.refs import Digest, shortened

Node = str

# Before `@` an address has no user but git's: what else is there may be a password.
_COMMIT = re.compile(
    r"(?:(?P<where>(?:ssh://)?(?:git@)?[^\s@]{1,500})@)?(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})"
)
_DATASET = re.compile(r"[^\s\x00-\x1f@]{1,500}@(?P<version>[^\s\x00-\x1f@]{1,200})")
_NODE_MAX = 800
# What names another thing tomorrow, whatever the tool.
_FLOATING = frozenset(
    ("latest", "main", "master", "head", "trunk", "dev", "develop", "nightly", "current", "newest",
     "stable", "prod", "production", "staging")
)  # fmt: skip


def artifact_of(text: str) -> Node:
    """Return the node of an artifact. Raises DocumentInvalid."""
    return _digest(text, "an artifact")


def base_of(text: str) -> Node:
    """Return the node of a base model: a digest, or a reference by one. Raises DocumentInvalid."""
    return _digest(text, "a base model")


def image_of(text: str) -> Node:
    """Return the node of a container image: a digest, or a reference by one.

    Raises DocumentInvalid: a tag names another image tomorrow.
    """
    return _digest(text, "container_image")


def code_of(text: str) -> Node:
    """Return the node of code: a whole commit id, after the repository's address and `@` if given.

    Raises DocumentInvalid: a branch or a tag names another commit tomorrow.
    """
    found = _COMMIT.fullmatch(text)
    if found is None:
        raise DocumentInvalid(
            f"code_commit {shortened(text)!r} is not a commit's whole id (40 or 64 hex digits), "
            "with or without the repository's address and @ before it"
        )
    return f"commit:{found['commit']}"


def dataset_of(text: str) -> Node:
    """Return the node of a dataset: a digest, `name@digest`, or `name@version`.

    Raises DocumentInvalid: a floating version names other data tomorrow.
    """
    name, _, version = text.rpartition("@")
    try:
        return Digest.parse(version if name else text)
    except DigestInvalid as error:
        found = _DATASET.fullmatch(text)
        if found is None or found["version"].lower() in _FLOATING:
            raise DocumentInvalid(
                f"dataset_version {shortened(text)!r} is neither a digest nor name@version with a "
                "version that stays"
            ) from error
        return f"dataset:{text}"


def run_of(run_id: str) -> Node:
    """Return the node of a run."""
    return f"run:{run_id}"


def _digest(text: str, what: str) -> Node:
    try:
        return Digest.parse(text.rpartition("@")[2])
    except DigestInvalid as error:
        raise DocumentInvalid(
            f"{what} {shortened(text)!r} is no digest and no reference by digest: a tag names "
            "something else tomorrow"
        ) from error


def any_node(text: str) -> Node:
    """Return the node that a query names: a digest, `run:…`, `commit:…`, `dataset:…`, or a
    dataset or commit as runs name them. Raises DocumentInvalid.
    """
    if text.startswith(("run:", "commit:", "dataset:")) and len(text) < _NODE_MAX:
        if not text.isprintable():  # no node has such a name, and PostgreSQL takes no NUL
            raise DocumentInvalid(f"{shortened(text)!r} names nothing")
        return text
    for reading in (artifact_of, code_of, dataset_of):
        try:
            return reading(text)
        except DocumentInvalid:
            continue
    raise DocumentInvalid(
        f"{shortened(text)!r} names nothing: a digest, run:ID, commit:ID, dataset:NAME@VERSION"
    )


# The ways in which one node comes from another, and what the other is.
KINDS: Mapping[str, Callable[[str], Node]] = {
    "trained-from": artifact_of,
    "dataset": dataset_of,
    "code": code_of,
    "image": image_of,
    "base-model": base_of,
    "adapter-of": base_of,
    "derived-from": base_of,
}
# Of a version to the run that made it. Not for clients to say: registration does.
MADE_BY = "run"
# What a run says that it was made from, and the way.
_OF_RUN = {"dataset_version": "dataset", "code_commit": "code", "container_image": "image"}


def gaps(version: ModelVersion, run: Run | None) -> list[str]:
    """Return sentences on what is missing of the version's lineage; none where it is complete.

    Complete is: a run that has finished, and says from which dataset, code and image. `run` is the
    one that the version is of, None where there is none of that name or it is not the version's.
    """
    if not version.run_id:
        return [f"version {version.number} names no run"]
    if run is None:
        # One sentence for both: who may know the version need not know of the run.
        late = f"it was put by somebody else, after version {version.number} had named it"
        return [f"nothing is known of run {version.run_id}, or {late}"]
    missing = [key for key in _OF_RUN if not run.body.get(key)]
    said = [f"run {run.id} does not say its {key}" for key in missing]
    return said if run.finished_at is not None else [*said, f"run {run.id} has not finished"]


def edges_of_run(said: Mapping[str, object]) -> list[tuple[str, Node]]:
    """Return (kind, node) of everything a run says that it was made from."""
    return [(kind, KINDS[kind](str(said[key]))) for key, kind in _OF_RUN.items() if said.get(key)]

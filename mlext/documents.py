"""What clients send, from JSON and from annotations, as values. Pure.

A document is taken whole or not at all: an unknown key is refused, for a mistyped one would be
lost in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from mlext.errors import DocumentInvalid
from mlext.lineage import KINDS, Node, base_of, code_of, dataset_of, image_of
from mlext.records import Registration, rfc3339
from ociserver.errors import DigestInvalid
from ociserver.refs import Digest, shortened

PREFIX = "io.lading."
# Enough for any training run; more is a file, to be pushed as one.
ENTRIES = 1_000
_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,250}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_TEXT = 5_000
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(rf"{_DATE.pattern}[Tt ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}")
_OF_RFC3339 = (
    "a time of RFC 3339 (date, time and offset), such as 2026-11-25T03:00:00Z or "
    "2026-11-25T04:00:00+01:00"
)
# PostgreSQL keeps neither in a text, and nobody means them.
UNKEPT = re.compile("[\0\ud800-\udfff]")
# Of whole numbers: those that both databases keep as an integer are below.
WHOLE_MAX = 2**31
# Rendered and kept with each version, and with each evaluation.
_KEPT_BYTES = 256 * 1024

_JSON_ANNOTATIONS = ("metrics", "params", "tags")
_RUN_ANNOTATIONS = {
    "dataset.version": "dataset_version",
    "code.commit": "code_commit",
    "container.image": "container_image",
}
# Annotation -> kind of the edge to the artifact that this one was made from.
_FROM_ANNOTATIONS = {
    "base.digest": "base-model",
    "adapter.of": "adapter-of",
    "derived.from": "derived-from",
}
_ANNOTATIONS = frozenset(
    PREFIX + each
    for each in (
        "framework",
        "description",
        "run.id",
        *_JSON_ANNOTATIONS,
        *_RUN_ANNOTATIONS,
        *_FROM_ANNOTATIONS,
    )
)
_REGISTRATION = frozenset(
    ("run_id", "artifact_digest", "framework", "metrics", "params", "tags", "description",
     "lineage")
)  # fmt: skip
_EVALUATION = frozenset(("metrics", "dataset"))
RUN = frozenset(
    ("dataset_version", "code_commit", "container_image", "hyperparams", "started_at",
     "finished_at")
)  # fmt: skip


def document(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """Return the JSON object of these keys. Raises DocumentInvalid."""
    found = parsed(body, "the body")
    if not isinstance(found, dict):
        raise DocumentInvalid("the body is not a JSON object")
    refuse_unknown(found, known, "the body")
    return found


def registration(body: bytes) -> Registration:
    """Return what `POST …/versions` asks to register. Raises DocumentInvalid."""
    found = document(body, _REGISTRATION)
    return _bounded(
        Registration(
            digest=digest(found, "artifact_digest"),
            framework=text(found, "framework"),
            run_id=identifier(found, "run_id"),
            description=text(found, "description"),
            metrics=metrics(found.get("metrics", {})),
            params=_params(found.get("params", {})),
            tags=_tags(found.get("tags", {})),
            lineage=_lineage(found.get("lineage", [])),
        )
    )


def is_annotated(annotations: Mapping[str, str]) -> bool:
    """Tell whether a manifest's annotations ask to register it."""
    return any(key.startswith(PREFIX) for key in annotations)


def evaluation(body: bytes) -> tuple[dict[str, float], str]:
    """Return the metrics, and the dataset they were measured on, that `POST …/evaluations` records.

    Raises DocumentInvalid.
    """
    found = document(body, _EVALUATION)
    measured = metrics(found.get("metrics"))
    if not measured:
        raise DocumentInvalid("an evaluation has metrics")
    _refuse_much(measured, "metrics")
    return measured, text(found, "dataset")


def annotated(artifact: Digest, annotations: Mapping[str, str]) -> Registration | None:
    """Return what a manifest's annotations ask to register, None where there is no such key.

    Raises DocumentInvalid.
    """
    own = {key: value for key, value in annotations.items() if key.startswith(PREFIX)}
    if not own:
        return None
    refuse_unknown(own, _ANNOTATIONS, "the annotations")

    def given(name: str) -> str:
        return own.get(PREFIX + name, "")

    structured = {
        name: parsed(own[PREFIX + name].encode(), PREFIX + name)
        for name in _JSON_ANNOTATIONS
        if PREFIX + name in own
    }
    named = {key: given(name) for name, key in _RUN_ANNOTATIONS.items() if PREFIX + name in own}
    run_id = identifier({"run_id": given("run.id")}, "run_id")
    if named and not run_id:
        raise DocumentInvalid(f"{PREFIX}run.id names the run that the other annotations are of")
    return _bounded(
        Registration(
            digest=artifact,
            framework=text({"framework": given("framework")}, "framework"),
            run_id=run_id,
            description=text({"description": given("description")}, "description"),
            metrics=metrics(structured.get("metrics", {})),
            params=_params(structured.get("params", {})),
            tags=_tags(structured.get("tags", {})),
            lineage=tuple(
                (kind, base_of(given(name)))
                for name, kind in _FROM_ANNOTATIONS.items()
                if PREFIX + name in own
            ),
            run=run(named) if named else None,
        )
    )


def run(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a run. Raises DocumentInvalid: a branch or a floating tag is no
    answer to what a run was made from.
    """
    refuse_unknown(found, RUN, "the run")
    checks: dict[str, Callable[[str], Node]] = {
        "dataset_version": dataset_of,
        "code_commit": code_of,
        "container_image": image_of,
    }
    said: dict[str, Any] = {}
    for key, check in checks.items():
        if value := text(found, key):
            check(value)
            said[key] = value
    said |= {key: moment(found, key) for key in ("started_at", "finished_at") if text(found, key)}
    if "started_at" in said and said.get("finished_at", math.inf) < said["started_at"]:
        raise DocumentInvalid("finished_at is before started_at")
    given = found.get("hyperparams")
    if given is not None and (named := _params(given, "hyperparams")):
        said["hyperparams"] = named
    return said


def digest(found: Mapping[str, Any], key: str) -> Digest:
    """Return the digest under the key. Raises DocumentInvalid."""
    try:
        return Digest.parse(text(found, key))
    except DigestInvalid as error:
        raise DocumentInvalid(f"{key}: {error.message}") from error


def text(found: Mapping[str, Any], key: str, *, most: int = _TEXT) -> str:
    """Return the text under the key, empty where there is none. Raises DocumentInvalid."""
    value = found.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise DocumentInvalid(f"{key} is not a text of at most {most} characters")
    _storable(value, key)
    return value


def identifier(found: Mapping[str, Any], key: str) -> str:
    """Return the id under the key, empty where there is none. Raises DocumentInvalid."""
    value = text(found, key)
    if value and not _ID.fullmatch(value):
        raise DocumentInvalid(
            f"{key} {shortened(value)!r} is not 1 to 200 of letters, digits and . _ : / @ + -, "
            "beginning with a letter or digit"
        )
    return value


def whole(found: Mapping[str, Any], key: str) -> int | None:
    """Return the whole number under the key, None where there is none. Raises DocumentInvalid."""
    value = found.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < WHOLE_MAX:
        raise DocumentInvalid(f"{key} is not a whole number")
    return value


def moment(found: Mapping[str, Any], key: str) -> float:
    """Return the time under the key in seconds since the epoch. Raises DocumentInvalid."""
    return parse_moment(text(found, key), key)


def parse_moment(value: str, key: str) -> float:
    """Return an RFC 3339 time in seconds since the epoch, one that `rfc3339` can write.

    Raises DocumentInvalid.
    """
    moment = _moment(value)
    if moment is None:
        raise DocumentInvalid(f"{key} {shortened(value)!r} is not {_OF_RFC3339}")
    return moment


def parse_since(value: str, key: str) -> float:
    """Return the time, or for a date its beginning in UTC, in seconds since the epoch.

    For questions: what is put on record says its time in full. Raises DocumentInvalid.
    """
    moment = _moment(f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value)
    if moment is None:
        raise DocumentInvalid(
            f"{key} {shortened(value)!r} is neither {_OF_RFC3339}, nor a date, such as 2026-11-25"
        )
    return moment


def _moment(value: str) -> float | None:
    """Return what Python's reader, which takes all of ISO 8601, makes of an RFC 3339 time, None
    where it is none.
    """
    if not _MOMENT.match(value):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is None:
            return None
        moment = round(parsed.timestamp(), 6)
        rfc3339(moment)  # not what is in the years 1 to 9999 elsewhere, and in UTC is not
    except (ValueError, OverflowError):
        return None
    return moment


def metrics(found: object) -> dict[str, float]:
    """Return named numbers. Raises DocumentInvalid."""
    named = _entries(found, "metrics")
    for key, value in named.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not is_finite(value):
            raise DocumentInvalid(f"metrics: {shortened(key)!r} is not a finite number")
    return {key: float(value) for key, value in named.items()}


def is_finite(value: float) -> bool:
    """Tell whether it is a number that a column of floats keeps."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _params(found: object, where: str = "params") -> dict[str, str | float | int | bool]:
    named = _entries(found, where)
    for key, value in named.items():
        if isinstance(value, str):
            _storable(value, f"{where}: {shortened(key)!r}")
        elif not isinstance(value, bool | int | float) or not is_finite(value):
            raise DocumentInvalid(
                f"{where}: {shortened(key)!r} is not a text, a finite number, true or false"
            )
    return named


def _tags(found: object) -> dict[str, str]:
    named = _entries(found, "tags")
    for key, value in named.items():
        if not isinstance(value, str):
            raise DocumentInvalid(f"tags: {shortened(key)!r} is not a text")
        _storable(value, f"tags: {shortened(key)!r}")
    return named


def _entries(found: object, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DocumentInvalid(f"{where} is not a JSON object")
    if len(found) > ENTRIES:
        raise DocumentInvalid(f"{where} has more than {ENTRIES} entries")
    for key in found:
        _storable(key, where)
        if not _KEY.fullmatch(key):
            raise DocumentInvalid(
                f"{where}: {shortened(key)!r} is not a name of 1 to 250 characters"
            )
    return found


def _lineage(found: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, list) or len(found) > ENTRIES:
        raise DocumentInvalid(f"lineage is not a list of at most {ENTRIES} entries")
    edges = []
    for each in found:
        if not isinstance(each, dict):
            raise DocumentInvalid('an entry of lineage is {"type": …, "target": …}')
        refuse_unknown(each, frozenset(("type", "target")), "an entry of lineage")
        edges.append(edge(each))
    return tuple(edges)


def edge(found: Mapping[str, Any]) -> tuple[str, Node]:
    """Return (kind, node) of what something is said to have come from. Raises DocumentInvalid."""
    kind, target = text(found, "type"), text(found, "target")
    if kind not in KINDS:
        raise DocumentInvalid(
            f"lineage: type {shortened(kind)!r} is unknown; known are: {', '.join(KINDS)}"
        )
    return kind, KINDS[kind](target)


def refuse_unknown(found: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Raise DocumentInvalid for a key that is not known."""
    if unknown := sorted(found.keys() - known):
        raise DocumentInvalid(
            f"{where}: {shortened(unknown[0])!r} is unknown; known are: {', '.join(sorted(known))}"
        )


def _storable(value: str, where: str) -> None:
    if UNKEPT.search(value):
        raise DocumentInvalid(f"{where} has a character that cannot be kept")


def parsed(body: bytes, where: str) -> Any:
    """Return the JSON that it is. Raises DocumentInvalid."""
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_not_json, object_pairs_hook=_each_once
        )
    except (ValueError, RecursionError) as error:
        raise DocumentInvalid(f"{where} is not JSON in UTF-8: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Which of two with one name is meant nobody can tell (RFC 8259, 4)."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shortened(name)!r} is there twice")
        found[name] = value
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _bounded(found: Registration) -> Registration:
    """Return it, if what it says is not too much."""
    said = (dict(found.metrics), dict(found.params), dict(found.tags))
    _refuse_much(said, "metrics, params and tags")
    return found


def _refuse_much(said: object, where: str) -> None:
    if len(json.dumps(said)) > _KEPT_BYTES:
        raise DocumentInvalid(f"{where} are over {_KEPT_BYTES} bytes in all")

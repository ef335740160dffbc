"""Versions that searches are tried on, what a search ought to find of them, and where they lie."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from mlext.filters import (
    All,
    Comparison,
    Expression,
    Field,
    Kind,
    Not,
    Operator,
    Presence,
    Some,
)
from mlext.pages import Found, Query, SortKey, cursor, parse_cursor
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Alias, Model, ModelVersion, Run
from mlext.storage.catalog import ROWS
from ociserver.refs import Digest, RepositoryName, Tag, parse_name
from ociserver.storage.catalog import SqlCatalogTx
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog

T = TypeVar("T")

MODELS = [parse_name(each) for each in ("b/two", "a/one", "c/three")]
# The latest day first: an order by time is none by number.
BEGIN = 1_780_000_000.0
DATA = "dataset:clicks@1"
BASE = "sha256:" + "b" * 64
METRICS = ("f1", "loss", "val/f1", "absent")
PARAMS = ("optimizer", "lr", "amp", "mixed")
TAGS = ("team", "note", 'we`i"rd key')
NUMBERS = (0.0, -1.5, 0.1, 0.8, 0.9, 1e300, 3.0)
TEXTS = ("", "adam", "Adam", "ADAM", "a%m", "a_am", "a*m", "[a]", "ünïcode", "Ü", "fraud", "3",
         "0.1", "true", "it's", 'x"y', "\\", "z" * 300)  # fmt: skip


@dataclass
class Kept:
    """A version as the test knows it."""

    version: ModelVersion
    metrics: dict[str, Any]
    params: dict[str, Any]
    tags: dict[str, Any]
    stages: set[str] = field(default_factory=set)
    lineage: dict[str, set[str]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[RepositoryName, int]:
        return self.version.model, self.version.number


def population(seed: int = 1, each: int = 25) -> list[Kept]:
    """Return versions of three models, with everything drawn from few values."""
    draw = random.Random(seed)
    found = []
    for of, model in enumerate(MODELS):
        for number in range(1, each + 1):
            digest = Digest.parse(f"sha256:{of * 1000 + number:064x}")
            some: dict[str, dict[str, Any]] = {
                "metrics": {
                    key: draw.choice(NUMBERS) for key in METRICS[:3] if draw.random() < 0.7
                },
                "params": {
                    key: draw.choice([*NUMBERS, *TEXTS, True, 3])
                    for key in PARAMS
                    if draw.random() < 0.7
                },
                "tags": {key: draw.choice(TEXTS) for key in TAGS if draw.random() < 0.7},
            }
            version = ModelVersion(
                model=model,
                number=number,
                id=f"mv_{of}_{number}",
                digest=digest,
                framework=draw.choice(["", "pytorch", "Jax"]),
                run_id=draw.choice(["", "r1", "r2", "r3"]),
                created_at=BEGIN - draw.randrange(5) * 100.25,
                created_by=draw.choice(["user:ann", "robot:ci"]),
                body=json.dumps({"model": model, "version": number, **some}).encode(),
            )
            kept = Kept(version, some["metrics"], some["params"], some["tags"])
            if draw.random() < 0.3:
                kept.lineage["base-model"] = {BASE}
            if version.run_id == "r1":
                kept.lineage["dataset"] = {DATA}
            found.append(kept)
        for name in ("prod", "Staging"):
            draw.choice(found[-each:]).stages.add(name)
    return found


def store(tx: ModelsTx, kept: list[Kept]) -> None:
    """Write them as registration does."""
    for model in MODELS:
        tx.put_model(
            Model(name=model, last_number=0, created_at=0.0, updated_at=0.0, updated_by="x")
        )
    tx.put_run(Run(id="r1", created_by="x", created_at=0.0, finished_at=None, body={}))
    for each in kept:
        values = [
            (kind, key, value)
            for kind, named in (
                ("metric", each.metrics),
                ("param", each.params),
                ("tag", each.tags),
            )
            for key, value in named.items()
        ]
        tx.add_version(each.version, values)
        for kind, targets in each.lineage.items():
            edges = [(kind, target) for target in targets]
            if kind == "base-model":
                tx.put_edges(each.version.digest, edges, each.version.model, "x", 0.0)
            else:
                tx.put_edges("run:r1", edges, "", "x", 0.0)
        for name in each.stages:
            tx.put_alias(_alias(each.version, name), None)


def _alias(version: ModelVersion, name: str) -> Alias:
    return Alias(
        model=version.model,
        name=Tag(name),
        number=version.number,
        digest=version.digest,
        moves=1,
        updated_at=0.0,
        updated_by="x",
        reason="",
    )


class Shelf:
    """An open catalog with the population in it, asked from a test that is no coroutine."""

    def __init__(self, run: Callable[[Any], Any], catalog: ModelsCatalog, kept: list[Kept]) -> None:
        self.run = run
        self.catalog = catalog
        self.kept = kept

    def read(self, work: Callable[[ModelsTx], T]) -> T:
        found: T = self.run(self.catalog.read(work))
        return found

    def write(self, work: Callable[[ModelsTx], T]) -> T:
        found: T = self.run(self.catalog.write(work))
        return found

    def walk(self, query: Query) -> Iterator[Found]:
        """Yield all that the query finds, page by page, by cursors as a client has them."""
        first = query
        while True:
            page = self.read(lambda tx, query=query: tx.found(query))  # type: ignore[misc]
            assert len(page.found) <= query.limit
            yield from page.found
            if page.following is None:
                return
            text = cursor(first, page.found[-1].position)
            query = Query(
                model=first.model,
                where=first.where,
                order=first.order,
                limit=first.limit,
                within=first.within,
                after=parse_cursor(first, text),
            )


_Transaction = type("_Transaction", (*ROWS, SqlCatalogTx), {})


@contextmanager
def shelf(where: Path | str) -> Iterator[Shelf]:
    """Open a catalog, SQLite's in that folder or PostgreSQL's at that URL, and fill it."""
    kept = population()
    with asyncio.Runner() as runner:

        async def make() -> Any:
            if isinstance(where, Path):
                return SqliteCatalog(where / "catalog.db", _Transaction)
            await migrate(where)
            return PostgresCatalog(where, _Transaction)

        catalog = runner.run(make())
        try:
            found = Shelf(runner.run, catalog, kept)
            found.write(lambda tx: store(tx, kept))
            yield found
        finally:
            runner.run(catalog.aclose())


# -- what ought to be found


def holds(expression: Expression, kept: Kept) -> bool:  # noqa: PLR0911 - one for each kind
    """Say whether the expression holds of a version, in Python."""
    match expression:
        case All(parts):
            return all(holds(each, kept) for each in parts)
        case Some(parts):
            return any(holds(each, kept) for each in parts)
        case Not(inner):
            return not holds(inner, kept)
        case Presence(of, present):
            return bool(_values(of, kept)) is present
        case Comparison(of, Operator.UNEQUAL, values):
            return _has_other(Comparison(of, Operator.EQUAL, values), kept)
        case Comparison(of, Operator.NOT_IN, values):
            return _has_other(Comparison(of, Operator.IN, values), kept)
        case Comparison(of, Operator.NOT_LIKE, values):
            return _has_other(Comparison(of, Operator.LIKE, values), kept)
        case Comparison(of, Operator.NOT_ILIKE, values):
            return _has_other(Comparison(of, Operator.ILIKE, values), kept)
        case Comparison(of, operator, values):
            return any(
                _compares(number if isinstance(value, int | float) else text, operator, value)
                for number, text in _values(of, kept)
                for value in values
            )
    raise AssertionError(expression)


def _has_other(same: Comparison, kept: Kept) -> bool:
    return bool(_values(same.field, kept)) and not holds(same, kept)


def _values(of: Field, kept: Kept) -> list[tuple[float | None, str | None]]:
    """Return (number, text) of each value that the version has of the field."""
    version = kept.version
    named = {Kind.METRIC: kept.metrics, Kind.PARAM: kept.params, Kind.TAG: kept.tags}.get(of.kind)
    if named is not None:
        return [_as_row(named[of.key])] if of.key in named else []
    if of.kind is Kind.STAGE:
        return [(None, each) for each in kept.stages]
    if of.kind is Kind.LINEAGE:
        return [(None, each) for each in kept.lineage.get(of.key, ())]
    names = {"version": "number"}
    value: Any = getattr(version, names.get(of.key, of.key))
    if value == "":
        return []
    return [(None, value) if isinstance(value, str) else (value, None)]


def _as_row(value: object) -> tuple[float | None, str]:
    if isinstance(value, str):
        return None, value
    number = None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    return number, json.dumps(value)


def _compares(mine: Any, operator: Operator, value: Any) -> bool:
    if mine is None:
        return False
    if operator in (Operator.LIKE, Operator.ILIKE):
        parts = {"%": ".*", "_": "."}
        pattern = "".join(parts.get(each, re.escape(each)) for each in value)
        flags = re.DOTALL | (re.IGNORECASE | re.ASCII if operator is Operator.ILIKE else 0)
        if operator is Operator.ILIKE:
            # No letter but those of ASCII has a case here.
            mine, pattern = _lowered(mine), _lowered(pattern)
            flags = re.DOTALL
        return re.fullmatch(pattern, mine, flags) is not None
    found: dict[Operator, bool] = {
        Operator.EQUAL: mine == value,
        Operator.IN: mine == value,
        Operator.BELOW: mine < value,
        Operator.AT_MOST: mine <= value,
        Operator.ABOVE: mine > value,
        Operator.AT_LEAST: mine >= value,
    }
    return found[operator]


def _lowered(text: str) -> str:
    return "".join(each.lower() if each.isascii() else each for each in text)


def ordered(kept: list[Kept], order: tuple[SortKey, ...], *, of_one: bool) -> list[Kept]:
    """Return them in that order."""

    def compare(one: Kept, other: Kept) -> int:
        for key in order:
            for mine, theirs in zip(_sorted_by(key, one), _sorted_by(key, other), strict=True):
                if mine == theirs:
                    continue
                if mine is None or theirs is None:
                    return 1 if mine is None else -1
                return (1 if mine > theirs else -1) * (-1 if key.descending else 1)
        down = -1 if order[-1].descending else 1
        ties = [
            (0 if of_one else MODELS.index(each.version.model), each.version.number)
            for each in (one, other)
        ]
        return down * (1 if ties[0] > ties[1] else -1)

    return sorted(kept, key=cmp_to_key(compare))


def _sorted_by(key: SortKey, kept: Kept) -> list[Any]:
    found = _values(key.field, kept)
    number, text = found[0] if found else (None, None)
    text = None if text is None else text[:200]
    if key.field.kind is Kind.PARAM:
        return [number, text]
    if key.field.kind is Kind.METRIC or key.field.key in ("version", "created_at"):
        return [number]
    return [text]


# -- what may be asked

_number = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)
_safe = st.characters(codec="utf-8", exclude_characters="\0%")
_text = st.sampled_from(TEXTS) | st.text(_safe, max_size=8)
_pattern = st.sampled_from(
    ("a%", "%m", "A_am", "%", "_", "", "%ü%", "%*%", "[%", "Ü", "%\\%", "a%m")
)
_ORDERED = (Operator.EQUAL, Operator.UNEQUAL, Operator.BELOW, Operator.AT_MOST, Operator.ABOVE,
            Operator.AT_LEAST)  # fmt: skip
_LISTED = (Operator.IN, Operator.NOT_IN)
_LIKE = (Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE)


def _compared(of: Field, value: st.SearchStrategy[Any], *, liked: bool) -> Any:
    one = st.builds(
        lambda operator, each: Comparison(of, operator, (each,)), st.sampled_from(_ORDERED), value
    )
    several = st.builds(
        lambda operator, each: Comparison(of, operator, tuple(each)),
        st.sampled_from(_LISTED),
        st.lists(value, min_size=1, max_size=4),
    )
    like = st.builds(
        lambda operator, each: Comparison(of, operator, (each,)), st.sampled_from(_LIKE), _pattern
    )
    given = st.booleans().map(lambda present: Presence(of, present))
    return st.one_of(one, several, given, *([like] if liked else []))


def _of_several(of: Field, values: tuple[str, ...]) -> Any:
    value = st.sampled_from(values)
    return st.one_of(
        value.map(lambda each: Comparison(of, Operator.EQUAL, (each,))),
        st.lists(value, min_size=1, max_size=3).map(
            lambda each: Comparison(of, Operator.IN, tuple(each))
        ),
        st.booleans().map(lambda present: Presence(of, present)),
    )


def _attribute(name: str) -> Field:
    return Field(Kind.ATTRIBUTE, name)


_moment = st.sampled_from([BEGIN, BEGIN - 100.25, BEGIN - 7.0]) | st.integers(
    min_value=0, max_value=2**31
).map(float)
_conditions = st.one_of(
    st.sampled_from(METRICS).flatmap(
        lambda key: _compared(Field(Kind.METRIC, key), _number, liked=False)
    ),
    st.sampled_from(PARAMS).flatmap(
        lambda key: _compared(Field(Kind.PARAM, key), _number | _text, liked=True)
    ),
    st.sampled_from(TAGS).flatmap(lambda key: _compared(Field(Kind.TAG, key), _text, liked=True)),
    _compared(_attribute("version"), st.integers(0, 30) | st.just(2**31 - 1), liked=False),
    _compared(_attribute("created_at"), _moment, liked=False),
    *(
        _compared(_attribute(name), st.sampled_from(values), liked=True)
        for name, values in (
            ("framework", ("", "pytorch", "Jax")),
            ("run_id", ("", "r1", "r2")),
            ("created_by", ("user:ann", "robot:ci")),
            ("digest", (f"sha256:{3:064x}", "x")),
            ("model", (*MODELS, "d")),
        )
    ),
    _of_several(Field(Kind.STAGE), ("prod", "Staging", "none")),
    st.sampled_from(("prod", "P%", "%")).map(
        lambda each: Comparison(Field(Kind.STAGE), Operator.ILIKE, (each,))
    ),
    _of_several(Field(Kind.LINEAGE, "dataset"), (DATA, "dataset:other@2")),
    _of_several(Field(Kind.LINEAGE, "base-model"), (BASE, "sha256:" + "0" * 64)),
)
expressions: st.SearchStrategy[Expression] = st.recursive(
    _conditions,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts))),
    ),
    max_leaves=6,
)
_sorted = st.sampled_from(
    [
        *(Field(Kind.METRIC, key) for key in METRICS),
        *(Field(Kind.PARAM, key) for key in PARAMS),
        *(Field(Kind.TAG, key) for key in TAGS),
        *(
            _attribute(name)
            for name in ("version", "framework", "run_id", "created_at", "created_by", "digest",
                         "model")
        ),
    ]
)  # fmt: skip
orders: st.SearchStrategy[tuple[SortKey, ...]] = st.lists(
    st.builds(SortKey, _sorted, st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda each: each.field,
).map(tuple)


def names(found: Iterator[Found]) -> list[tuple[RepositoryName, int]]:
    return [(each.position.model, each.position.number) for each in found]

# The filter language: what it reads, what it refuses and where, and that both databases agree with
# a plain reading of it.
from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from mlext import filters
from mlext.errors import FilterInvalid, SearchSlow
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
    parse,
    render,
)
from mlext.pages import OF_ALL, OF_ONE, Query, SortKey
from mlext.storage import search
from ociserver.refs import RepositoryName
from tests.mlext.population import MODELS, Shelf, expressions, holds, names, ordered, orders

F1 = Field(Kind.METRIC, "f1")
TEAM = Field(Kind.TAG, "team")
COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.f1 > 0.8", Comparison(F1, Operator.ABOVE, (0.8,))),
        ("metrics.f1>-1e-3", Comparison(F1, Operator.ABOVE, (-0.001,))),
        ("metrics.`val/f1` = .5", Comparison(Field(Kind.METRIC, "val/f1"), Operator.EQUAL, (0.5,))),
        ('metrics."a""b" is null', Presence(Field(Kind.METRIC, 'a"b'), present=False)),
        ("metrics.and IS NOT NULL", Presence(Field(Kind.METRIC, "and"), present=True)),
        ("params.lr = 3", Comparison(Field(Kind.PARAM, "lr"), Operator.EQUAL, (3.0,))),
        ("params.lr = '3'", Comparison(Field(Kind.PARAM, "lr"), Operator.EQUAL, ("3",))),
        ("tags.team = 'it''s'", Comparison(TEAM, Operator.EQUAL, ("it's",))),
        ("tags.team in (\"a\", 'b')", Comparison(TEAM, Operator.IN, ("a", "b"))),
        ("tags.team NOT ILIKE 'a%'", Comparison(TEAM, Operator.NOT_ILIKE, ("a%",))),
        ("version <= 7", Comparison(Field(Kind.ATTRIBUTE, "version"), Operator.AT_MOST, (7,))),
        (
            "created_at >= '2026-01-01'",
            Comparison(Field(Kind.ATTRIBUTE, "created_at"), Operator.AT_LEAST, (1767225600.0,)),
        ),
        (
            "created_at < '2026-01-01T01:00:00+01:00'",
            Comparison(Field(Kind.ATTRIBUTE, "created_at"), Operator.BELOW, (1767225600.0,)),
        ),
        (
            "lineage.code = 'git.example/x@" + COMMIT + "'",
            Comparison(Field(Kind.LINEAGE, "code"), Operator.EQUAL, (f"commit:{COMMIT}",)),
        ),
        (
            "lineage.dataset = 'dataset:a@1'",
            Comparison(Field(Kind.LINEAGE, "dataset"), Operator.EQUAL, ("dataset:a@1",)),
        ),
        (
            "stage = 'prod' and not (version = 1 or version = 2) and tags.team is null",
            All(
                (
                    Comparison(Field(Kind.STAGE), Operator.EQUAL, ("prod",)),
                    Not(
                        Some(
                            tuple(
                                Comparison(
                                    Field(Kind.ATTRIBUTE, "version"), Operator.EQUAL, (each,)
                                )
                                for each in (1, 2)
                            )
                        )
                    ),
                    Presence(TEAM, present=False),
                )
            ),
        ),
    ],
)
def test_a_filter_says(text: str, expected: Expression) -> None:
    assert parse(text) == expected
    assert parse(render(expected)) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("", 1, 1, "expected"),
        ("metrics.f1 >", 1, 13, "a number"),
        ("metrics.f1 > 'a'", 1, 14, "without quotes"),
        ("tags.team > 1", 1, 13, "in quotes"),
        ("metrics > 3", 1, 1, "no field metrics"),
        ("version = 1\n  and colour = 'red'", 2, 7, "no field colour"),
        ("metrics.f1 >> 3", 1, 13, "a number"),
        ("metrics.f1 = 1 metrics.f1 = 2", 1, 16, "and, or, the end"),
        ("stage != 'prod'", 1, 1, "not (…)"),
        ("version = 1.5", 1, 11, "whole number"),
        ("version = 2147483648", 1, 11, "whole number"),
        ("version like 'a'", 1, 1, "no text"),
        ("created_at > 'yesterday'", 1, 14, "RFC 3339"),
        ("created_at > '0001-01-01T00:00:00+10:00'", 1, 14, "RFC 3339"),
        ("created_at > '2026-02-30'", 1, 14, "nor a date, such as 2026-11-25"),
        ("metrics.f1 = 1e999", 1, 14, "too large"),
        ("lineage.parent = 'x'", 1, 1, "base-model"),
        ("lineage.dataset = 'clicks@latest'", 1, 19, "stays"),
        ("tags.a = 'x", 1, 10, "a text in quotes"),
        ("tags.a = '\0'", 1, 11, "character"),
        ("tags.a like '%%%%%%%%%'", 1, 13, "8 of %"),
        ("not " * 800 + "version = 1", 1, 3133, "16 deep"),
        ("(" * 4000, 1, 4001, "expected"),
        ("version=1 or " * 32 + "version=1", 1, 1, "32 conditions"),
        ("x" * 4097, 1, 4097, "4096"),
        (f"tags.{'k' * 251} is null", 1, 1, "250"),
    ],
)
def test_what_it_cannot_say_is_refused_where_it_stands(
    text: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(FilterInvalid) as refused:
        parse(text)
    detail = refused.value.detail
    assert (detail["line"], detail["column"]) == (line, column)
    assert f"line {line}, column {column}" in refused.value.message
    assert reason in refused.value.message
    shown, caret = detail["context"].split("\n")
    assert caret.strip() == "^"
    assert len(shown) <= 120
    place = text.replace("\0", " ").split("\n")[line - 1][column - 1 : column]
    assert shown[len(caret) - 1 : len(caret)] == place


def test_what_is_at_the_limits_is_read() -> None:
    assert len(list(filters.conditions(parse(" or ".join(["version=1"] * 32))))) == 32
    assert filters.depth(parse("not " * 16 + "version = 1")) == 16
    parse("(" * 1000 + "version = 1" + ")" * 1000)


_TOKENS = ("metrics.f1", "tags.`a b`", "stage", "created_at", "lineage.code", "version", "=", "!=",
           "<", "in", "not", "like", "is", "null", "and", "or", "(", ")", ",", "'x'", "1", "-2.5e3",
           "`", "'", '"', ".", "\n", "9" * 30, "'2026-01-01T00:00:00Z'")  # fmt: skip


@given(st.text(max_size=60) | st.lists(st.sampled_from(_TOKENS), max_size=20).map(" ".join))
@example("9" * 4096)
@example("'" * 4096)
@example("tags." + "`" * 4000)
@settings(max_examples=1000, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    begun = time.monotonic()
    found, refused = None, -1
    try:
        found = parse(text)
    except FilterInvalid as error:
        refused = error.detail["offset"]
    if found is None:
        assert 0 <= refused <= len(text)
    else:
        assert parse(render(found)) == found
    assert time.monotonic() - begun < 2


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_what_is_rendered_is_read_as_the_same(expression: Expression) -> None:
    assert parse(render(expression)) == expression


SEARCH = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("narrows", [True, False])
@given(expressions, orders, st.integers(3, 40), st.sampled_from([None, frozenset(MODELS[:2])]))
@SEARCH
def test_a_search_of_all_models_finds_what_the_filter_says(  # noqa: PLR0913, PLR0917 - all of it
    shelved: Shelf,
    narrows: bool,
    expression: Expression,
    order: tuple[SortKey, ...],
    limit: int,
    within: frozenset[RepositoryName] | None,
) -> None:
    query = Query(model=None, where=expression, order=order, limit=limit, within=within)
    expected = [
        each
        for each in shelved.kept
        if holds(expression, each) and (within is None or each.version.model in within)
    ]
    with pytest.MonkeyPatch.context() as patch:
        if not narrows:
            # As where no condition is narrow enough to begin with.
            patch.setattr(search, "_COUNTED", 0)
        found = names(shelved.walk(query))
    assert found == [each.key for each in ordered(expected, order, of_one=False)]


@given(expressions, orders, st.integers(1, 30))
@SEARCH
def test_a_search_of_one_model_finds_what_the_filter_says(
    shelved: Shelf, expression: Expression, order: tuple[SortKey, ...], limit: int
) -> None:
    model = MODELS[0]
    query = Query(model=model, where=expression, order=order, limit=limit)
    mine = [each for each in shelved.kept if each.version.model == model]
    expected = [each for each in mine if holds(expression, each)]
    found = names(shelved.walk(query))
    assert found == [each.key for each in ordered(expected, order, of_one=True)]


def test_what_is_found_is_shown_with_its_aliases_and_metrics(shelved: Shelf) -> None:
    query = Query(model=None, where=None, order=OF_ALL, limit=10)
    found = {(each.position.model, each.position.number): each for each in shelved.walk(query)}
    assert len(found) == len(shelved.kept)
    for kept in shelved.kept:
        shown = found[kept.key]
        of_version = json.loads(kept.version.body)
        assert json.loads(shown.shown()) == of_version | {"aliases": sorted(kept.stages)}


def test_of_a_model_that_is_not_there_nothing_is_found(shelved: Shelf) -> None:
    query = Query(model=MODELS[0], where=None, order=OF_ONE)
    absent = Query(model=type(MODELS[0])("no/model"), where=None, order=OF_ONE)
    assert len(shelved.read(lambda tx: tx.found(query)).found) == 25
    assert shelved.read(lambda tx: tx.found(absent)).found == ()


def test_a_page_ends_before_it_is_too_large(
    shelved: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlext.storage.ordering.BODIES_MAX", 600)
    query = Query(model=MODELS[0], where=None, order=OF_ONE)
    first = shelved.read(lambda tx: tx.found(query))
    assert 0 < len(first.found) < 25
    assert first.following == MODELS[0]
    assert len(names(shelved.walk(query))) == 25


def test_a_search_that_takes_too_long_is_given_up(
    shelved: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_sqlite = shelved.read(lambda tx: tx._dialect == "sqlite")  # type: ignore[attr-defined]
    if is_sqlite:
        monkeypatch.setattr(search, "_SECONDS", -1.0)
        monkeypatch.setattr(search, "_STEPS", 10)
    else:
        monkeypatch.setattr(
            search, "_hurry", select(func.set_config("statement_timeout", "1", True))
        )
    where = parse(" or ".join(f"tags.note ilike '%{each}%{each}%'" for each in range(30)))
    query = Query(model=None, where=where, order=OF_ALL, limit=1000)
    with pytest.raises(SearchSlow):
        shelved.read(lambda tx: [tx.found(query) for _ in range(20)])
    # The connection is as good as before.
    monkeypatch.undo()
    assert shelved.read(lambda tx: tx.found(Query(model=None, where=None, order=OF_ALL))).found

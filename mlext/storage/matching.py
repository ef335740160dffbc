"""Filters in SQL: what holds of a version, each condition true or false and never NULL.

SQLite and PostgreSQL agree on all of it but on likening: SQLite's LIKE ignores the case of ASCII
letters, and its GLOB does not; PostgreSQL's takes a backslash for an escape unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt
from typing import Any, assert_never

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    func,
    literal,
    not_,
    or_,
    select,
    union,
)

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
    Value,
)
from mlext.lineage import run_of
from mlext.storage.schema import alias, edge, is_of_run, model_version, run, version_value
from ociserver.storage.schema import repository

_RUN = run_of("")
KINDS = {Kind.METRIC: "metric", Kind.PARAM: "param", Kind.TAG: "tag"}
_GLOB = str.maketrans({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"})
_ATTRIBUTES: dict[str, ColumnElement[Any]] = {
    "version": model_version.c.number,
    "framework": model_version.c.framework,
    "run_id": model_version.c.run,
    "created_at": model_version.c.created_at,
    "created_by": model_version.c.created_by,
    "digest": model_version.c.digest,
    "model": repository.c.name,
}
_COMPARES: dict[Operator, Callable[[Any, Any], ColumnElement[bool]]] = {
    Operator.EQUAL: eq,
    Operator.BELOW: lt,
    Operator.AT_MOST: le,
    Operator.ABOVE: gt,
    Operator.AT_LEAST: ge,
}
_OPPOSITES = {
    Operator.UNEQUAL: Operator.EQUAL,
    Operator.NOT_IN: Operator.IN,
    Operator.NOT_LIKE: Operator.LIKE,
    Operator.NOT_ILIKE: Operator.ILIKE,
}
_always = literal(1) == literal(1)
# Made once: an alias makes its columns anew, which costs more than a search of one model.
_sorting = version_value.alias("sorting")
_narrow_value = version_value.alias("narrow")
_narrow_alias = alias.alias("narrow")
_narrow_version = model_version.alias("narrow")
_made = model_version.alias("made")
_maker = run.alias("maker")
# What an index finds.
_POSITIVE = frozenset((Operator.EQUAL, Operator.IN, *_COMPARES))
# Empty where nothing was said.
SPARSE = frozenset(("framework", "run_id"))


def attribute(key: str) -> ColumnElement[Any]:
    """Return the column of the attribute: of `model_version`, or of `repository` for the model."""
    return _ATTRIBUTES[key]


@dataclass(frozen=True, slots=True)
class Matching:
    """Conditions on the version whose key is in these two columns."""

    dialect: str
    repository_id: ColumnElement[int]
    number: ColumnElement[int]

    def holds(self, expression: Expression) -> ColumnElement[bool]:
        """Return whether the expression holds of the version."""
        match expression:
            case All(parts):
                return and_(*(self.holds(each) for each in parts))
            case Some(parts):
                return or_(*(self.holds(each) for each in parts))
            case Not(inner):
                return not_(self.holds(inner).self_group())
            case Presence(field, present):
                given = self._given(field)
                return given if present else not_(given.self_group())
            case Comparison(field, operator, values):
                return self._compared(field, operator, values)
        assert_never(expression)

    def _given(self, field: Field) -> ColumnElement[bool]:
        match field.kind:
            case Kind.METRIC | Kind.PARAM | Kind.TAG:
                return self._has_value(field, None)
            case Kind.STAGE:
                return self._has_alias(None)
            case Kind.LINEAGE:
                return self._has_edge(field.key, None)
            case Kind.ATTRIBUTE:
                if field.key in SPARSE:
                    return attribute(field.key) != ""
                return _always
        assert_never(field.kind)

    def _compared(
        self, field: Field, operator: Operator, values: Sequence[Value]
    ) -> ColumnElement[bool]:
        match field.kind:
            case Kind.METRIC | Kind.PARAM | Kind.TAG:
                return self._has_value(field, self.value(version_value, operator, values))
            case Kind.STAGE:
                return self._has_alias(self.compared(alias.c.name, operator, values))
            case Kind.LINEAGE:
                return self._has_edge(field.key, self.compared(edge.c.target, operator, values))
            case Kind.ATTRIBUTE:
                column = self.number if field.key == "version" else attribute(field.key)
                found = self.compared(column, operator, values)
                return and_(column != "", found) if field.key in SPARSE else found
        assert_never(field.kind)

    def value(
        self, row: FromClause, operator: Operator, values: Sequence[Value]
    ) -> ColumnElement[bool]:
        """Return whether a row of `version_value` compares so: numbers with the number that it may
        be, texts with the text that it always is.
        """
        if operator in _OPPOSITES:
            return not_(self.value(row, _OPPOSITES[operator], values).self_group())
        numbers = [each for each in values if not isinstance(each, str)]
        texts = [each for each in values if isinstance(each, str)]
        either = []
        if numbers:
            number = row.c.number_value
            either.append(and_(number.is_not(None), self.compared(number, operator, numbers)))
        if texts:
            either.append(self.compared(row.c.text_value, operator, texts))
        return or_(*either).self_group()

    def compared(
        self, column: ColumnElement[Any], operator: Operator, values: Sequence[Value]
    ) -> ColumnElement[bool]:
        """Return whether a column that is never NULL compares so."""
        if operator in _OPPOSITES:
            return not_(self.compared(column, _OPPOSITES[operator], values).self_group())
        match operator:
            case Operator.IN:
                return column.in_(values)
            case Operator.LIKE | Operator.ILIKE:
                return self._like(column, operator, str(values[0]))
        return _COMPARES[operator](column, values[0])

    def _like(
        self, column: ColumnElement[Any], operator: Operator, pattern: str
    ) -> ColumnElement[bool]:
        if self.dialect == "sqlite":
            if operator is Operator.LIKE:
                return column.bool_op("GLOB")(pattern.translate(_GLOB))
            return column.like(pattern)
        if operator is Operator.LIKE:
            return column.like(pattern, escape="")
        return column.ilike(pattern, escape="")

    def _is_of_version(self, row: FromClause) -> ColumnElement[bool]:
        return and_(row.c.repository_id == self.repository_id, row.c.number == self.number)

    def _has_value(
        self, field: Field, condition: ColumnElement[bool] | None
    ) -> ColumnElement[bool]:
        row = version_value
        found = select(literal(1)).where(
            self._is_of_version(row), row.c.kind == KINDS[field.kind], row.c.key == field.key
        )
        return _looked_up(found, condition)

    def _has_alias(self, condition: ColumnElement[bool] | None) -> ColumnElement[bool]:
        return _looked_up(select(literal(1)).where(self._is_of_version(alias)), condition)

    def _has_edge(self, kind: str, condition: ColumnElement[bool] | None) -> ColumnElement[bool]:
        own = _made
        # A run is a source too, of every version that is of it.
        of_run = own.join(_maker, is_of_run(own, _maker))
        sources = (
            own.join(edge, edge.c.source == own.c.digest),
            of_run.join(edge, edge.c.source == literal(_RUN) + _maker.c.id),
        )
        either = [
            _looked_up(
                select(literal(1))
                .select_from(each)
                .where(self._is_of_version(own), edge.c.kind == kind),
                condition,
            )
            for each in sources
        ]
        return or_(*either)

    def sort_value(self, field: Field, column: str) -> ColumnElement[Any]:
        """Return what the version has in that column of the field's row, or NULL."""
        row = _sorting
        found = select(row.c[column]).where(
            self._is_of_version(row), row.c.kind == KINDS[field.kind], row.c.key == field.key
        )
        return found.scalar_subquery()


def _looked_up(found: Select[Any], condition: ColumnElement[bool] | None) -> ColumnElement[bool]:
    """Return whether there is such a row.

    As a value, not as EXISTS: no planner makes a join of it, and begins at its wrong end. A page is
    full long before what begins a search is at its end.
    """
    rows = found if condition is None else found.where(condition)
    return rows.limit(1).scalar_subquery().is_not(None)


def _made_from(kind: str, condition: ColumnElement[bool]) -> Select[Any]:
    """Return the keys of versions that came in that way, themselves or their runs, from such."""
    own = _made
    keys = (own.c.repository_id, own.c.number)
    of_kind = and_(edge.c.kind == kind, condition)
    by_run = _maker.c.id == func.substr(edge.c.source, len(_RUN) + 1)
    is_run = edge.c.source.startswith(_RUN, autoescape=True)
    made = union(
        select(*keys).join(edge, edge.c.source == own.c.digest).where(of_kind),
        select(*keys)
        .join(_maker, is_of_run(own, _maker))
        .join(edge, by_run)
        .where(of_kind, is_run),
    )
    found = made.subquery("from")
    return select(found.c.repository_id, found.c.number)


def keys_of(expression: Expression) -> Select[Any] | None:
    """Return the keys of all versions of which it holds, where an index has them: each once."""
    match expression:
        case Comparison(Field(kind), operator, values) if operator in _POSITIVE:
            pass
        case _:
            return None
    one = Matching("", literal(0), literal(0))
    match expression.field:
        case Field(Kind.METRIC | Kind.PARAM | Kind.TAG, key):
            row = _narrow_value
            found = select(row.c.repository_id, row.c.number)
            of_key = (row.c.kind == KINDS[kind], row.c.key == key)
            return found.where(*of_key, one.value(row, operator, values))
        case Field(Kind.STAGE) if operator is Operator.EQUAL:
            pointing = _narrow_alias
            found = select(pointing.c.repository_id, pointing.c.number)
            return found.where(pointing.c.name == values[0])
        case Field(Kind.LINEAGE, key):
            return _made_from(key, one.compared(edge.c.target, operator, values))
        case Field(Kind.ATTRIBUTE, "run_id" | "digest" | "created_at" as key):
            own = _narrow_version
            column = {"run_id": own.c.run, "digest": own.c.digest, "created_at": own.c.created_at}
            found = select(own.c.repository_id, own.c.number)
            return found.where(
                one.compared(column[key], operator, values),
                own.c.run != "" if key == "run_id" else _always,
            )
    return None

"""The statement of one page of a search: which keys, in which order, and what is shown of them.

What is asked for again, of another model or from another cursor on, has the same statement with
other parameters: writing one takes longer than a page of one model does.

The anchor is what is gone through until a page is full: the versions of a narrow condition, the
rows of the first sort key in the order of their index, or all versions. Everything else that is
asked is looked up for each of them by primary key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Integer,
    Null,
    Select,
    String,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
)

from mlext.filters import (
    All,
    Comparison,
    Expression,
    Field,
    Kind,
    Operator,
    Presence,
    conditions,
)
from mlext.pages import (
    BODIES_MAX,
    MODEL,
    TEXT_MAX,
    VERSION,
    Query,
    SortKey,
    columns,
)
from mlext.storage.matching import KINDS, SPARSE, Matching, attribute, keys_of
from mlext.storage.schema import alias, evaluation, model_version, version_value
from ociserver.storage.schema import repository

# Models that are worth being gone through one by one.
_FEW = 100
# Statements that are kept: what a dashboard asks for again and again. The largest takes some 2 MiB.
_KEPT = 16
# Names have no control characters (`documents.py`), nor have numbers and aliases.
WITHIN, BETWEEN = "\x1f", "\x1e"
# Made once, as in `matching.py`.
_sorted = version_value.alias("sorted")
_measured = version_value.alias("measured")
_pointing = alias.alias("pointing")
_last = repository.alias("last")


@dataclass(frozen=True, slots=True)
class Scope:
    """Where is searched, by the ids of repositories: in one model, or in all or these."""

    model_id: int | None = None
    within: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the order. `lacking` tells whether it may be NULL, which comes last."""

    of: ColumnElement[Any]
    descending: bool
    lacking: bool

    @property
    def is_constant(self) -> bool:
        return isinstance(self.of, Null)

    def order(self) -> Iterator[ColumnElement[Any]]:
        if self.is_constant:
            return
        if self.lacking:
            yield self.of.is_(None)
        yield self.of.desc() if self.descending else self.of.asc()

    def after(self, value: ColumnElement[Any] | None) -> ColumnElement[bool] | None:
        """Return what comes strictly after the value, None where nothing does."""
        if value is None:
            return None
        beyond = self.of < value if self.descending else self.of > value
        return or_(beyond, self.of.is_(None)) if self.lacking else beyond

    def same(self, value: ColumnElement[Any] | None) -> ColumnElement[bool]:
        return self.of.is_(None) if value is None else self.of == value

    def unindexed(self) -> _Column:
        """Return the same, in an order that no index gives."""
        if self.is_constant:
            return self
        nothing = "" if isinstance(self.of.type, String) else 0
        return replace(self, of=self.of + nothing)


def conjuncts(expression: Expression | None) -> Iterator[Expression]:
    """Yield what must all hold."""
    if isinstance(expression, All):
        for each in expression.parts:
            yield from conjuncts(each)
    elif expression is not None:
        yield expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What makes two statements differ; all else are parameters.

    Where all models are searched and the first sort key is one that versions may lack, only those
    with it are taken, or with `lacking` those without. `driver` is the condition whose versions,
    few of them, are gone through; without it the first sort key's index is. `after` tells of each
    value of the position whether it is there, `within` whether the models are few.
    """

    dialect: str
    where: Expression | None
    order: tuple[SortKey, ...]
    of_one: bool
    within: bool | None
    after: tuple[bool, ...] | None
    lacking: bool
    driver: Expression | None


def page_of(
    dialect: str,
    query: Query,
    scope: Scope,
    *,
    lacking: bool = False,
    driver: Expression | None = None,
) -> tuple[Select[Any], Mapping[str, Any]]:
    """Return the statement of a page, as `Shape` says, and its parameters: a row for each version,
    and one more that is not shown. A row has the values of the order's columns, the model's name,
    the number, the body, metrics if it was evaluated, and aliases.
    """
    values: dict[str, Any] = {"limit": query.limit, "rows": query.limit + 1, "bytes": BODIES_MAX}
    if scope.model_id is not None:
        values["model_id"] = scope.model_id
    if scope.within is not None:
        ids = [*scope.within]
        values["within"] = json.dumps(ids) if dialect == "sqlite" else ids
    after = query.after
    if after is not None:
        values |= {f"after_{index}": each for index, each in enumerate(after.values)}
        values |= {"after_model": after.model, "after_number": after.number}
    shape = Shape(
        dialect=dialect,
        where=query.where,
        order=query.order,
        of_one=scope.model_id is not None,
        within=None if scope.within is None else len(scope.within) <= _FEW,
        after=None if after is None else tuple(each is not None for each in after.values),
        lacking=lacking,
        driver=driver,
    )
    return _statement(shape), values


@lru_cache(maxsize=_KEPT)
def _statement(shape: Shape) -> Select[Any]:
    return _Selection(shape).statement()


class _Selection:
    """Writes the statement of a page."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        first = shape.order[0].field
        is_parted = not shape.of_one and first.kind in KINDS
        self._lacked = first if is_parted and shape.lacking else None
        self._had = first if is_parted and not shape.lacking else None
        self._where: list[ColumnElement[bool]] = []
        self._anchor: FromClause = model_version
        keys = None if shape.driver is None else keys_of(shape.driver)
        self._is_sorted = keys is None and self._had is not None
        if keys is not None:
            self._anchor = keys.subquery("driver")
        elif self._is_sorted:
            row = self._anchor = _sorted
            self._where += [row.c.kind == KINDS[first.kind], row.c.key == first.key]
        self._id: ColumnElement[int] = self._anchor.c.repository_id
        self._number: ColumnElement[int] = self._anchor.c.number
        self._matching = Matching(shape.dialect, self._id, self._number)
        found = [each for key in shape.order for each in self._of_key(key)]
        self._columns = found if keys is None else [each.unindexed() for each in found]
        self._filter()

    def _of_key(self, key: SortKey) -> Iterator[_Column]:
        field, down = key.field, key.descending
        if field == self._lacked:
            yield from (_Column(null(), down, True) for _ in columns((key,)))
        elif field.kind in KINDS:
            is_there = field == self._had
            if field.kind is not Kind.TAG:
                number = self._value(field, "number_value")
                yield _Column(number, down, not is_there or field.kind is Kind.PARAM)
            if field.kind is not Kind.METRIC:
                text = _beginning(self._value(field, "text_value"))
                yield _Column(text, down, not is_there)
        elif field == VERSION:
            yield _Column(self._number, down, False)
        elif field.key in SPARSE:
            text = _beginning(attribute(field.key))
            yield _Column(func.nullif(text, "", type_=String()), down, True)
        else:
            yield _Column(attribute(field.key), down, False)

    def _value(self, field: Field, column: str) -> ColumnElement[Any]:
        if field == self._had and self._is_sorted:
            found: ColumnElement[Any] = self._anchor.c[column]
            return found
        return self._matching.sort_value(field, column)

    def _filter(self) -> None:
        # Those with it are the anchor's rows, unless the anchor is another.
        if self._lacked is not None:
            self._where.append(self._matching.holds(Presence(self._lacked, present=False)))
        elif self._had is not None and not self._is_sorted:
            self._where.append(self._matching.holds(Presence(self._had, present=True)))
        # They are looked up in this order, until one does not hold.
        for each in sorted(conjuncts(self._shape.where), key=_is_wide):
            if each != self._shape.driver:
                self._where.append(self._on_anchor(each))
        if self._shape.of_one:
            self._where.append(self._id == bindparam("model_id"))
        if self._shape.within is not None:
            self._where.append(self._is_within(are_few=self._shape.within))
        if self._shape.after is not None:
            self._where.append(self._is_after(self._shape.after))

    def _on_anchor(self, each: Expression) -> ColumnElement[bool]:
        """Return whether it holds; of the anchor's own field, so that its index bounds the scan."""
        if isinstance(each, Comparison) and each.field == self._had and self._is_sorted:
            return self._matching.value(self._anchor, each.operator, each.values)
        return self._matching.holds(each)

    def _is_within(self, *, are_few: bool) -> ColumnElement[bool]:
        # With a sum there is no index to go by: many models are no way to find anything.
        of = self._id if are_few else self._id + 0
        if self._shape.dialect == "sqlite":
            ids = func.json_each(bindparam("within", type_=String()))
            return of.in_(select(ids.table_valued("value").c.value))
        return of == func.any(bindparam("within", type_=ARRAY(Integer)))

    def _is_after(self, after: Sequence[bool]) -> ColumnElement[bool]:
        """Return whether a version comes after the position: in its first column that differs."""
        ties = self._ties()
        values: list[ColumnElement[Any] | None] = [
            bindparam(f"after_{index}", type_=each.of.type) if is_there else None
            for index, (each, is_there) in enumerate(zip(self._columns, after, strict=True))
        ]
        if len(ties) == 2:  # noqa: PLR2004 - a model and a number
            model_id = select(_last.c.id).where(_last.c.name == bindparam("after_model"))
            values.append(model_id.scalar_subquery())
        if ties:
            values.append(bindparam("after_number", type_=Integer()))
        either: list[ColumnElement[bool]] = []
        same: list[ColumnElement[bool]] = []
        for column, value in zip([*self._columns, *ties], values, strict=True):
            beyond = column.after(value)
            if beyond is not None:
                either.append(and_(*same, beyond))
            if not column.is_constant:
                same.append(column.same(value))
        found = or_(*either)
        first, value = self._columns[0], values[0]
        if value is None or first.lacking:
            return found
        # It follows from the rest, and no planner sees that it bounds a scan.
        bound = first.of <= value if first.descending else first.of >= value
        return and_(bound, found)

    def _ties(self) -> list[_Column]:
        """Return what orders versions that are equal so far: as the index of the anchor does."""
        fields = {each.field for each in self._shape.order}
        down = self._shape.order[-1].descending
        if VERSION in fields and (self._shape.of_one or MODEL in fields):
            return []
        number = _Column(self._number, down, lacking=False)
        if self._shape.of_one:
            return [number]
        return [_Column(self._id, down, lacking=False), number]

    def _source(self) -> FromClause:
        """Return the anchor, and what the statement needs beside it."""
        found = self._anchor
        used = {each.key for each in self._fields() if each.kind is Kind.ATTRIBUTE}
        if used - {"version", "model"} and self._anchor is not model_version:
            found = found.join(
                model_version,
                and_(
                    model_version.c.repository_id == self._id,
                    model_version.c.number == self._number,
                ),
            )
        if "model" in used:
            found = found.join(repository, repository.c.id == self._id)
        return found

    def _fields(self) -> Iterator[Field]:
        for each in self._shape.order:
            yield each.field
        if self._shape.where is not None:
            for condition in conditions(self._shape.where):
                yield condition.field

    def statement(self) -> Select[Any]:
        """Return the statement that `page_of` describes."""
        sought = [*self._columns, *self._ties()]
        keys = select(
            self._id.label("repository_id"),
            self._number.label("number"),
            *(each.of.label(f"sort_{index}") for index, each in enumerate(self._columns)),
        ).select_from(self._source())
        order = [part for each in sought for part in each.order()]
        page = keys.where(*self._where).order_by(*order).limit(bindparam("rows", type_=Integer()))
        return self._shown(page.subquery("page"))

    def _shown(self, page: Subquery) -> Select[Any]:
        sort = [
            _Column(page.c[f"sort_{index}"], each.descending, each.lacking)
            for index, each in enumerate(self._columns)
        ]
        ties = [
            _Column(page.c[each.of.key or ""], each.descending, lacking=False)
            for each in self._ties()
        ]
        order = [part for each in [*sort, *ties] for part in each.order()]
        place = func.row_number().over(order_by=order)
        size = func.sum(func.length(model_version.c.body)).over(order_by=order, rows=(None, 0))
        limit = bindparam("limit", type_=Integer())
        is_shown = and_(
            place <= limit, or_(place == 1, size <= bindparam("bytes", type_=Integer()))
        )
        return (
            select(
                *(page.c[f"sort_{index}"] for index in range(len(self._columns))),
                repository.c.name,
                model_version.c.number,
                case((is_shown, model_version.c.body)).label("body"),
                _metrics(page).label("metrics"),
                _aliases(page).label("aliases"),
            )
            .select_from(page)
            .join(
                model_version,
                and_(
                    model_version.c.repository_id == page.c.repository_id,
                    model_version.c.number == page.c.number,
                ),
            )
            .join(repository, repository.c.id == page.c.repository_id)
            .order_by(*order)
        )


def _is_wide(each: Expression) -> bool:
    """Tell whether it may hold of most versions: what is equal to something is the least of all."""
    narrow = (Operator.EQUAL, Operator.IN)
    return not (isinstance(each, Comparison) and each.operator in narrow)


def _metrics(page: Subquery) -> ColumnElement[str]:
    row = _measured
    each = row.c.key + WITHIN + row.c.text_value
    evaluated = (
        select(evaluation.c.number)
        .where(
            evaluation.c.repository_id == page.c.repository_id,
            evaluation.c.number == page.c.number,
        )
        .exists()
    )
    measured = (
        select(func.aggregate_strings(each, BETWEEN))
        .where(
            row.c.repository_id == page.c.repository_id,
            row.c.number == page.c.number,
            # By primary key: SQLite would have it that an index on the kind is as good.
            row.c.kind + "" == KINDS[Kind.METRIC],
        )
        .scalar_subquery()
    )
    return case((evaluated, measured))


def _aliases(page: Subquery) -> ColumnElement[str]:
    row = _pointing
    return (
        select(func.aggregate_strings(row.c.name, BETWEEN))
        .where(row.c.repository_id == page.c.repository_id, row.c.number == page.c.number)
        .scalar_subquery()
    )


def _beginning(text: ColumnElement[Any]) -> ColumnElement[str]:
    return func.substr(text, 1, TEXT_MAX, type_=String())

"""Searching versions in SQL. `ports.SearchRows`.

A page is one statement (`ordering.py`). Versions that lack the first sort key come after all
others, so a page that reaches them takes a second one: an order over both would have to sort all.
Where all models are searched, one more finds which condition is narrow enough to begin with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.exc import DBAPIError

from mlext.errors import SearchSlow
from mlext.filters import Comparison, Expression, Operator
from mlext.pages import MODEL, Found, Page, Position, Query, columns
from mlext.records import Metrics
from mlext.storage.matching import KINDS, keys_of
from mlext.storage.ordering import BETWEEN, WITHIN, Scope, conjuncts, page_of
from mlext.storage.schema import model
from ociserver.refs import RepositoryName, Tag
from ociserver.storage.schema import repository
from ociserver.storage.transaction import SqlTransaction, known_repository

# No search of a person takes as long, on any size that was measured.
_SECONDS = 3.0
# SQLite's instructions between two looks at the clock, which are then thousands a second.
_STEPS = 20_000
# So many versions, for each condition, are looked at one by one sooner than enough that hold of all
# are met in the order of an index.
_FEW = 2_500
# Conditions whose versions are counted, up to that.
_COUNTED = 8
_INTERRUPTED = 9
_CANCELED = "57014"
# For this transaction. The best plan depends on the values, and compiling one is for statements
# that run for seconds.
_hurry = select(
    func.set_config("statement_timeout", str(int(_SECONDS * 1000)), True),
    func.set_config("plan_cache_mode", "force_custom_plan", True),
    func.set_config("jit", "off", True),
)


class SearchSql(SqlTransaction):
    """`ports.SearchRows`."""

    def model_names(self) -> Sequence[RepositoryName]:
        names = select(repository.c.name).join(model, model.c.repository_id == repository.c.id)
        return [RepositoryName(each) for each in self._db.execute(names).scalars()]

    def found(self, query: Query) -> Page:
        with self._hurried():
            scope = self._scope(query)
            if scope is None:
                return Page((), None)
            driver = self._driver(query) if scope.model_id is None else None
            if query.order[0].field.kind not in KINDS or scope.model_id is not None:
                return self._page(query, scope, driver=driver)
            return self._page_of_both(query, scope, driver)

    def _scope(self, query: Query) -> Scope | None:
        """Return where to search, None for nowhere."""
        name = query.model or _model_asked(query.where)
        model_id = None
        if name is not None:
            where = {"repository": name}
            model_id = self._db.execute(known_repository, where).scalar_one_or_none()
            if model_id is None or (query.within is not None and name not in query.within):
                return None
        if name is not None or query.within is None:
            return Scope(model_id)
        ids = self._db.execute(select(repository.c.id, repository.c.name))
        return Scope(None, [each.id for each in ids if each.name in query.within])

    def _driver(self, query: Query) -> Expression | None:
        """Return the condition that must hold and holds of the fewest versions, if these are few:
        no planner that knows averages alone finds it.
        """
        every = [*conjuncts(query.where)]
        few = _FEW * min(len(every), _COUNTED)
        found = [(each, keys) for each in every if (keys := keys_of(each)) is not None][:_COUNTED]
        if not found:
            return None
        counts = [
            select(func.count()).select_from(keys.limit(few + 1).subquery()).scalar_subquery()
            for _, keys in found
        ]
        counted = [*self._db.execute(select(*counts)).one()]
        fewest = min(counted)
        return found[counted.index(fewest)][0] if fewest <= few else None

    def _page_of_both(self, query: Query, scope: Scope, driver: Expression | None) -> Page:
        """Return those that have the first sort key, and after them those that lack it."""
        page = Page((), None)
        is_past = _is_past(query)
        if not is_past:
            page = self._page(query, scope, driver=driver)
            if page.following is not None or _requires(query):
                return page
        left = query.limit - len(page.found)
        rest = replace(query, limit=max(left, 1), after=query.after if is_past else None)
        then = self._page(rest, scope, driver=driver, lacking=True)
        if left == 0:
            return Page(page.found, then.found[0].position.model if then.found else None)
        return Page(page.found + then.found, then.following)

    def _page(
        self, query: Query, scope: Scope, *, driver: Expression | None, lacking: bool = False
    ) -> Page:
        asked = page_of(self._dialect, query, scope, driver=driver, lacking=lacking)
        rows = self._db.execute(*asked).all()
        shown = [row for row in rows if row.body is not None]
        following = RepositoryName(rows[len(shown)].name) if len(rows) > len(shown) else None
        return Page(tuple(map(_as_found, shown)), following)

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Raise SearchSlow for what takes longer than a search may."""
        if self._dialect == "postgresql":
            self._db.execute(_hurry)
            with _interrupted():
                yield
            return
        driver: Any = self._db.connection.driver_connection
        deadline = time.monotonic() + _SECONDS
        driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            with _interrupted():
                yield
        finally:
            driver.set_progress_handler(None, 0)


@contextmanager
def _interrupted() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", getattr(error.orig, "sqlstate", None))
        if code not in (_INTERRUPTED, _CANCELED):
            raise
        raise SearchSlow(
            f"the search took over {_SECONDS:.0f} seconds: a narrower filter is needed"
        ) from error


def _model_asked(where: Expression | None) -> RepositoryName | None:
    """Return the one model that the filter is about, if it is."""
    for each in conjuncts(where):
        match each:
            case Comparison(field, Operator.EQUAL, (str(name),)) if field == MODEL:
                return RepositoryName(name)
    return None


def _requires(query: Query) -> bool:
    """Tell whether the filter leaves none that lacks the first sort key."""
    return any(
        isinstance(each, Comparison) and each.field == query.order[0].field
        for each in conjuncts(query.where)
    )


def _is_past(query: Query) -> bool:
    """Tell whether the query goes on among those that lack the first sort key."""
    width = len(columns(query.order[:1]))
    return query.after is not None and all(each is None for each in query.after.values[:width])


def _as_found(row: Row[Any]) -> Found:
    *values, name, number, body, metrics, aliases = tuple(row)
    return Found(
        position=Position(tuple(values), RepositoryName(name), number),
        body=body,
        aliases=tuple(map(Tag, sorted(aliases.split(BETWEEN)))) if aliases else (),
        metrics=_as_metrics(metrics) if metrics else None,
    )


def _as_metrics(text: str) -> Metrics:
    measured = sorted(each.split(WITHIN) for each in text.split(BETWEEN))
    # One text is read faster than one for each.
    numbers = json.loads(f"[{','.join(value for _, value in measured)}]")
    return dict(zip((key for key, _ in measured), numbers, strict=True))

"""Finding versions and comparing two of them: the handlers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from mlext import comparison, filters, pages, versions
from mlext.errors import DocumentInvalid
from mlext.filters import Expression, quoted
from mlext.pages import Page, Query
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.web.answers import raw, rendered, shown
from mlext.web.asked import model_of, parameters, version_number, whole
from ociserver.auth.rules import Action
from ociserver.errors import Unavailable
from ociserver.extension import author_of
from ociserver.fresh import FreshCache
from ociserver.refs import RepositoryName, shortened
from ociserver.rendered import Rendered

_METRIC = re.compile(
    r"(?P<key>[^<>=!]+?)\s*(?P<how>!=|<=|>=|=|<|>)\s*(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)"
)
# Searches of all models that run at a time: each may take as long as a search may.
_AT_ONCE = 2
_PAGING = ("filter", "sort", "limit", "cursor")
# What may be asked for more than once: each must hold.
_REPEATED = ("tag", "metric")


class Listed(Rendered):
    """A page of one model's versions, as it is answered: to be asked for anew each time."""

    __slots__ = ()

    def __init__(self, model: RepositoryName, body: bytes) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        super().__init__(
            endpoint="versions",
            repository=model,
            etag=etag,
            validators=[(b"cache-control", b"private, no-cache"), (b"etag", etag.encode())],
            media_type="application/json",
            body=body,
        )


class SearchDoors:
    """Handlers of searches. `listed` keeps pages of one model for as long as they hold."""

    def __init__(self, catalog: ModelsCatalog, listed: FreshCache[bytes, Listed]) -> None:
        self._catalog = catalog
        self._listed = listed
        # The embedded catalog has a handful of readers, and others wait for one.
        self._everywhere = asyncio.Semaphore(_AT_ONCE)

    async def versions(self, request: Request) -> Response:
        """List versions of a model."""
        name = model_of(request)
        query = _query(request, name)

        def search(tx: ModelsTx) -> Page:
            page = tx.found(query)
            if not page.found:
                versions.the_model(tx, name)
            return page

        async def read() -> Listed:
            return Listed(name, _shown(query, await self._catalog.read(search)))

        if not pages.is_of_model_alone(query):
            return rendered(request, await read(), ())
        target, asked = request.scope["raw_path"], request.scope["query_string"]
        place = b"%s?%s" % (target, asked) if asked else target
        found = await self._listed.get_or_read(
            place, name, read, lambda page: len(page.body) + len(place)
        )
        return rendered(request, found, ())

    def at_hand(self, target: bytes) -> Rendered | None:
        """Return the answer to a GET or HEAD of exactly this target, if it is at hand and holds."""
        try:
            return self._listed.get(target)
        except Unavailable:
            return None  # whether it still holds cannot be told: the long way says so

    async def everywhere(self, request: Request) -> Response:
        """List versions of all models that the caller may pull."""
        query, may = _query(request, None), author_of(request).may

        def read(tx: ModelsTx) -> Page:
            page = tx.found(query)
            seen = {each.position.model for each in page.found} | {page.following}
            if all(each is None or may(Action.PULL, each, None) for each in seen):
                return page
            # Not filled up from what comes next: how far one had to read, and the cursor of the
            # last that was read, would tell of models that the caller may not know.
            open_to = frozenset(each for each in tx.model_names() if may(Action.PULL, each, None))
            return tx.found(replace(query, within=open_to))

        async with self._everywhere:
            page = await self._catalog.read(read)
        return raw(_shown(query, page))

    async def compare(self, request: Request) -> Response:
        """Say what differs between two versions of a model."""
        name = model_of(request)
        asked = parameters(request, ("base", "target"))
        for each in ("base", "target"):
            if each not in asked:
                raise DocumentInvalid(f"{each} is the number of a version, and is missing")
        numbers = [version_number(asked[each]) for each in ("base", "target")]

        def read(tx: ModelsTx) -> list[comparison.Side]:
            return [_side(tx, name, each) for each in numbers]

        base, target = await self._catalog.read(read)
        return shown({"model": name, **comparison.compare(base, target)})


def _side(tx: ModelsTx, name: RepositoryName, number: int) -> comparison.Side:
    version = versions.the_version(tx, name, number)
    run = tx.run_of(name, number) if version.run_id else None
    manifest = tx.manifest(name, version.digest)
    return comparison.Side(
        version=json.loads(version.body),
        metrics=tx.metrics(name, number),
        run=run.shown() if run else {},
        files=comparison.files_of(manifest.body) if manifest else None,
    )


def _shown(query: Query, page: Page) -> bytes:
    more = page.following is not None and page.found
    cursor = pages.cursor(query, page.found[-1].position) if more else None
    versions = b", ".join(each.shown() for each in page.found)
    return b'{"versions": [%s], "next_cursor": %s}' % (versions, json.dumps(cursor).encode())


def _query(request: Request, name: RepositoryName | None) -> Query:
    """Return what is asked for. Raises DocumentInvalid."""
    asked = parameters(request, (*_CONDITIONS, *_PAGING), repeated=_REPEATED)
    written = filters.parse(asked["filter"]) if "filter" in asked else None
    conditions = [
        _condition(key, value)
        for key, value in request.query_params.multi_items()
        if key in _CONDITIONS
    ]
    where = filters.together([*conditions, *([written] if written else [])])
    default = pages.OF_ALL if name is None else pages.OF_ONE
    query = Query(
        model=name,
        where=where,
        order=pages.parse_sort(asked["sort"]) if "sort" in asked else default,
        limit=whole(request, "limit", pages.LIMIT, most=pages.LIMIT_MAX),
    )
    if "cursor" not in asked:
        return query
    return replace(query, after=pages.parse_cursor(query, asked["cursor"]))


def _tag(text: str) -> str:
    """`team:fraud`, or `team` for any value."""
    key, colon, value = text.partition(":")
    if not key:
        raise DocumentInvalid("it is KEY:VALUE, or KEY for any value")
    field = f"tags.{quoted(key, '`')}"
    return f"{field} = {quoted(value)}" if colon else f"{field} is not null"


def _metric(text: str) -> str:
    """`f1>0.8`, or `f1` for any number."""
    found = _METRIC.fullmatch(text)
    if not text or (found is None and re.search("[<>=]", text)):
        raise DocumentInvalid("it is KEY, one of = != < <= > >=, and a number; or KEY for any")
    if found is None:
        return f"metrics.{quoted(text, '`')} is not null"
    return f"metrics.{quoted(found['key'], '`')} {found['how']} {found['number']}"


# Parameters that are short for conditions.
_CONDITIONS: Mapping[str, Callable[[str], str]] = {
    "stage": lambda value: f"stage = {quoted(value)}",
    "tag": _tag,
    "metric": _metric,
    "created_after": lambda value: f"created_at > {quoted(value)}",
    "created_before": lambda value: f"created_at < {quoted(value)}",
    "run_id": lambda value: f"run_id = {quoted(value)}",
}


def _condition(key: str, value: str) -> Expression:
    try:
        return filters.parse(_CONDITIONS[key](value))
    except DocumentInvalid as error:
        said = error.message.rpartition(": ")[2]
        raise DocumentInvalid(f"{key} {shortened(value)!r}: {said}") from error

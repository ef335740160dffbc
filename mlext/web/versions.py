"""Models, their versions, and what is said of these: the handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response

from mlext import documents, versions
from mlext.acts import act
from mlext.documents import document
from mlext.pages import LIMIT_MAX
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Evaluation, Model, rfc3339
from mlext.web import paging
from mlext.web.answers import Holding, held, shown
from mlext.web.asked import model_of, version_of
from ociserver.auth.rules import Action
from ociserver.errors import NameInvalid
from ociserver.extension import House, author_of
from ociserver.refs import parse_name

_ABOUT = frozenset(("owner", "task", "description"))


class VersionDoors:
    """Handlers of models and versions."""

    def __init__(self, house: House, catalog: ModelsCatalog, holding: Holding) -> None:
        self._house = house
        self._catalog = catalog
        self._holding = holding

    async def models(self, request: Request) -> Response:
        """List the models that the caller may see, by name."""
        may, page = author_of(request).may, paging.asked(request)
        last = _model_after(page.after)

        def read(tx: ModelsTx) -> Sequence[Model]:
            found = tx.models(last, page.more)
            if all(may(Action.PULL, each.name, None) for each in found):
                return found
            # Names alone, all in one statement: of very many models they may know a handful. No
            # page ends before it is full, for how far one had to look would tell of the others.
            names = sorted(each for each in tx.model_names() if each > last)
            open_to = (each for each in names if may(Action.PULL, each, None))
            return tx.models_named([*islice(open_to, page.more)])

        found = await self._catalog.read(read)
        return paging.answer(page, "models", found, _model, lambda each: each.name)

    async def model(self, request: Request) -> Response:
        """Return what is said of a model, and its aliases."""
        name = model_of(request)

        def read(tx: ModelsTx) -> dict[str, object]:
            found = versions.the_model(tx, name)
            aliases = {each.name: each.number for each in tx.aliases(name, "", LIMIT_MAX)}
            return {**_model(found), "aliases": aliases}

        return shown(await self._catalog.read(read))

    async def describe(self, request: Request) -> Response:
        """Change what is said of a model."""
        name, by = model_of(request), author_of(request)
        found = document(await self._house.body(request), _ABOUT)
        said = {key: documents.text(found, key) for key in found}
        following = await act(self._catalog, by, lambda doing: versions.describe(doing, name, said))
        return shown(_model(following))

    async def register(self, request: Request) -> Response:
        """Register a version of an artifact that was pushed."""
        name, by = model_of(request), author_of(request)
        asked = documents.registration(await self._house.body(request))
        made = await act(self._catalog, by, lambda doing: versions.register(doing, name, asked))
        answer = {"version": made.number, "version_id": made.id, "status": "registered"}
        return shown(answer, 201, Location=f"/v1/models/{name}/versions/{made.number}")

    async def version(self, request: Request) -> Response:
        """Return a version, as it is for good."""
        name, number = model_of(request), version_of(request)
        found = await self._catalog.read(lambda tx: versions.the_version(tx, name, number))
        return held(request, found.body, self._holding.immutable(name), f'"{found.id}"')

    async def evaluations(self, request: Request) -> Response:
        """List what was measured of a version since it was registered, the latest first."""
        name, number = model_of(request), version_of(request)
        page = paging.asked(request)

        def read(tx: ModelsTx) -> tuple[Mapping[str, float], Sequence[Evaluation], bool]:
            versions.the_version(tx, name, number)
            last = tx.evaluation(name, number, page.after) if page.after else None
            if page.after and last is None:
                raise paging.damaged()
            found, more = tx.evaluations_before(name, number, last, page.limit)
            return tx.metrics(name, number), found, more

        metrics, found, more = await self._catalog.read(read)
        return shown(
            {
                "version": number,
                "metrics": metrics,
                "evaluations": [each.shown() for each in found],
                "next_cursor": found[-1].id if more else None,
            }
        )

    async def evaluate(self, request: Request) -> Response:
        """Record metrics that were measured since."""
        name, number, by = model_of(request), version_of(request), author_of(request)
        metrics, dataset = documents.evaluation(await self._house.body(request))
        given = await act(
            self._catalog,
            by,
            lambda doing: versions.evaluate(doing, name, number, metrics, dataset),
        )
        return shown(given.shown(), 201)


def _model(found: Model) -> dict[str, object]:
    return {
        "model": found.name,
        "owner": found.owner,
        "task": found.task,
        "description": found.description,
        "latest_version": found.last_number,
        "created_at": rfc3339(found.created_at),
        "updated_at": rfc3339(found.updated_at),
        "updated_by": found.updated_by,
    }


def _model_after(cursor: str | None) -> str:
    """Return the name of the last model of the page before, empty for the first page."""
    try:
        return parse_name(cursor) if cursor else ""
    except NameInvalid as error:
        raise paging.damaged() from error

"""Models, their versions, and what is said of these: the handlers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mlext import documents, versions
from mlext.acts import act
from mlext.documents import document
from mlext.errors import CursorInvalid
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Model, rfc3339
from mlext.web.answers import Holding, held, shown
from mlext.web.asked import model_of, version_of
from ociserver.auth.rules import Action
from ociserver.errors import NameInvalid
from ociserver.extension import House, author_of
from ociserver.refs import parse_name

_ABOUT = frozenset(("owner", "task", "description"))
_PAGE = 100


class VersionDoors:
    """Handlers of models and versions."""

    def __init__(self, house: House, catalog: ModelsCatalog, holding: Holding) -> None:
        self._house = house
        self._catalog = catalog
        self._holding = holding

    async def models(self, request: Request) -> Response:
        """List the models that the caller may see, by name."""
        may = author_of(request).may
        last = _cursor(request)
        found: list[Model] = []
        while len(found) < _PAGE:
            page = await self._catalog.read(lambda tx: tx.models(last, _PAGE))  # noqa: B023 - awaited at once
            found += [each for each in page if may(Action.PULL, each.name, None)]
            if len(page) < _PAGE:
                break
            last = page[-1].name
        more = len(found) >= _PAGE
        page = found[:_PAGE]
        return shown(
            {
                "models": [_model(each) for each in page],
                "next_cursor": page[-1].name if more else None,
            }
        )

    async def model(self, request: Request) -> Response:
        """Return what is said of a model, and its aliases."""
        name = model_of(request)

        def read(tx: ModelsTx) -> dict[str, object]:
            found = versions.the_model(tx, name)
            aliases = {each.name: each.number for each in tx.aliases(name)}
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
        """Return what was measured of a version since it was registered."""
        name, number = model_of(request), version_of(request)

        def read(tx: ModelsTx) -> dict[str, object]:
            versions.the_version(tx, name, number)
            return {
                "version": number,
                "metrics": tx.metrics(name, number),
                "evaluations": [each.shown() for each in tx.evaluations(name, number)],
            }

        return shown(await self._catalog.read(read))

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


def _cursor(request: Request) -> str:
    """Return the name of the last model of the page before, empty for the first page."""
    text = request.query_params.get("cursor", "")
    try:
        return parse_name(text) if text else ""
    except NameInvalid as error:
        raise CursorInvalid("the cursor is damaged") from error

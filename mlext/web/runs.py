"""Runs: the handlers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mlext import documents, versions
from mlext.acts import act
from mlext.errors import DocumentInvalid, RunUnknown
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Run
from mlext.web.answers import shown
from ociserver.auth.rules import Action
from ociserver.errors import Denied
from ociserver.extension import House, author_of


class RunDoors:
    """Handlers of runs."""

    def __init__(self, house: House, catalog: ModelsCatalog) -> None:
        self._house = house
        self._catalog = catalog

    async def run(self, request: Request) -> Response:
        """Return a run, to who put it and who may pull what it made."""
        run_id, by = _run_id(request), author_of(request)

        def read(tx: ModelsTx) -> Run:
            found = tx.run(run_id)
            if found is not None and versions.may_know(tx, by, found):
                return found
            raise RunUnknown(f"there is no run {run_id} that {by.name} may know")

        return shown((await self._catalog.read(read)).shown())

    async def put(self, request: Request) -> Response:
        """Record a run, as far as it is known now."""
        run_id, by = _run_id(request), author_of(request)
        if not by.may_somewhere(Action.REGISTER):
            raise Denied(f"no rule lets {by.name} register anything")
        found = documents.document(await self._house.body(request), documents.RUN)
        said = documents.run(found)
        put = await act(self._catalog, by, lambda doing: versions.put_run(doing, run_id, said))
        return shown(put.shown())


def _run_id(request: Request) -> str:
    found = documents.identifier(request.path_params, "run_id")
    if not found:
        raise DocumentInvalid("a run has an id")
    return found

"""Gates: the handlers."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from mlext import aliases, documents
from mlext.acts import act
from mlext.errors import DocumentInvalid, GateUnknown
from mlext.gates import parse_gate
from mlext.ports import ModelsCatalog
from mlext.web import paging
from mlext.web.answers import shown
from ociserver.extension import House, author_of


class GateDoors:
    """Handlers of gates."""

    def __init__(self, house: House, catalog: ModelsCatalog) -> None:
        self._house = house
        self._catalog = catalog

    async def gates(self, request: Request) -> Response:
        """List gates, by id."""
        page = paging.asked(request)
        every = await self._catalog.read(lambda tx: tx.gates())
        # There are so few that none need be left where it is.
        found = [each for each in sorted(every.items()) if each[0] > (page.after or "")]
        return paging.answer(page, "gates", found, lambda each: _shown(*each), lambda each: each[0])

    async def gate(self, request: Request) -> Response:
        """Return a gate."""
        gate_id = _gate_id(request)
        found = await self._catalog.read(lambda tx: tx.gates().get(gate_id))
        if found is None:
            raise GateUnknown(f"there is no gate {gate_id}")
        return shown(_shown(gate_id, found))

    async def put(self, request: Request) -> Response:
        """Set a gate up, or change it."""
        gate_id, by = _gate_id(request), author_of(request)
        document = documents.parsed(await self._house.body(request), "the body")
        if isinstance(document, dict):
            document = {"name": gate_id, **document}
        gate = parse_gate(document)
        await act(self._catalog, by, lambda doing: aliases.put_gate(doing, gate_id, gate))
        return shown({"id": gate_id, **gate.to_json()})

    async def drop(self, request: Request) -> Response:
        """Take a gate away."""
        gate_id, by = _gate_id(request), author_of(request)
        await act(self._catalog, by, lambda doing: aliases.drop_gate(doing, gate_id))
        return Response(status_code=204)


def _gate_id(request: Request) -> str:
    found = documents.identifier(request.path_params, "gate_id")
    if not found:
        raise DocumentInvalid("a gate has an id")
    return found


def _shown(gate_id: str, body: bytes) -> dict[str, object]:
    return {"id": gate_id, **json.loads(body)}

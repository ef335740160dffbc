"""Lineage: the handlers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from mlext import ancestry, documents, versions
from mlext.acts import Act, act
from mlext.aliases import parse_alias
from mlext.ancestry import Direction, Question
from mlext.errors import DocumentInvalid
from mlext.lineage import Node, any_node
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.web.answers import shown
from mlext.web.asked import model_of, version_of, whole
from ociserver.extension import House, author_of
from ociserver.refs import shortened

_EDGE = frozenset(("type", "target"))
_DEPTH = 10
_DEPTH_MAX = 50


class LineageDoors:
    """Handlers of lineage."""

    def __init__(self, house: House, catalog: ModelsCatalog) -> None:
        self._house = house
        self._catalog = catalog

    async def of_version(self, request: Request) -> Response:
        """Say what a version came from, and what came from it."""
        name = model_of(request)
        number = version_of(request)
        by = author_of(request)
        # Read before anything is looked up: a bad one is told so of what is not there, too.
        asked = _question(request, "")

        def read(tx: ModelsTx) -> dict[str, object]:
            version = versions.the_version(tx, name, number)
            return ancestry.answer(tx, by, asked.at(version.digest))

        return shown(await self._catalog.read(read))

    async def of_node(self, request: Request) -> Response:
        """Say the same of any node, such as a dataset."""
        by = author_of(request)
        asked = _question(request, any_node(request.query_params.get("node", "")))
        return shown(await self._catalog.read(lambda tx: ancestry.answer(tx, by, asked)))

    async def add(self, request: Request) -> Response:
        """Record what else a version came from."""
        name = model_of(request)
        number = version_of(request)
        found = documents.document(await self._house.body(request), _EDGE)
        kind, target = documents.edge(found)

        def work(doing: Act) -> tuple[Node, bool]:
            version = versions.the_version(doing.tx, name, number)
            return version.digest, ancestry.add(doing, version, kind, target)

        source, added = await act(self._catalog, author_of(request), work)
        answer = {"source": source, "type": kind, "target": target}
        return shown(answer, 201 if added else 200)


def _question(request: Request, node: Node) -> Question:
    given = request.query_params
    alias = given.get("alias")
    return Question(
        node=node,
        direction=_direction(given.get("direction", Direction.BOTH)),
        depth=whole(request, "depth", _DEPTH, most=_DEPTH_MAX),
        alias=parse_alias(alias) if alias is not None else None,
    )


def _direction(text: str) -> Direction:
    try:
        return Direction(text)
    except ValueError as error:
        raise DocumentInvalid(
            f"direction {shortened(text)!r} is none of: {', '.join(Direction)}"
        ) from error

"""The endpoint table as it is served, of handlers that are only there to be named."""

from __future__ import annotations

from starlette.routing import Route

from mlext.web.aliases import AliasDoors
from mlext.web.gates import GateDoors
from mlext.web.places import places
from mlext.web.runs import RunDoors
from mlext.web.versions import VersionDoors
from ociserver.web.guard import Guard
from ociserver.web.pull import Pull
from ociserver.web.push import Push
from ociserver.web.routes import routes
from ociserver.web.service import Service
from ociserver.web.tokens import TokenDoor


def table() -> list[Route]:
    """Return every row of it."""
    extended = places(
        VersionDoors.__new__(VersionDoors),
        AliasDoors.__new__(AliasDoors),
        RunDoors.__new__(RunDoors),
        GateDoors.__new__(GateDoors),
    )
    return routes(
        Guard.__new__(Guard),
        Pull.__new__(Pull),
        Push.__new__(Push),
        Service.__new__(Service),
        TokenDoor.__new__(TokenDoor),
        extended=extended,
    )

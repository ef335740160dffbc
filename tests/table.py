"""The endpoint table as it is served, of handlers that are only there to be named."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from starlette.routing import Route

from mlext.web.places import Handlers, places
from ociserver.web.docs import Docs
from ociserver.web.guard import Guard
from ociserver.web.pull import Pull
from ociserver.web.push import Push
from ociserver.web.routes import routes
from ociserver.web.service import Service
from ociserver.web.tokens import TokenDoor


def table() -> list[Route]:
    """Return every row of it."""
    kinds = get_type_hints(Handlers)
    named: dict[str, Any] = {
        each.name: kinds[each.name].__new__(kinds[each.name]) for each in fields(Handlers)
    }
    return routes(
        Guard.__new__(Guard),
        Pull.__new__(Pull),
        Push.__new__(Push),
        Service.__new__(Service),
        Docs.__new__(Docs),
        tokens=TokenDoor.__new__(TokenDoor),
        extended=places(Handlers(**named)),
    )

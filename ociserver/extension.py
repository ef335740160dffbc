"""What an extension is to the registry: rows in its catalog, a say in what changes, and routes.

It is named by import string, so that nothing here knows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ociserver.admission import Admission, Author
from ociserver.auth.rules import Action
from ociserver.ports import Catalog, StoredBlob
from ociserver.registry import RegistryReader
from ociserver.rendered import Rendered

_EXTENSION = "mlext.extension:Models"

Handler = Callable[[Request], Awaitable[Response]]


class For(Enum):
    """Whom a method is for where it needs no right in a repository."""

    ANYONE = "anyone"
    STRANGERS = "anyone, at a bounded rate"
    THE_KNOWN = "those who say who they are"


Doors = Mapping[str, tuple[Handler, Action | For]]
# For a request, a blob, so many seconds and a Content-Disposition: a signed URL of the store's,
# None where this client is to have the bytes from us.
StoreUrl = Callable[[Request, StoredBlob, int, str], Awaitable[str | None]]
# Path, the name its metrics go by, and what each method leads to.
Place = tuple[str, str, Doors]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What an extension may use of the registry.

    `body` reads a request's body, in bounds. `is_public` tells of a repository whether anyone may
    pull from it, and `names_alias` of it and a tag whether a rule in force is about an alias of
    just this name there; both know at once. `origin` is our address as the client of a request has
    it. `blob` and `manifest` answer pulls, by the path parameters `name`, and `digest` or
    `reference`, of whoever was let in; they send nobody to the store. `alias_history` is for how
    many seconds what an alias pointed at stays for a rollback.
    """

    catalog: Catalog
    reader: RegistryReader
    store_url: StoreUrl
    alias_history: float
    body: Callable[[Request], Awaitable[bytes]]
    is_public: Callable[[str], bool]
    names_alias: Callable[[str, str], bool]
    origin: Callable[[Request], str]
    blob: Handler
    manifest: Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An extension at work. `offers` is what `_oci/ext/discover` says of it; `background` is what
    it does every so many seconds. `documents` are files that say in OpenAPI what its places answer.
    `at_hand` are asked for the answer to a GET or HEAD of a target
    before anything else is: they must know at once, and be right. `close` releases what it holds,
    once requests and background have ended and while the stores are still there.
    """

    admission: Admission
    places: Sequence[Place]
    offers: Sequence[Mapping[str, Any]] = ()
    documents: Sequence[Path] = ()
    background: Sequence[tuple[float, Callable[[], Awaitable[None]]]] = ()
    at_hand: Sequence[Callable[[bytes], Rendered | None]] = ()
    close: Callable[[], Awaitable[None]] | None = None


class Extension(Protocol):
    """What the import string names is a class of it."""

    # Row methods that the catalog's transactions get, as mixins of `storage.SqlTransaction`.
    rows: Sequence[type]

    def open(self, house: House) -> Opened:
        """Begin to work, inside a running event loop."""


def load() -> Extension:
    """Return the extension that this distribution has."""
    module, _, name = _EXTENSION.partition(":")
    found: Extension = getattr(import_module(module), name)()
    return found


def author_of(request: Request) -> Author:
    """Return who was admitted, as one who may change something."""
    author: Author = request.scope["lading.author"]
    return author

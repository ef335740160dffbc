"""The endpoint table: every path the registry answers, in the order it is tried, and the right that
each method needs.

A path that stands here and a method that does not is 405 with Allow; a path that does not is 404.
Names are matched loosely and parsed in the handler, so that a bad one is NAME_INVALID.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.errors import Denied, MethodUnsupported, NameInvalid, RouteUnknown
from ociserver.extension import Doors, For, Place
from ociserver.web.docs import Docs
from ociserver.web.guard import TOKEN_PATH, Guard
from ociserver.web.pull import Pull
from ociserver.web.push import Push
from ociserver.web.service import Service
from ociserver.web.tokens import TokenDoor

_UPLOADS = frozenset({"upload", "upload_begin"})
_BRINGS_BYTES = frozenset({"POST", "PATCH", "PUT"})


def routes(  # noqa: PLR0913 - one for each part of the table
    guard: Guard,
    pull: Pull,
    push: Push,
    service: Service,
    docs: Docs,
    *,
    tokens: TokenDoor | None,
    extended: Sequence[Place],
) -> list[Route]:
    """Return the table, with the places of extensions. A registry without rules has no tokens."""
    version: Doors = {"GET": (service.version, For.THE_KNOWN)}
    discover: Doors = {"GET": (service.discover, For.THE_KNOWN)}
    begin: Doors = {"POST": (push.begin_upload, Action.PUSH)}
    upload: Doors = {
        "GET": (push.status, Action.PUSH),
        "PATCH": (push.append, Action.PUSH),
        "PUT": (push.finish, Action.PUSH),
        # podman cancels with a token that may push and not delete.
        "DELETE": (push.cancel, Action.PUSH),
    }
    blob: Doors = {
        "GET": (pull.blob, Action.PULL),
        "DELETE": (push.delete_blob, Action.DELETE),
    }
    manifest: Doors = {
        "GET": (pull.manifest, Action.PULL),
        "PUT": (push.put_manifest, Action.PUSH),
        "DELETE": (push.delete_manifest, Action.DELETE),
    }
    table: list[Place] = [
        ("/v2/", "version", version),
        ("/v2", "version", version),
        ("/v2/_catalog", "catalog", {"GET": (pull.catalog, For.THE_KNOWN)}),
        ("/v2/_oci/ext/discover", "discover", discover),
        ("/v2/{name:path}/_oci/ext/discover", "discover", {"GET": (service.discover, Action.PULL)}),
        ("/v2/{name:path}/blobs/uploads/", "upload_begin", begin),
        ("/v2/{name:path}/blobs/uploads", "upload_begin", begin),
        ("/v2/{name:path}/blobs/uploads/{upload}", "upload", upload),
        ("/v2/{name:path}/blobs/{digest}", "blob", blob),
        ("/v2/{name:path}/manifests/{reference}", "manifest", manifest),
        ("/v2/{name:path}/tags/list", "tags", {"GET": (pull.tags, Action.PULL)}),
        ("/v2/{name:path}/referrers/{digest}", "referrers", {"GET": (pull.referrers, Action.PULL)}),
        ("/healthz", "health", {"GET": (service.alive, For.ANYONE)}),
        ("/readyz", "ready", {"GET": (service.ready, For.ANYONE)}),
        ("/metrics", "metrics", {"GET": (service.metrics, For.ANYONE)}),
        ("/openapi.json", "openapi", {"GET": (docs.document, For.STRANGERS)}),
        ("/docs", "docs", {"GET": (docs.page, For.STRANGERS)}),
    ]
    if tokens is not None:
        asking: Doors = {"GET": (tokens.get, For.STRANGERS), "POST": (tokens.post, For.STRANGERS)}
        table += [
            (TOKEN_PATH, "token", asking),
            ("/.well-known/jwks.json", "keys", {"GET": (tokens.keys, For.STRANGERS)}),
        ]
    table += extended
    return [Route(path, Endpoint(label, doors, guard)) for path, label, doors in table]


async def nothing_here(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand at the end of the table."""
    # A line feed ends what the table's patterns match: such a path has a bad name in it.
    if scope["path"].startswith("/v2/") and not scope["path"].isprintable():
        raise NameInvalid("a repository name has no control characters")
    raise RouteUnknown("nothing lives at this path")


class Endpoint:
    """One path. GET answers HEAD; `label` names it in the metrics."""

    def __init__(self, label: str, doors: Doors, guard: Guard) -> None:
        self.label = label
        self.doors = dict(doors)
        if "GET" in doors:
            self.doors["HEAD"] = doors["GET"]
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["lading.endpoint"] = self.label
        door = self.doors.get(scope["method"])
        if door is None:
            raise MethodUnsupported(
                f"{scope['method']} is not for this path", allow=tuple(sorted(self.doors))
            )
        handler, need = door
        if need is For.STRANGERS:
            self._guard.count(scope)
        elif need is not For.ANYONE:
            action = need if isinstance(need, Action) else None
            caller = scope["lading.caller"] = await self._guard.admit(scope, action)
            scope["lading.author"] = Author(
                name=caller.principal.name,
                may=caller.rights.allow,
                may_somewhere=caller.rights.allow_somewhere,
                holds=caller.holds,
                request_id=scope.get("lading.request_id", ""),
            )
        try:
            if self.label in _UPLOADS and scope["method"] in _BRINGS_BYTES:
                with self._guard.uploading(scope):
                    response = await handler(Request(scope, receive, send))
            else:
                response = await handler(Request(scope, receive, send))
        except Denied as error:
            if "lading.caller" in scope:
                asked = need if isinstance(need, Action) else self.label
                self._guard.note_denied(scope, asked, error)
            raise
        await response(scope, receive, send)

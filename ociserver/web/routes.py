"""The endpoint table: every path the registry answers, in the order it is tried.

A path that stands here and a method that does not is 405 with Allow; a path that does not is 404.
Names are matched loosely and parsed in the handler, so that a bad one is NAME_INVALID.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ociserver.errors import MethodUnsupported, NameInvalid, RouteUnknown
from ociserver.web.pull import Pull
from ociserver.web.push import Push
from ociserver.web.service import Service

Handler = Callable[[Request], Awaitable[Response]]


def routes(pull: Pull, push: Push, service: Service) -> list[Route]:
    """Return the table."""
    begin: dict[str, Handler] = {"POST": push.begin_upload}
    return [
        _route("/v2/", "version", {"GET": service.version}),
        _route("/v2", "version", {"GET": service.version}),
        _route("/v2/_catalog", "catalog", {"GET": pull.catalog}),
        _route("/v2/_oci/ext/discover", "discover", {"GET": service.discover}),
        _route("/v2/{name:path}/_oci/ext/discover", "discover", {"GET": service.discover}),
        _route("/v2/{name:path}/blobs/uploads/", "upload_begin", begin),
        _route("/v2/{name:path}/blobs/uploads", "upload_begin", begin),
        _route(
            "/v2/{name:path}/blobs/uploads/{upload}",
            "upload",
            {
                "GET": push.status,
                "PATCH": push.append,
                "PUT": push.finish,
                "DELETE": push.cancel,
            },
        ),
        _route(
            "/v2/{name:path}/blobs/{digest}",
            "blob",
            {"GET": pull.blob, "DELETE": push.delete_blob},
        ),
        _route(
            "/v2/{name:path}/manifests/{reference}",
            "manifest",
            {"GET": pull.manifest, "PUT": push.put_manifest, "DELETE": push.delete_manifest},
        ),
        _route("/v2/{name:path}/tags/list", "tags", {"GET": pull.tags}),
        _route("/v2/{name:path}/referrers/{digest}", "referrers", {"GET": pull.referrers}),
        _route("/healthz", "health", {"GET": service.alive}),
        _route("/readyz", "ready", {"GET": service.ready}),
        _route("/metrics", "metrics", {"GET": service.metrics}),
    ]


async def nothing_here(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand at the end of the table."""
    # A line feed ends what the table's patterns match: such a path has a bad name in it.
    if scope["path"].startswith("/v2/") and not scope["path"].isprintable():
        raise NameInvalid("a repository name has no control characters")
    raise RouteUnknown("nothing lives at this path")


def _route(path: str, label: str, handlers: Mapping[str, Handler]) -> Route:
    return Route(path, _Endpoint(label, handlers))


class _Endpoint:
    """One path. GET answers HEAD; `label` names it in the metrics."""

    def __init__(self, label: str, handlers: Mapping[str, Handler]) -> None:
        self._label = label
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["lading.endpoint"] = self._label
        handler = self._handlers.get(scope["method"])
        if handler is None:
            raise MethodUnsupported(
                f"{scope['method']} is not for this path", allow=tuple(sorted(self._handlers))
            )
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

"""What operators and scripts ask of the process itself: is it up, is it ready, what does it count;
and what clients ask of the registry as a whole: its version, its extensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ociserver.errors import Unavailable
from ociserver.ports import BlobStore, Catalog
from ociserver.refs import parse_name
from ociserver.web.observe import METRICS_TYPE, Metrics

# Less than the patience of those who probe.
_PROBE_SECONDS = 5
# Spec, extensions/_oci.md: name and endpoints of what the registry offers beyond the base.
_EXTENSIONS = (
    {
        "name": "_oci",
        "description": "lists the extensions of this registry",
        "endpoints": ["_oci/ext/discover"],
    },
    {
        "name": "_catalog",
        "description": "lists the repositories that hold a manifest",
        "endpoints": ["_catalog"],
    },
)


class Service:
    """Handlers that concern no repository."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        metrics: Metrics,
        *,
        offers: Sequence[Mapping[str, Any]],
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._metrics = metrics
        self._extensions = {"extensions": [*_EXTENSIONS, *offers]}

    async def version(self, _request: Request) -> Response:
        """end-1: yes, this is a registry."""
        return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    async def discover(self, request: Request) -> Response:
        """`_oci/ext/discover`, of the registry and of a repository."""
        if "name" in request.path_params:
            parse_name(request.path_params["name"])
        return JSONResponse(self._extensions)

    async def alive(self, _request: Request) -> Response:
        """Answer: the process is there."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Catalog and blob store answer, and could take a push. Raises Unavailable."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._catalog.read(lambda tx: tx.repositories("", 1))
                await self._blobs.check()
        except TimeoutError as error:
            raise Unavailable(f"a store has not answered in {_PROBE_SECONDS} seconds") from error
        return JSONResponse({"status": "ready"})

    async def metrics(self, _request: Request) -> Response:
        """Prometheus text."""
        return Response(self._metrics.exposition(), media_type=METRICS_TYPE)

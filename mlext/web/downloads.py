"""Downloads: addresses that anybody may fetch from for a while, and the fetching.

Such an address is good for whoever has it, until its time is over: a right that was taken away
since does not end it sooner, as it could not in the store. What is deleted since is gone at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from mlext import downloads
from mlext.downloads import Artifact, File, LinkKey
from mlext.links import Kind, Link, disposition, filename_of, signed_link
from mlext.ports import ModelsCatalog
from mlext.records import rfc3339
from mlext.web.answers import shown
from mlext.web.asked import whole
from ociserver.extension import Handler, House, author_of
from ociserver.ports import StoredBlob
from ociserver.refs import Digest, RepositoryName, parse_name

_SECONDS = 600
_SECONDS_MAX = 3_600
# Files that get an address of their own: those of the store take 0.3 ms each.
_ADDRESSED = 500
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request for addresses, all good for so many seconds, until then."""

    request: Request
    repository: RepositoryName
    seconds: int
    expires: int


class DownloadDoors:
    """Handlers of downloads."""

    def __init__(self, house: House, catalog: ModelsCatalog, key: LinkKey) -> None:
        self._house = house
        self._catalog = catalog
        self._key = key

    async def download(self, request: Request) -> Response:
        """Return an address of an artifact, and one of each of its files."""
        digest = Digest.parse(request.path_params["digest"])
        seconds = whole(request, "ttl", _SECONDS, most=_SECONDS_MAX)
        model = request.path_params.get("name") or request.query_params.get("model")
        repository = parse_name(model) if model is not None else None
        by = author_of(request)
        found = await self._catalog.read(lambda tx: downloads.artifact(tx, by, digest, repository))
        expires = int(time.time()) + seconds
        asked = _Asked(request, found.repository, seconds, expires)
        name = found.digest.replace(":", "-")
        name = name if found.stored is not None else f"{name}.json"
        url = await self._url(asked, found.digest, found.stored, name)
        return shown(
            {
                "url": url,
                "scheme": urlsplit(url).scheme,
                "expires_at": rfc3339(expires),
                "size_bytes": found.size,
                "digest": found.digest,
                "model": found.repository,
                "files": await self._files(asked, found),
            }
        )

    async def _files(self, asked: _Asked, found: Artifact) -> Sequence[dict[str, Any]]:
        files = []
        for number, each in enumerate(found.files):
            files.append(await self._file(asked, each, addressed=number < _ADDRESSED))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # to sign is work, and others wait
        return files

    async def _file(self, asked: _Asked, file: File, *, addressed: bool) -> dict[str, Any]:
        known = {"path": file.path, "digest": file.digest, "size_bytes": file.size}
        if file.stored is None or not addressed:
            return known
        name = filename_of(file.path, file.digest.replace(":", "-"))
        return {**known, "url": await self._url(asked, file.digest, file.stored, name)}

    async def _url(
        self, asked: _Asked, digest: Digest, stored: StoredBlob | None, filename: str
    ) -> str:
        """Return the store's own address where it has the bytes and the client may have it."""
        if stored is not None:
            url = await self._house.store_url(
                asked.request, stored, asked.seconds, disposition(filename)
            )
            if url is not None:
                return url
        link = Link(
            kind="manifests" if stored is None else "blobs",
            repository=asked.repository,
            digest=digest,
            filename=filename,
            expires=asked.expires,
        )
        return self._house.origin(asked.request) + link.address(await self._key.made())

    async def blob(self, request: Request) -> Response:
        """Serve a blob by a signed address."""
        return await self._fetched(request, "blobs", "digest", self._house.blob)

    async def manifest(self, request: Request) -> Response:
        """Serve a manifest by a signed address."""
        return await self._fetched(request, "manifests", "reference", self._house.manifest)

    async def _fetched(
        self, request: Request, kind: Kind, parameter: str, pull: Handler
    ) -> Response:
        name = parse_name(request.path_params["name"])
        digest = Digest.parse(request.path_params["digest"])
        now = time.time()
        key = await self._key.known()
        link = signed_link(kind, (name, digest), request.query_params, key, now)
        path = f"/v2/{name}/{kind}/{digest}"
        # As if it had been pulled: what is at hand for pulls is so by its path.
        inner = {
            "path": path,
            "raw_path": path.encode(),
            "path_params": {"name": name, parameter: digest},
        }
        answer = await pull(Request({**request.scope, **inner}, request.receive))
        answer.headers["Content-Disposition"] = disposition(link.filename)
        # It is in our name, and of whoever pushed it.
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Cache-Control"] = f"private, max-age={int(link.expires - now)}, immutable"
        return answer

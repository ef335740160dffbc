"""What a client may read: manifests, blobs, lists. Knows a `RegistryReader` and nothing behind it.

Everything that can fail with a status fails before the answer begins.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ociserver.auth.rules import Action
from ociserver.content import OCI_INDEX
from ociserver.errors import ClientGone, Unavailable
from ociserver.fresh import FreshCache
from ociserver.ports import BlobReader, StoredBlob, StoredManifest
from ociserver.refs import Digest, Reference, RepositoryName, parse_name, parse_reference
from ociserver.registry import RegistryReader
from ociserver.rendered import Rendered
from ociserver.web.guard import caller_of
from ociserver.web.headers import (
    ByteRange,
    is_unchanged,
    next_link,
    parse_page,
    parse_ranges,
    range_applies,
)
from ociserver.web.redirect import Redirects, sender_of

Headers = list[tuple[bytes, bytes]]

# Up to here one read and one write are cheaper than handing the file to the kernel.
_KERNEL_SENDS_ABOVE = 256 * 1024
# What a digest names never changes; what a tag names is asked for again each time.
_IMMUTABLE = (b"cache-control", b"max-age=31536000, immutable")
_REVALIDATE = (b"cache-control", b"no-cache")
# Spec, "Warnings": code 299, agent "-". Clients show it to a person.
_STALE = (b"warning", b'299 - "stale: the catalog is out of reach, this may be outdated"')


class Pull:
    """Handlers of the endpoints that read (end-1 to end-3, end-8, end-12)."""

    def __init__(
        self,
        reader: RegistryReader,
        answers: FreshCache[bytes, ManifestAnswer],
        *,
        page_limit: int,
        referrers_limit: int,
        redirects: Redirects | None,
    ) -> None:
        self._reader = reader
        self._answers = answers
        self._page_limit = page_limit
        self._referrers_limit = referrers_limit
        self._redirects = redirects

    def streaming(self) -> Pull:
        """Return the same handlers, which send nobody to the store."""
        return Pull(
            self._reader,
            self._answers,
            page_limit=self._page_limit,
            referrers_limit=self._referrers_limit,
            redirects=None,
        )

    def hot_manifest(self, target: bytes) -> ManifestAnswer | None:
        """Return the answer to a GET or HEAD of exactly this target, if it is at hand and holds."""
        try:
            return self._answers.get(target)
        except Unavailable:
            return None  # whether it still holds cannot be told: the long way says so

    async def manifest(self, request: Request) -> Response:
        """end-3: the bytes as they were pushed."""
        name = parse_name(request.path_params["name"])
        reference = parse_reference(request.path_params["reference"])

        async def render() -> ManifestAnswer:
            found = await self._reader.manifest(name, reference)
            return ManifestAnswer(name, found, reference, self._reader.lifetime(found, reference))

        target = request.scope["raw_path"]
        warning: Headers = []
        try:
            answer = await self._answers.get_or_read(
                target,
                name,
                render,
                lambda found: len(found.body),
                lifetime=lambda found: found.lifetime,
            )
        except Unavailable:
            if (held := self._answers.stale(target)) is None:
                raise
            answer, warning = held, [_STALE]
        if is_unchanged(_if_none_match(request), answer.etag):
            return _answer(304, [*answer.validators, *warning])
        response = _answer(200, [*answer.fields, *warning])
        response.body = answer.body
        return response

    async def blob(self, request: Request) -> Response:
        """end-2: the whole, one range, or several as multipart/byteranges."""
        name = parse_name(request.path_params["name"])
        digest = Digest.parse(request.path_params["digest"])
        asks = request.method == "HEAD"
        stored = await (self._reader.held_blob if asks else self._reader.blob)(name, digest)
        etag = f'"{digest}"'
        if is_unchanged(_if_none_match(request), etag):
            return _answer(304, _blob_headers(digest))
        if asks:
            return _answer(200, [*_blob_headers(digest), _length(stored.size), _OCTETS])
        asked = request.headers.get("range")
        if asked is not None and not range_applies(request.headers.get("if-range"), etag):
            asked = None
        ranges = parse_ranges(asked, stored.size)
        # A store that signs URLs answers one range, not several.
        if self._redirects is not None and (ranges is None or len(ranges) == 1):
            location = await self._redirects.location(*sender_of(request), stored)
            if location is not None:
                return _answer(307, [*_redirected(digest), (b"location", location.encode())])
        first = (ranges[0].start, ranges[0].length) if ranges else None
        return _BlobResponse(await self._reader.open_blob(stored, first), digest, stored, ranges)

    async def tags(self, request: Request) -> Response:
        """end-8: tags in byte order, by pages."""
        name = parse_name(request.path_params["name"])
        page = parse_page(*_paging(request), maximum=self._page_limit)
        found = await self._reader.tags(name, page.last, page.limit + 1)
        shown = found[: page.limit]
        return _page(
            request, {"name": name, "tags": list(shown)}, shown, more=len(found) > len(shown)
        )

    async def catalog(self, request: Request) -> Response:
        """`_catalog`: what holds a manifest and may be pulled from, in byte order, by pages."""
        page = parse_page(*_paging(request), maximum=self._page_limit)
        rights = caller_of(request).rights
        found = await self._reader.repositories(
            page.last, page.limit + 1, lambda name: rights.allow(Action.PULL, name)
        )
        shown = found[: page.limit]
        return _page(request, {"repositories": list(shown)}, shown, more=len(found) > len(shown))

    async def referrers(self, request: Request) -> Response:
        """end-12: an index of the manifests that have this subject."""
        name = parse_name(request.path_params["name"])
        subject = Digest.parse(request.path_params["digest"])
        artifact_type = request.query_params.get("artifactType") or None
        page = parse_page(*_paging(request), maximum=self._referrers_limit)
        shown, following = await self._reader.referrers(
            name, subject, artifact_type, (page.last, page.limit)
        )
        headers = {}
        if artifact_type:
            headers["OCI-Filters-Applied"] = "artifactType"
        if following and page.limit:
            query = {"artifactType": artifact_type} if artifact_type else {}
            headers["Link"] = next_link(request.url.path, **query, n=page.limit, last=following)
        # The descriptors are JSON already: rendered once, when each was pushed.
        body = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (
            OCI_INDEX.encode(),
            b",".join(shown),
        )
        return Response(body, media_type=OCI_INDEX, headers=headers)


def _if_none_match(request: Request) -> str | None:
    return ",".join(request.headers.getlist("if-none-match")) or None


def _paging(request: Request) -> tuple[str | None, str | None]:
    return request.query_params.get("n"), request.query_params.get("last")


def _page(request: Request, document: object, shown: Sequence[str], *, more: bool) -> Response:
    headers = {}
    if more and shown:
        headers["Link"] = next_link(request.url.path, n=len(shown), last=shown[-1])
    return Response(json.dumps(document), media_type="application/json", headers=headers)


# -- manifests


class ManifestAnswer(Rendered):
    """A manifest. `lifetime` is for how many seconds it may be given."""

    __slots__ = ("lifetime",)

    def __init__(
        self,
        repository: RepositoryName,
        found: StoredManifest,
        reference: Reference,
        lifetime: float,
    ) -> None:
        etag = f'"{found.digest}"'
        super().__init__(
            endpoint="manifest",
            repository=repository,
            etag=etag,
            validators=[
                (b"docker-content-digest", found.digest.encode()),
                (b"etag", etag.encode()),
                _IMMUTABLE if reference == found.digest else _REVALIDATE,
            ],
            media_type=found.media_type,
            body=found.body,
        )
        self.lifetime = lifetime


# -- blobs

_OCTETS = (b"content-type", b"application/octet-stream")


def _length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def _blob_headers(digest: Digest) -> Headers:
    return [
        (b"docker-content-digest", digest.encode()),
        (b"etag", b'"%s"' % digest.encode()),
        (b"accept-ranges", b"bytes"),
        _IMMUTABLE,
    ]


def _redirected(digest: Digest) -> Headers:
    # The URL is good for minutes: the answer that names it must not be kept.
    return [
        (b"docker-content-digest", digest.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"0"),
    ]


def _answer(status: int, headers: Headers) -> Response:
    response = Response(status_code=status)
    response.raw_headers = headers
    return response


class _BlobResponse(Response):
    """Bytes of an open blob, which it closes."""

    def __init__(
        self,
        source: BlobReader,
        digest: Digest,
        stored: StoredBlob,
        ranges: Sequence[ByteRange] | None,
    ) -> None:
        self._source = source
        self._parts: list[tuple[bytes, ByteRange]]
        self._tail = b""
        headers = _blob_headers(digest)
        size = stored.size
        if ranges is None:
            self.status_code = 200
            self._parts = [(b"", ByteRange(0, size - 1))]
            headers.append(_OCTETS)
        elif len(ranges) == 1:
            self.status_code = 206
            self._parts = [(b"", ranges[0])]
            headers += [_OCTETS, (b"content-range", ranges[0].content_range(size).encode())]
        else:
            self.status_code = 206
            boundary = secrets.token_hex(16)
            self._parts = [(_part_head(boundary, one, size), one) for one in ranges]
            self._tail = b"\r\n--%s--\r\n" % boundary.encode()
            kind = f"multipart/byteranges; boundary={boundary}"
            headers.append((b"content-type", kind.encode()))
        total = sum(len(head) + one.length for head, one in self._parts) + len(self._tail)
        self.raw_headers = [*headers, _length(total)]
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            for head, one in self._parts:
                await self._send_part(head, one, scope, receive, send)
            await send({"type": "http.response.body", "body": self._tail})
        finally:
            self._source.close()

    async def _send_part(
        self, head: bytes, one: ByteRange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        file = self._source.fileno()
        send_file = scope.get("extensions", {}).get("lading.sendfile")
        if one.length <= _KERNEL_SENDS_ABOVE:
            piece = await self._source.read(one.start, one.length)
            await send({"type": "http.response.body", "body": head + piece, "more_body": True})
        elif send_file is None or file is None:
            await self._copy(head, one, receive, send)
        else:
            await send({"type": "http.response.body", "body": head, "more_body": True})
            if not await send_file(file, one.start, one.length):
                raise ClientGone
            await send(
                {"type": "http.response.body", "body": b"", "more_body": True, "sent": one.length}
            )

    async def _copy(self, head: bytes, one: ByteRange, receive: Receive, send: Send) -> None:
        """Send through this process: under TLS, or from a store the kernel cannot send from."""
        left = asyncio.ensure_future(_departure(receive))
        try:
            async for piece in self._source.stream(one.start, one.length):
                if left.done():
                    raise ClientGone
                await send({"type": "http.response.body", "body": head + piece, "more_body": True})
                head = b""
        finally:
            left.cancel()


def _part_head(boundary: str, one: ByteRange, size: int) -> bytes:
    return (
        f"\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n"
        f"content-range: {one.content_range(size)}\r\n\r\n"
    ).encode()


async def _departure(receive: Receive) -> None:
    """Return when the client is gone: uvicorn's `send` would go on into nothing."""
    while (await receive())["type"] != "http.disconnect":
        pass

"""What a client may write: uploads, manifests, deletions (end-4 to end-7, end-9 to end-14)."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from ociserver.errors import RequestInvalid, SizeInvalid
from ociserver.extension import author_of
from ociserver.refs import (
    Digest,
    RepositoryName,
    parse_algorithm,
    parse_name,
    parse_reference,
    parse_tag,
    shortened,
)
from ociserver.registry import Pushed, RegistryWriter
from ociserver.sessions import Body, Uploads
from ociserver.upload import UploadSession, parse_chunk, received_range
from ociserver.web.body import BodyLimits, RequestBody
from ociserver.web.guard import caller_of
from ociserver.web.observe import Metrics

log = logging.getLogger("lading.web")

# Each is answered by a header, and clients take a hundred of these (Python's http.client).
_TAGS = 64


class Push:
    """Handlers of the endpoints that write."""

    def __init__(
        self,
        writer: RegistryWriter,
        uploads: Uploads,
        metrics: Metrics,
        *,
        limits: BodyLimits,
    ) -> None:
        self._writer = writer
        self._uploads = uploads
        self._metrics = metrics
        self._limits = limits

    # -- uploads

    async def begin_upload(self, request: Request) -> Response:
        """end-4a, end-4b, end-4c, end-11: open a session, or have the blob at once."""
        name = parse_name(request.path_params["name"])
        query, caller = request.query_params, caller_of(request)
        if mounted := query.get("mount"):
            digest = Digest.parse(mounted)
            source = parse_name(query["from"]) if query.get("from") else None
            if await self._writer.mount(name, digest, source, caller.may_mount_from):
                return _created(f"/v2/{name}/blobs/{digest}", digest)
        elif wanted := query.get("digest"):
            digest = Digest.parse(wanted)
            owner = caller.principal.name
            await self._uploads.receive_whole(name, digest, self._body(request), owner)
            return _created(f"/v2/{name}/blobs/{digest}", digest)
        algorithm = parse_algorithm(query.get("digest-algorithm", "sha256"))
        return _progress(202, await self._uploads.begin(name, algorithm, caller.principal.name))

    async def append(self, request: Request) -> Response:
        """end-5: a chunk, or a stream without Content-Range."""
        session = await self._uploads.append(*_upload(request), self._body(request))
        return _progress(202, session)

    async def finish(self, request: Request) -> Response:
        """end-6: the rest, if any, and the digest."""
        name, upload_id = _upload(request)
        digest = Digest.parse(request.query_params.get("digest", ""))
        await self._uploads.finish(name, upload_id, digest, self._body(request))
        return _created(f"/v2/{name}/blobs/{digest}", digest)

    async def status(self, request: Request) -> Response:
        """end-13: how much is durable."""
        return _progress(204, await self._uploads.settled(*_upload(request)))

    async def cancel(self, request: Request) -> Response:
        """end-14."""
        await self._uploads.cancel(*_upload(request))
        return Response(status_code=204)

    def _body(self, request: Request) -> Body:
        return Body(
            into=self._incoming(request).into,
            length=_content_length(request),
            chunk=parse_chunk(request.headers.get("content-range")),
            limit=self._limits.blob_bytes,
        )

    def _incoming(self, request: Request) -> RequestBody:
        return RequestBody(request.scope, self._limits.pace, self._metrics.received.inc)

    # -- manifests and deletions

    async def put_manifest(self, request: Request) -> Response:
        """end-7: the manifest, and with it its tags and its place in a referrers list."""
        name = parse_name(request.path_params["name"])
        reference = parse_reference(request.path_params["reference"])
        tags = [parse_tag(text) for text in request.query_params.getlist("tag")]
        if tags and not isinstance(reference, Digest):
            raise RequestInvalid("'tag' parameters go with a push by digest (end-7b)")
        if len(tags) > _TAGS:
            raise RequestInvalid(f"there are more than {_TAGS} 'tag' parameters")
        body = await self._incoming(request).whole(
            declared=_content_length(request), limit=self._limits.manifest_bytes
        )
        pushed = await self._writer.put_manifest(
            name,
            reference,
            body,
            request.headers.get("content-type"),
            tags=tags,
            by=author_of(request),
        )
        response = _created(f"/v2/{name}/manifests/{pushed.digest}", pushed.digest)
        if pushed.subject:
            response.headers["OCI-Subject"] = pushed.subject
        for tag in tags:
            response.headers.append("OCI-Tag", tag)
        if pushed.missing:
            self._warn_of_sparse(name, pushed, response)
        return response

    def _warn_of_sparse(self, name: RepositoryName, pushed: Pushed, response: Response) -> None:
        self._metrics.sparse.inc()
        fields = {"repository": name, "digest": pushed.digest, "missing": pushed.missing[:10]}
        log.warning("sparse manifest", extra={"fields": fields})
        # Spec, "Warnings": code 299, agent "-", no date.
        response.headers["Warning"] = (
            f'299 - "{len(pushed.missing)} of what this manifest names is not in {name}, '
            f'such as {pushed.missing[0]}"'
        )

    async def delete_manifest(self, request: Request) -> Response:
        """end-9: a tag alone, or a manifest with all its tags."""
        name = parse_name(request.path_params["name"])
        reference = parse_reference(request.path_params["reference"])
        await self._writer.delete_manifest(name, reference, author_of(request))
        return Response(status_code=202)

    async def delete_blob(self, request: Request) -> Response:
        """end-10: from this repository; others keep it."""
        name = parse_name(request.path_params["name"])
        await self._writer.delete_blob(name, Digest.parse(request.path_params["digest"]))
        return Response(status_code=202)


def _upload(request: Request) -> tuple[RepositoryName, str]:
    return parse_name(request.path_params["name"]), request.path_params["upload"]


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise SizeInvalid(f"Content-Length {shortened(text)!r} is not a number of bytes")
    return int(text)


def _created(location: str, digest: Digest) -> Response:
    return Response(
        status_code=201, headers={"Location": location, "Docker-Content-Digest": digest}
    )


def _progress(status: int, session: UploadSession) -> Response:
    return Response(
        status_code=status,
        headers={
            "Location": f"/v2/{session.repository}/blobs/uploads/{session.id}",
            "Range": received_range(session.offset),
            "Docker-Upload-UUID": session.id,
        },
    )

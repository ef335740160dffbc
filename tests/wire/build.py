"""What these tests push: names of their own, bytes nobody else has, manifests over them."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from tests.serving import Served, digest_of
from tests.wire.raw import eventually

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCTETS = "application/octet-stream"
MIB = 1 << 20

# The spec's table "Error Codes", complete.
SPEC_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}

noise = os.urandom


def new_repository() -> str:
    return f"wire/{uuid.uuid4().hex}"


def descriptor(body: bytes, media_type: str = OCTETS, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body), **fields}


def image(*layers: bytes, **fields: Any) -> bytes:
    """Return an image manifest over these layers and an empty config."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [descriptor(layer) for layer in layers],
    }
    return json.dumps({**document, **fields}).encode()


def index(*children: bytes, **fields: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(child, OCI_MANIFEST) for child in children],
    }
    return json.dumps({**document, **fields}).encode()


def unique_image(**fields: Any) -> bytes:
    """Return an image manifest that nobody else has."""
    return image(**fields, x=uuid.uuid4().hex)


def put_manifest(  # noqa: PLR0913 - the parts of one request
    client: httpx.Client,
    repository: str,
    reference: str,
    body: bytes,
    media_type: str = OCI_MANIFEST,
    *,
    tags: list[str] | None = None,
) -> httpx.Response:
    answer = client.put(
        f"/v2/{repository}/manifests/{reference}",
        params={"tag": tags} if tags else None,
        content=body,
        headers={"content-type": media_type},
    )
    assert answer.status_code == 201, answer.text
    return answer


def begin(client: httpx.Client, repository: str, **parameters: str) -> str:
    """Open an upload session; return where it is."""
    begun = client.post(f"/v2/{repository}/blobs/uploads/", params=parameters or None)
    assert begun.status_code == 202, begun.text
    return begun.headers["location"]


def offset_of(client: httpx.Client, location: str) -> int:
    """Return how many bytes the registry says it has of an upload of at least one byte."""
    status = client.get(location)
    assert status.status_code == 204, status.text
    return int(status.headers["range"].partition("-")[2]) + 1


def resume(client: httpx.Client, location: str, body: bytes) -> int:
    """Go on as a client does: ask for the offset, send the rest. Return the offset that held."""
    guesses = itertools.count()

    def attempt() -> int | None:
        at = offset_of(client, location)
        if at == 1:
            # `0-0` says one byte or none: the spec has no form for none.
            at = next(guesses) % 2
        fields = {"content-range": f"{at}-{len(body) - 1}"}
        answer = client.patch(location, content=body[at:], headers=fields)
        # The server may not have seen yet that the connection is gone.
        assert answer.status_code in {202, 409, 416}, answer.text
        return at + 1 if answer.status_code == 202 else None

    return eventually(attempt) - 1


def pages(client: httpx.Client, target: str) -> Iterator[httpx.Response]:
    """Yield the pages of a list, following Link to the end."""
    while True:
        page = client.get(target)
        assert page.status_code == 200, page.text
        yield page
        if "next" not in page.links:
            return
        target = page.links["next"]["url"]


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    """Assert that the answer is the spec's error envelope with this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    [error] = answer.json()["errors"]
    assert error["code"] == code
    assert code in SPEC_CODES
    assert error["message"]


# -- what lies on disk


def files_of(served: Served) -> list[Path]:
    return [path for path in (served.data / "blobs").rglob("*") if path.is_file()]


def files_holding(served: Served, body: bytes) -> list[Path]:
    return [
        path
        for path in files_of(served)
        if path.stat().st_size == len(body) and path.read_bytes() == body
    ]


def rows(served: Served, statement: str) -> list[tuple[Any, ...]]:
    """Ask the catalog itself."""
    with closing(sqlite3.connect(f"file:{served.data}/catalog.db?mode=ro", uri=True)) as db:
        return db.execute(statement).fetchall()


def open_files(served: Served) -> int:
    """Return how many descriptors the registry's process holds."""
    assert served.process is not None
    return sum(1 for _ in Path(f"/proc/{served.process.pid}/fd").iterdir())

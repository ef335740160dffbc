"""The registry's API as threads of a fault test speak it: plain http.client, no retry, no pool.

One `Connection` belongs to one thread. An answer nobody expected is a `Refused`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from threading import Event
from typing import Any, Self

from tests.serving import digest_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.lading.fault"
_EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": digest_of(b"{}"),
    "size": 2,
}
_NEXT = re.compile(r'<([^>]+)>; *rel="?next"?')


class Refused(AssertionError):
    """The answer is not one that the request may get."""

    def __init__(self, request: str, answer: Answer) -> None:
        super().__init__(f"{request}: {answer.status} {answer.body[:300]!r}")
        self.status = answer.status


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def digest(self) -> str:
        """The digest the server names, once the body hashes to it."""
        named = self.headers["Docker-Content-Digest"]
        assert digest_of(self.body, named.partition(":")[0]) == named
        return named

    @property
    def offset(self) -> int:
        """How many bytes an upload says it holds; `0-0` stands for none (no test sends one)."""
        last = int(self.headers["Range"].removeprefix("0-"))
        return last + 1 if last else 0


class Connection:
    """One connection to the registry on loopback; no answer is heard once `deaf_from` is set."""

    def __init__(self, port: int, *, deaf_from: Event | None = None) -> None:
        self.http = HTTPConnection("127.0.0.1", port, timeout=60)
        self._deaf_from = deaf_from

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def local_port(self) -> int:
        """Which of our ports it uses: so a worker's socket can be told to be its other end."""
        if self.http.sock is None:
            self.http.connect()
        return int(self.http.sock.getsockname()[1])

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (),
    ) -> Answer:
        """Send one request; raises Refused where the status is not one of those expected."""
        self.http.request(method, path, body or None, dict(headers or {}))
        response = self.http.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        if self._deaf_from is not None and self._deaf_from.is_set():
            raise ConnectionError("nobody hears this answer")
        if expect and answer.status not in expect:
            raise Refused(f"{method} {path}", answer)
        return answer

    def begin(self, repository: str) -> str:
        """Open an upload; return where it is."""
        begun = self.ask("POST", f"/v2/{repository}/blobs/uploads/", expect=[202])
        return begun.headers["Location"]

    def put_manifest(
        self, repository: str, reference: str, body: bytes, *, expect: Sequence[int] = (201,)
    ) -> Answer:
        return self.ask(
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            body,
            headers={"Content-Type": OCI_MANIFEST},
            expect=expect,
        )

    def listed(self, path: str, key: str) -> list[Any]:
        """Return every entry of a list, page after page."""
        entries: list[Any] = []
        following: str | None = path
        while following:
            page = self.ask("GET", following, expect=[200])
            entries += json.loads(page.body)[key]
            link = _NEXT.search(page.headers.get("Link") or "")
            following = link[1] if link else None
        return entries

    def tags(self, repository: str, page: int = 100) -> list[str]:
        return self.listed(f"/v2/{repository}/tags/list?n={page}", "tags")

    def referrers(self, repository: str, subject: str, page: int = 100) -> list[str]:
        """Return the digests of the manifests that have this subject."""
        path = f"/v2/{repository}/referrers/{subject}?n={page}"
        return [str(each["digest"]) for each in self.listed(path, "manifests")]


def finishing(location: str, digest: str) -> str:
    """Return where the PUT that ends an upload goes."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def manifest_of(
    note: str, *, layers: Sequence[tuple[str, int]] = (), subject: tuple[str, int] | None = None
) -> bytes:
    """Return an image manifest, one of a kind by its note."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": _EMPTY,
        "layers": [
            {"mediaType": "application/octet-stream", "digest": digest, "size": size}
            for digest, size in layers
        ],
        "annotations": {"org.lading.note": note},
    }
    if subject:
        digest, size = subject
        document["subject"] = {"mediaType": OCI_MANIFEST, "digest": digest, "size": size}
    return json.dumps(document).encode()

"""S3 as HTTP/1.1 puts it on the wire: heads, bodies, and which operation a request asks for.

What is read here can be passed on byte for byte: a signature covers headers as they were sent, so
a head keeps its raw form, and a body yields its frames as they came beside what they carry.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Operation = Literal[
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteObject",
    "DeleteObjects",
    "GetObject",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListMultipartUploads",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "Other",
    "PutObject",
    "UploadPart",
    "UploadPartCopy",
]

_PIECE = 64 * 1024
_NO_BODY = {204, 304}

# Method, whether the path names an object, a key of the query; the first row that fits.
_OPERATIONS: tuple[tuple[str, bool, str | None, Operation], ...] = (
    ("GET", False, "uploads", "ListMultipartUploads"),
    ("GET", False, "list-type", "ListObjectsV2"),
    ("GET", False, None, "ListObjects"),
    ("POST", False, "delete", "DeleteObjects"),
    ("PUT", False, None, "CreateBucket"),
    ("HEAD", False, None, "HeadBucket"),
    ("DELETE", False, None, "DeleteBucket"),
    ("POST", True, "uploads", "CreateMultipartUpload"),
    ("POST", True, "uploadId", "CompleteMultipartUpload"),
    ("DELETE", True, "uploadId", "AbortMultipartUpload"),
    ("GET", True, "uploadId", "ListParts"),
    ("PUT", True, "uploadId", "UploadPart"),
    ("PUT", True, None, "PutObject"),
    ("GET", True, None, "GetObject"),
    ("HEAD", True, None, "HeadObject"),
    ("DELETE", True, None, "DeleteObject"),
)
_COPIES: dict[Operation, Operation] = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
# A query with one of these asks about something beside the object or the bucket itself.
_BESIDE = {
    "acl", "attributes", "cors", "encryption", "lifecycle", "location", "object-lock", "policy",
    "restore", "tagging", "versioning", "versions",
}  # fmt: skip


class Head:
    """The first line and the headers of a request or an answer, and its raw bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        self.first = first.split(" ")
        self._headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Self | None:
        """Read one; none when the peer closed instead of beginning one."""
        try:
            return cls(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None

    def get(self, name: str) -> str:
        return self._headers.get(name.lower(), "")

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def length(self) -> int | None:
        """How long the body is: none when only its frames or its end tell."""
        if self.is_chunked:
            return None
        stated = self.get("content-length")
        return int(stated) if stated else None

    @property
    def is_last(self) -> bool:
        """Whether the connection ends after this."""
        return self.get("connection").lower() == "close"


class Request(Head):
    """A client's head, read as S3 does."""

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.first[1]).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.first[1]).query, keep_blank_values=True)

    @property
    def expects_continue(self) -> bool:
        return self.get("expect").lower() == "100-continue"

    @property
    def operation(self) -> Operation:
        query = self.query
        bucket, _, key = self.path.lstrip("/").partition("/")
        if not bucket:
            return "ListBuckets" if self.method == "GET" else "Other"
        if _BESIDE & query.keys():
            return "Other"
        for method, names_object, wanted, operation in _OPERATIONS:
            if (method, names_object) == (self.method, bool(key)) and (
                wanted is None or wanted in query
            ):
                copies = self.get("x-amz-copy-source") != ""
                return _COPIES.get(operation, operation) if copies else operation
        return "Other"


class Answer(Head):
    """A server's head."""

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def is_interim(self) -> bool:
        return 100 <= self.status < 200


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a body: as it came, and the content in it."""

    wire: bytes
    content: bytes


def request_body(request: Request, reader: asyncio.StreamReader) -> AsyncGenerator[Piece, None]:
    """Read a request's body, piece by piece; without a length it has none."""
    return _chunks(reader) if request.is_chunked else _sized(reader, request.length or 0)


def has_body(request: Request, answer: Answer) -> bool:
    return request.method != "HEAD" and answer.status not in _NO_BODY and answer.length != 0


def answer_body(
    request: Request, answer: Answer, reader: asyncio.StreamReader
) -> AsyncGenerator[Piece, None]:
    """Read an answer's body, piece by piece; without a length it goes on until the end."""
    if not has_body(request, answer):
        return _sized(reader, 0)
    if answer.length is not None:
        return _sized(reader, answer.length)
    return _chunks(reader) if answer.is_chunked else _until_end(reader)


def with_other_etags(part: bytes) -> bytes:
    """Return a head or an XML body of the same length, each ETag in it another one."""
    return re.sub(
        rb"(?i)(\r\netag:|<etag>)([^\r<]*)", lambda found: found[1] + _other(found[2]), part
    )


def _other(etag: bytes) -> bytes:
    next_digit = bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0")
    # In XML the quotes are entities, which may have digits of their own.
    return re.sub(
        rb"(&[^;]*;)|[0-9a-f]+", lambda found: found[1] or found[0].translate(next_digit), etag
    )


async def _sized(reader: asyncio.StreamReader, left: int) -> AsyncGenerator[Piece, None]:
    while left:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield Piece(piece, piece)


async def _chunks(reader: asyncio.StreamReader) -> AsyncGenerator[Piece, None]:
    while True:
        line = await reader.readuntil(b"\r\n")
        yield Piece(line, b"")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        async for piece in _sized(reader, size):
            yield piece
        yield Piece(await reader.readexactly(2), b"")
    while line != b"\r\n":  # trailers, and the empty line that ends them
        line = await reader.readuntil(b"\r\n")
        yield Piece(line, b"")


async def _until_end(reader: asyncio.StreamReader) -> AsyncGenerator[Piece, None]:
    while piece := await reader.read(_PIECE):
        yield Piece(piece, piece)

"""What a client of the faulty proxy hears: answers made up, and true ones bent on their way.

Nothing here opens a connection or knows a rule; `tests/faulty.py` decides which answer is bent.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from tests.s3_wire import Answer, Operation, Piece, Request, with_other_etags

Refusal = Literal["slow_down", "internal"]
Bend = Literal["cut_answer", "lost_answer", "slow", "wrong_etag"]

# A success can be made up without the server for these only: the rest answer with what it holds.
LOSABLE: frozenset[Operation] = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "DeleteObject",
        "DeleteObjects",
        "PutObject",
        "UploadPart",
    }
)

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SLOW_PARTS = 10
_REFUSALS: dict[Refusal, tuple[str, str, str]] = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "internal": ("500 Internal Server Error", "InternalError", "We met an internal error."),
}


class Cut(ConnectionError):
    """The client's connection is to end now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A true answer as the server gives it: a head, and a body of a length that may be unknown."""

    answer: Answer
    body: AsyncGenerator[Piece, None]
    length: int | None

    @property
    def is_xml(self) -> bool:
        return "xml" in self.answer.get("content-type")


def refusal(fault: Refusal, request: Request) -> bytes:
    """Make up an error that S3 may answer anything with."""
    status, code, message = _REFUSALS[fault]
    return _answer(
        request,
        status,
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        f"<RequestId>{secrets.token_hex(8).upper()}</RequestId></Error>",
    )


def pretended(request: Request, body: bytes, etag: str) -> bytes:
    """Make up a success; the ETag is that of the request's body."""
    match request.operation:
        case "DeleteObjects":
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode(), re.DOTALL)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return _answer(request, "200 OK", f"<DeleteResult>{deleted}</DeleteResult>")
        case "CompleteMultipartUpload":
            bucket, _, key = request.path.lstrip("/").partition("/")
            return _answer(
                request,
                "200 OK",
                f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                f"<ETag>&quot;{etag}-1&quot;</ETag></CompleteMultipartUploadResult>",
            )
        case "PutObject" | "UploadPart":
            return _answer(request, "200 OK", headers=(f'ETag: "{etag}"',))
        case _:
            return _answer(request, "204 No Content")


def bent(how: Bend | None, whole: Whole, seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield what of a true answer is passed on, part by part; raise Cut where it ends too soon."""
    if how == "slow":
        return _dribbled(whole, seconds)
    ways: dict[Bend | None, Callable[[Whole], AsyncGenerator[bytes, None]]] = {
        None: _as_it_is,
        "cut_answer": _cut_in_the_middle,
        "lost_answer": _swallowed,
        "wrong_etag": _with_other_etags,
    }
    return ways[how](whole)


async def _as_it_is(whole: Whole) -> AsyncGenerator[bytes, None]:
    yield whole.answer.raw
    async for piece in whole.body:
        yield piece.wire


async def _cut_in_the_middle(whole: Whole) -> AsyncGenerator[bytes, None]:
    head = whole.answer.raw
    if whole.length == 0:
        yield head[: len(head) // 2]
        raise Cut
    yield head
    left = (whole.length or 2) // 2
    async for piece in whole.body:
        yield piece.wire[:left]
        left -= len(piece.wire)
        if left <= 0:
            raise Cut


async def _swallowed(whole: Whole) -> AsyncGenerator[bytes, None]:
    async for _ in whole.body:
        yield b""
    raise Cut


async def _with_other_etags(whole: Whole) -> AsyncGenerator[bytes, None]:
    yield with_other_etags(whole.answer.raw)
    if whole.is_xml:  # small, and an ETag in it may lie across two pieces
        yield with_other_etags(b"".join([piece.wire async for piece in whole.body]))
    async for piece in whole.body:
        yield piece.wire


async def _dribbled(whole: Whole, seconds: float) -> AsyncGenerator[bytes, None]:
    if whole.length == 0:
        await asyncio.sleep(seconds)
        yield whole.answer.raw
        return
    yield whole.answer.raw
    size = -(-(whole.length or 1) // _SLOW_PARTS)
    async for piece in whole.body:
        for start in range(0, len(piece.wire), size):
            part = piece.wire[start : start + size]
            await asyncio.sleep(seconds / _SLOW_PARTS * len(part) / size)
            yield part


def _answer(request: Request, status: str, xml: str = "", headers: tuple[str, ...] = ()) -> bytes:
    body = (_DECLARATION + xml).encode() if xml else b""
    lines = [f"HTTP/1.1 {status}", *headers]
    if xml:
        lines.append("Content-Type: application/xml")
    if not status.startswith("204"):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if request.method == "HEAD" else head + body

"""uvicorn's HTTP protocol with what a registry's front door needs and uvicorn leaves open.

Limits on the head of a request, error envelopes for what never reaches the application, an end to
connections that neither send nor read, and files sent by the kernel. Framing itself is llhttp's
(httptools): it refuses Transfer-Encoding beside Content-Length, two lengths, and bare line feeds.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from ociserver.errors import ClientGone
from ociserver.threads import in_thread
from ociserver.web.errors import envelope

# What one call of sendfile may move: large enough that threads cost little, small enough that a
# slow disk holds none for long.
_SEND_BYTES = 4 * 1024 * 1024
_SENDERS = 16
_REFUSED_BYTES = 64 * 1024

# What is taken from the socket ahead of the application.
_BODY_BYTES = 1024 * 1024
# Of a body at least this much more is taken from the socket without the parser.
_PAST_PARSER_FROM = 256 * 1024
_HOT_METHODS = (b"GET", b"HEAD")
_VERSIONS = ("1.0", "1.1")
_BODY_HEADERS = (b"content-length", b"transfer-encoding")

SendFile = Callable[[int, int, int], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Bounds on a request before its body, and on how long a connection may keep us waiting."""

    target_bytes: int
    header_bytes: int
    header_count: int
    idle_seconds: float


@dataclass(slots=True)
class RequestHead:
    """A request without a body, as it came; `date` is the line our answer carries."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    client: str
    date: bytes

    def if_none_match(self) -> str | None:
        """Return the header of that name, its lines joined (RFC 9110 section 5.3)."""
        lines = [value for name, value in self.headers if name == b"if-none-match"]
        return b",".join(lines).decode("latin-1") if lines else None

    def authorization(self) -> bytes | None:
        """Return the header of that name; lines that contradict each other are nobody's."""
        lines = [value for name, value in self.headers if name == b"authorization"]
        return b",".join(lines) if lines else None


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Body:
    """One request's body: what came of it and was not yet asked for, and what is still to come."""

    __slots__ = ("chunks", "left", "past_parser", "size")

    def __init__(self, length: int) -> None:
        self.chunks: deque[memoryview] = deque()
        self.size = 0
        self.left = length
        self.past_parser = False

    def add(self, chunk: bytes) -> None:
        """Keep a chunk that the parser gave."""
        self.chunks.append(memoryview(chunk))
        self.size += len(chunk)

    def move(self, memory: memoryview) -> int:
        """Move what is here to the start of the memory; return how many bytes fitted."""
        moved = 0
        while self.chunks and moved < len(memory):
            chunk = self.chunks.popleft()
            count = min(len(chunk), len(memory) - moved)
            memory[moved : moved + count] = chunk[:count]
            moved += count
            if count < len(chunk):
                self.chunks.appendleft(chunk[count:])
        self.size -= moved
        return moved


class LadingProtocol(HttpToolsProtocol):
    """One client connection."""

    live: ClassVar[set[LadingProtocol]] = set()
    _senders: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(_SENDERS, thread_name_prefix="send")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.live.add(self)
        self.app: Any  # a FrontDoor
        self.limits: HeadLimits = self.app.limits
        self.active_at = self.loop.time()
        self._refused: _Refused | None = None
        self._answered_hot = False
        self._head_is_whole = True
        # Requests that wait for their answer, in their order.
        self._cycles: list[RequestResponseCycle] = []
        # Bytes that came since a head, a piece of a body or a message was last whole.
        self._nowhere = 0
        self._came_further = False
        self._body = _Body(0)

    def connection_lost(self, exc: Exception | None) -> None:
        self.live.discard(self)
        self._forsake()
        super().connection_lost(exc)

    # -- the head of a request

    def data_received(self, data: bytes) -> None:
        if self._body.past_parser and self._body.left:
            data = self._behind_body(data)
            if not data:
                return
        # llhttp calls back once a header, or a trailer, is whole: what never ends is counted here.
        self._came_further = False
        super().data_received(data)
        self._nowhere = 0 if self._came_further else self._nowhere + len(data)
        if self._nowhere > self.limits.header_bytes + self.limits.target_bytes:
            self._nowhere = 0
            self._refused = _Refused(431, f"the headers are over {self.limits.header_bytes} bytes")
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.active_at = self.loop.time()
        self._header_bytes = 0
        self._hosts = 0
        self._has_body = False
        self._length = 0
        self._head_is_whole = False
        self._came_further = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.target_bytes:
            self._refuse(414, f"the request target is over {self.limits.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_is_whole:
            return  # a trailer: it comes after the body and changes nothing (RFC 9110 section 6.5)
        super().on_header(name, value)
        name = self.headers[-1][0]
        self._header_bytes += len(name) + len(value)
        if name == b"host":
            self._hosts += 1
        elif name in _BODY_HEADERS:
            self._has_body = True
            if name == b"content-length":
                self._length = int(value)  # llhttp has checked that it is one
            # RFC 9112 section 6.1: what we cannot decode we do not take for the bytes themselves.
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._refuse(400, "chunked is the only transfer coding")
        if self._header_bytes > self.limits.header_bytes:
            self._refuse(431, f"the headers are over {self.limits.header_bytes} bytes")
        if len(self.headers) > self.limits.header_count:
            self._refuse(431, f"there are more than {self.limits.header_count} headers")

    def on_headers_complete(self) -> None:
        self._head_is_whole = self._came_further = True
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self._refuse(400, "the request is not HTTP/1.1")
        # RFC 9112 section 3.2: one Host, or 400.
        if self._hosts != 1 and version == "1.1":
            self._refuse(400, "an HTTP/1.1 request has exactly one Host header")
        self._answered_hot = self._answer_hot()
        if self._answered_hot:
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        self._unanswered().append(self.cycle)
        self._body = _Body(self._length)
        # The task that this began runs later.
        extensions: dict[str, Any] = {
            "lading.body": partial(self._body_into, self.cycle, self._body)
        }
        if self.scheme == "http":
            extensions["lading.sendfile"] = partial(self._send_file, self.cycle)
        self.cycle.scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        self._came_further = True
        if not self._answered_hot:
            super().on_message_complete()

    def _answer_hot(self) -> bool:
        """Answer at once what needs no wait, if nothing is under way on this connection."""
        parser = self.parser
        method = parser.get_method()
        if (
            method not in _HOT_METHODS
            or self._has_body
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
            or not parser.should_keep_alive()
        ):
            return False
        client = self.client[0] if self.client else ""
        answer = self.app.answer_hot(
            RequestHead(method, self.url, self.headers, client, self._date())
        )
        if answer is None:
            return False
        self.transport.write(answer)
        return True

    def _date(self) -> bytes:
        return b"".join(b"%s: %s\r\n" % pair for pair in self.server_state.default_headers)

    def on_response_complete(self) -> None:
        self.active_at = self.loop.time()
        super().on_response_complete()

    def _unanswered(self) -> list[RequestResponseCycle]:
        self._cycles = [each for each in self._cycles if not each.response_complete]
        return self._cycles

    def _forsake(self) -> None:
        """Tell all who still work on an answer that nobody is there to have it."""
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()

    def _refuse(self, status: int, message: str) -> None:
        self._refused = _Refused(status, message)
        raise self._refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for a person
        """Answer what llhttp, or a limit, refused, and close: the rest cannot be told apart."""
        if self.transport.is_closing():
            return
        asked = self._unanswered()
        if asked and (asked[-1].response_started or not asked[-1].more_body):
            # What was asked before has its answer first, and nothing behind it.
            asked[-1].keep_alive = False
            self.flow.pause_reading()
            return
        self._forsake()
        if len(asked) > 1:
            self.transport.abort()
            return
        refused = self._refused or _Refused(400, "the request is not well-formed HTTP/1.1")
        body = envelope("UNSUPPORTED", refused.message)
        client = self.client[0] if self.client else ""
        request_id = self.app.note_refused(refused.status, client, len(body))
        self.transport.write(
            STATUS_LINE[refused.status]
            + self._date()
            + b"x-request-id: %s\r\n" % request_id.encode()
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    # -- bodies

    def on_body(self, body: bytes) -> None:
        self._body.left -= len(body)
        self._came_further = True
        if self.cycle.response_complete:
            return
        self._body.add(body)
        if self._body.size > _BODY_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    async def _body_into(self, cycle: RequestResponseCycle, body: _Body, memory: memoryview) -> int:
        """Fill the start of the memory with what comes next; return how many bytes, 0 at the end.

        Raises ClientGone. ASGI's `receive` would make an object of every 64 KiB and copy it thrice.
        """
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        # What came before the client left still counts: an upload resumes behind it.
        while not body.size:
            if not cycle.more_body:
                return 0
            if cycle.disconnected or cycle.response_complete:
                raise ClientGone
            if body.left >= _PAST_PARSER_FROM and self.scheme == "http":
                body.past_parser = True
            if body.past_parser and (came := self._from_socket(body, memory)):
                return came
            self.flow.resume_reading()
            await cycle.message_event.wait()
            cycle.message_event.clear()
        return body.move(memory)

    def _from_socket(self, body: _Body, memory: memoryview) -> int:
        """Take what the kernel has to where it is wanted, with no copy between; it may be nothing.

        llhttp does not see these bytes: behind the last one a parser is begun anew.
        """
        self.flow.pause_reading()
        socket = self.transport.get_extra_info("socket")
        try:
            came = os.readv(socket.fileno(), [memory[: body.left]])
        except OSError:
            return 0  # not yet, or no more: the transport will meet it and tell
        body.left -= came
        if not body.left:
            self._end_past_parser()
            self.flow.resume_reading()
        return came

    def _behind_body(self, data: bytes) -> bytes:
        """Take the part of the data that is the body's; return what follows it."""
        size = self._body.left
        self.on_body(data[:size])
        if not self._body.left:
            self._end_past_parser()
        return data[size:]

    def _end_past_parser(self) -> None:
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    # -- connections that keep us waiting

    @classmethod
    def close_overdue(cls) -> int:
        """Cut connections whose client owes us a request, or does not take what it asked for.

        A request that is being worked on is none of these: its body has a pace of its own.
        """
        overdue = [connection for connection in cls.live if connection.is_overdue()]
        for connection in overdue:
            connection.transport.abort()
        return len(overdue)

    def pause_writing(self) -> None:
        self.active_at = self.loop.time()
        super().pause_writing()

    def is_overdue(self) -> bool:
        idle = self.cycle is None or self.cycle.response_complete or self.flow.write_paused
        return idle and self.loop.time() - self.active_at > self.limits.idle_seconds

    # -- files to the socket

    async def _send_file(
        self, cycle: RequestResponseCycle, file: int, offset: int, count: int
    ) -> bool:
        """Send part of a file as part of the body begun; False when the client is gone."""
        self.transport.set_write_buffer_limits(high=0)
        # A number of our own: the transport may close its one while a thread still sends.
        socket = os.dup(self.transport.get_extra_info("socket").fileno())
        try:
            end = offset + count
            while offset < end:
                await self.flow.drain()
                if cycle.disconnected or self.transport.is_closing():
                    return False
                size = min(_SEND_BYTES, end - offset)
                sent, refused = await in_thread(
                    self._senders, _send_some, socket, file, offset, size
                )
                if refused:
                    # The transport waits for a socket that takes no more, and we for it.
                    self.transport.write(refused)
                elif sent == 0:
                    raise RuntimeError("the file ended before its recorded size")
                offset += sent + len(refused)
                self.active_at = self.loop.time()
            cycle.expected_content_length -= count
        except ConnectionError:
            return False
        finally:
            os.close(socket)
            self.transport.set_write_buffer_limits()
        return True


def _send_some(socket: int, file: int, offset: int, count: int) -> tuple[int, bytes]:
    """Return how much the socket took, and the next bytes where it takes nothing."""
    try:
        return os.sendfile(socket, file, offset, count), b""
    except BlockingIOError:
        return 0, os.pread(file, min(_REFUSED_BYTES, count), offset)

"""uvicorn's HTTP protocol with what a registry's front door needs and uvicorn leaves open.

Limits on the head of a request, error envelopes for what never reaches the application, an end to
connections that neither send nor read, and files sent by the kernel. Framing itself is llhttp's
(httptools): it refuses Transfer-Encoding beside Content-Length, two lengths, and bare line feeds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from starlette.types import ASGIApp
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from ociserver.threads import in_thread
from ociserver.web.errors import envelope

# What one call of sendfile may move: large enough that threads cost little, small enough that a
# slow disk holds none for long.
_SEND_BYTES = 4 * 1024 * 1024
_SENDERS = 16

# What is taken from the socket ahead of the application.
_BODY_BYTES = 1024 * 1024
_HOT_METHODS = (b"GET", b"HEAD")
_VERSIONS = ("1.0", "1.1")
_BODY_HEADERS = (b"content-length", b"transfer-encoding")

SendFile = Callable[[int, int, int], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Bounds on a request before its body, and on how long a connection may keep us waiting."""

    target_bytes: int = 16 * 1024
    header_bytes: int = 160 * 1024  # 4,096 byte ranges in one header fit
    header_count: int = 128
    idle_seconds: float = 60.0


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


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Body:
    """What came of one request's body and was not yet asked for."""

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0

    def taken(self) -> bytes:
        """Return it all, and hold nothing."""
        whole = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        self.size = 0
        return whole


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

    def connection_lost(self, exc: Exception | None) -> None:
        self.live.discard(self)
        super().connection_lost(exc)

    # -- the head of a request

    def data_received(self, data: bytes) -> None:
        # llhttp calls back once a header is whole: one that never ends is counted here.
        if not self._head_is_whole:
            self._head_received += len(data)
            if self._head_received > self.limits.header_bytes + self.limits.target_bytes:
                self._refused = _Refused(431, f"the head is over {self.limits.header_bytes} bytes")
                self.send_400_response("")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.active_at = self.loop.time()
        self._header_bytes = 0
        self._hosts = 0
        self._has_body = False
        self._head_is_whole = False
        self._head_received = 0

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
            # RFC 9112 section 6.1: what we cannot decode we do not take for the bytes themselves.
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._refuse(400, "chunked is the only transfer coding")
        if self._header_bytes > self.limits.header_bytes:
            self._refuse(431, f"the headers are over {self.limits.header_bytes} bytes")
        if len(self.headers) > self.limits.header_count:
            self._refuse(431, f"there are more than {self.limits.header_count} headers")

    def on_headers_complete(self) -> None:
        self._head_is_whole = True
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
        self._body = _Body()
        receive = partial(self._receive, self.cycle, self._body)
        self.cycle.receive = receive  # type: ignore[method-assign]

    def on_message_complete(self) -> None:
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

    def _refuse(self, status: int, message: str) -> None:
        self._refused = _Refused(status, message)
        raise self._refused

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for a person
        """Answer what llhttp, or a limit, refused, and close: the rest cannot be told apart."""
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        if not answering:
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
        if self.cycle.response_complete:
            return
        self._body.chunks.append(body)
        self._body.size += len(body)
        if self._body.size > _BODY_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    async def _receive(self, cycle: RequestResponseCycle, body: _Body) -> ASGIReceiveEvent:
        """ASGI's `receive`; uvicorn's own stops reading at 64 KiB and copies each byte thrice."""
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        if not cycle.disconnected and not cycle.response_complete:
            self.flow.resume_reading()
            await cycle.message_event.wait()
            cycle.message_event.clear()
        # What came before the client left still counts: an upload resumes behind it.
        if cycle.response_complete or (cycle.disconnected and not body.chunks):
            return {"type": "http.disconnect"}
        if cycle.disconnected:
            cycle.message_event.set()
        return {"type": "http.request", "body": body.taken(), "more_body": cycle.more_body}

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        if self.scheme == "http":
            send_file: Any = partial(self._send_file, cycle)
            cycle.scope["extensions"] = {"lading.sendfile": send_file}
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    async def _send_file(
        self, cycle: RequestResponseCycle, file: int, offset: int, count: int
    ) -> bool:
        """Send part of a file as part of the body begun; False when the client is gone."""
        self.transport.set_write_buffer_limits(high=0)
        socket = os.dup(self.transport.get_extra_info("socket").fileno())
        try:
            end = offset + count
            while offset < end:
                await self.flow.drain()
                if cycle.disconnected or self.transport.is_closing():
                    return False
                size = min(_SEND_BYTES, end - offset)
                sent = await in_thread(self._senders, _send_some, socket, file, offset, size)
                if sent is None:
                    await self._writable(socket)
                elif sent == 0:
                    raise RuntimeError("the file ended before its recorded size")
                else:
                    offset += sent
                    self.active_at = self.loop.time()
            cycle.expected_content_length -= count
        except ConnectionError:
            return False
        finally:
            os.close(socket)
            self.transport.set_write_buffer_limits()
        return True

    async def _writable(self, socket: int) -> None:
        ready = self.loop.create_future()
        self.loop.add_writer(socket, ready.set_result, None)
        try:
            async with asyncio.timeout(self.limits.idle_seconds):
                await ready
        except TimeoutError as error:
            self.transport.abort()
            raise ConnectionAbortedError("the client stopped reading") from error
        finally:
            self.loop.remove_writer(socket)


def _send_some(socket: int, file: int, offset: int, count: int) -> int | None:
    """Return how much the socket took, None while it takes nothing."""
    try:
        return os.sendfile(socket, file, offset, count)
    except BlockingIOError:
        return None

"""A proxy before an S3 server that does to chosen requests what networks and S3 do at bad times.

Everything passes byte for byte, so that what the client signed for this host and port is what the
server checks; bodies stream. It also counts what is asked of S3, operation by operation.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from hashlib import md5
from threading import Lock, Thread
from typing import Any, Literal, Self, TypeVar

from tests.faulty_answers import LOSABLE, Cut, Whole, bent, pretended, refusal
from tests.s3_wire import Answer, Operation, Request, answer_body, has_body, request_body

Fault = Literal[
    "slow_down",  # 503 SlowDown; the server hears nothing
    "internal",  # 500 InternalError; the server hears nothing
    "cut",  # the connection ends before the request is passed on
    "cut_answer",  # the server did it; the connection ends in the middle of the answer
    "truncated",  # the server gets half the body and then the end; the client gets the end
    "wrong_etag",  # the server did it; each ETag in the answer is another one
    "lost_answer",  # the server did it; the connection ends without an answer
    "lost",  # success; the server hears nothing
    "slow",  # the answer comes in small parts over some seconds
]
T = TypeVar("T")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_LIMIT = 256 * 1024
_PIECE = 64 * 1024
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One fault for the requests that fit: from the nth of them on, so many times (none: always).

    Requests are counted from when the rule was added.
    """

    fault: Fault
    operation: Operation | None = None
    method: str | None = None
    key: str = ""  # part of the object's name, where only its requests are meant
    nth: int = 1
    times: int | None = 1
    seconds: float = 1.0  # that a `slow` answer takes

    def __post_init__(self) -> None:
        if self.fault == "lost" and self.operation not in LOSABLE:
            raise ValueError(f"no success can be made up for {self.operation}")

    def fits(self, request: Request) -> bool:
        return (
            self.operation in (None, request.operation)
            and self.method in (None, request.method)
            and self.key in request.path
        )

    def strikes(self, number: int) -> bool:
        return self.nth <= number and (self.times is None or number < self.nth + self.times)


class FaultyProxy:
    """Stands on a port of its own, in a thread of its own, before a server on loopback."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = Lock()
        self._rules: list[Rule] = []
        self._seen: list[int] = []
        self._requests: Counter[Operation] = Counter()
        self._faults: Counter[Fault] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="faulty-proxy")
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        # Bound and never listening: the port stays ours while connections are refused.
        self._reserved = _bound_socket(0)
        self.port = int(self._reserved.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> Counter[Operation]:
        """How many requests of each operation came since the last `reset`, faults and all."""
        with self._lock:
            return self._requests.copy()

    @property
    def faults(self) -> Counter[Fault]:
        """How many times each fault struck since the last `reset`."""
        with self._lock:
            return self._faults.copy()

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.refuse()
            self._do(self._loop.shutdown_asyncgens())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
            self._loop.close()
            self._reserved.close()

    def add(self, *rules: Rule) -> None:
        """Let these strike too; where several would, the earliest added does."""
        with self._lock:
            self._rules.extend(rules)
            self._seen.extend(0 for _ in rules)

    def reset(self) -> None:
        """Forget all rules and all counts."""
        with self._lock:
            self._rules.clear()
            self._seen.clear()
            self._requests.clear()
            self._faults.clear()

    def refuse(self) -> None:
        """Begin an outage: connections that are open end, new ones are refused."""
        self._do(self._hang_up())

    def accept(self) -> None:
        """End the outage."""
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._welcome, sock=_bound_socket(self.port), limit=_HEAD_LIMIT, backlog=512
            )

    async def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        ending = list(self._connections)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                while request := await Request.read(reader):
                    if not await self._exchange(request, reader, writer):
                        break
            except* (OSError, EOFError):
                pass  # cut by a rule, or one of the two sides is gone
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def _struck_by(self, request: Request) -> Rule | None:
        """Count a request; return the rule that strikes it."""
        striking = None
        with self._lock:
            self._requests[request.operation] += 1
            for place, rule in enumerate(self._rules):
                if rule.fits(request):
                    self._seen[place] += 1
                    if striking is None and rule.strikes(self._seen[place]):
                        striking = rule
            if striking is not None:
                self._faults[striking.fault] += 1
        return striking

    async def _exchange(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Have a request answered; return whether the connection goes on."""
        rule = self._struck_by(request)
        fault = None if rule is None else rule.fault
        if fault == "cut":
            raise Cut
        if fault in ("slow_down", "internal", "lost"):
            await _answer_instead(fault, request, reader, writer)
            return not request.is_last
        from_server, connected = await asyncio.open_connection(
            "127.0.0.1", self._server_port, limit=_HEAD_LIMIT
        )
        # Sent by a socket of its own: versitygw answers an error before it has read the body and
        # closes; a stream whose write then fails throws away the answer it has not read yet.
        to_server = connected.get_extra_info("socket").dup()
        try:
            if fault == "truncated":
                if request.expects_continue:
                    writer.write(_CONTINUE)
                await _send_half(request, reader, from_server, to_server)
                raise Cut
            async with asyncio.TaskGroup() as group:
                group.create_task(_send(request, reader, to_server))
                answered = group.create_task(_bring(request, from_server, writer, rule))
            return answered.result()
        finally:
            to_server.close()
            connected.transport.abort()


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _answer_instead(
    fault: Literal["slow_down", "internal", "lost"],
    request: Request,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    if request.expects_continue:
        writer.write(_CONTINUE)
    digest = md5(usedforsecurity=False)
    kept = bytearray()
    async for piece in request_body(request, reader):
        digest.update(piece.content)
        if request.operation == "DeleteObjects":  # its answer names the keys; the rest are large
            kept += piece.content
    if fault == "lost":
        writer.write(pretended(request, bytes(kept), digest.hexdigest()))
    else:
        writer.write(refusal(fault, request))
    await writer.drain()


async def _send(request: Request, reader: asyncio.StreamReader, to_server: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(to_server, request.raw)
    async for piece in request_body(request, reader):
        # Read on where the server does not: the client would lose the answer in the same way.
        with suppress(ConnectionError):
            await loop.sock_sendall(to_server, piece.wire)


async def _send_half(
    request: Request,
    reader: asyncio.StreamReader,
    from_server: asyncio.StreamReader,
    to_server: socket.socket,
) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(to_server, request.raw)
    left = (request.length or 2) // 2
    async with aclosing(request_body(request, reader)) as pieces:
        async for piece in pieces:
            await loop.sock_sendall(to_server, piece.wire[:left])
            left -= len(piece.wire)
            if left <= 0:
                break
    to_server.shutdown(socket.SHUT_WR)
    # Only when the server has done with it is the client's connection cut, so that a test which
    # saw the cut can look at what was stored.
    async with asyncio.timeout(_PATIENCE):
        while await from_server.read(_PIECE):
            pass


async def _bring(
    request: Request,
    from_server: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    rule: Rule | None,
) -> bool:
    """Pass on the answer; return whether the client's connection can go on."""
    continued = not request.expects_continue
    while (answer := await Answer.read(from_server)) is not None and answer.is_interim:
        writer.write(answer.raw)
        continued = True
    if answer is None:
        raise Cut
    length = answer.length if has_body(request, answer) else 0
    whole = Whole(answer=answer, body=answer_body(request, answer, from_server), length=length)
    async with aclosing(whole.body), aclosing(_bent_by(rule, whole)) as parts:
        async for part in parts:
            writer.write(part)
            await writer.drain()
    if not continued:
        raise Cut  # a client that was not told to continue sends no body to wait for
    ends_with_connection = length is None and not answer.is_chunked
    return not (ends_with_connection or answer.is_last or request.is_last)


def _bent_by(rule: Rule | None, whole: Whole) -> AsyncGenerator[bytes, None]:
    if rule is None:
        return bent(None, whole, 0)
    assert rule.fault in ("cut_answer", "lost_answer", "slow", "wrong_etag")
    return bent(rule.fault, whole, rule.seconds)

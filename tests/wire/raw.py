"""One TCP connection to the registry, for bytes that no HTTP library would send or hide."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import httpx

from tests.serving import Served

T = TypeVar("T")
_SECONDS = 20.0


def request(method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request as bytes: a Host and the given header lines, no other."""
    lines = [f"{method} {target} HTTP/1.1", "Host: registry", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    """Return the pieces in the chunked transfer coding, with its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


class Connection:
    """A socket that speaks bytes and reads answers."""

    def __init__(self, served: Served, *, window: int | None = None) -> None:
        self._held = b""
        self._socket = socket.socket()
        if window is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._socket.settimeout(_SECONDS)
        self._socket.connect(("127.0.0.1", served.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def leave(self) -> None:
        """Close politely: what was sent arrives."""
        self._socket.close()

    def break_off(self) -> None:
        """Close with a reset, as a machine that lost its network would look."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def is_cut_while_sending(self, pieces: Iterable[bytes], pause: float = 0) -> bool:
        """Send the pieces; tell whether the server closed before it had them all."""
        try:
            for piece in pieces:
                self.send(piece)
                time.sleep(pause)
        except ConnectionError:
            return True
        return False

    def ask(self, data: bytes, method: str = "GET") -> httpx.Response:
        self.send(data)
        return self.answer(method)

    def answer(self, method: str = "GET") -> httpx.Response:
        """Read one answer to a request of that method."""
        status, fields = self.head()
        headers = httpx.Headers(fields)
        bodiless = method == "HEAD" or status < 200 or status in {204, 304}
        if bodiless:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.read(int(headers["content-length"]))
        return httpx.Response(status, headers=fields, content=body)

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Read the status and headers of an answer."""
        line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        fields = [
            (name.lower(), value.strip()) for name, _, value in (s.partition(":") for s in lines)
        ]
        return int(status), fields

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        while len(self._held) < size:
            self._more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def read_some(self, size: int) -> bytes:
        """Read what is there, at most so many bytes; none once the other side has closed."""
        data, self._held = self._held, b""
        return data or self._socket.recv(size)

    def is_closed(self) -> bool:
        """Tell whether the server closes the connection and sends nothing before that."""
        try:
            return not self._held and not self._socket.recv(65536)
        except ConnectionError:
            return True

    def rest(self) -> bytes:
        """Read until the server closes."""
        pieces = [self._held]
        self._held = b""
        try:
            while piece := self._socket.recv(1 << 20):
                pieces.append(piece)
        except ConnectionError:
            pass
        return b"".join(pieces)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._until(b"\r\n"), 16):
            yield self.read(size)
            assert self.read(2) == b"\r\n"
        assert self.read(2) == b"\r\n"

    def _until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._more()
        found, _, self._held = self._held.partition(end)
        return found

    def _more(self) -> None:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._held += piece


def eventually(look: Callable[[], T | None], seconds: float = _SECONDS) -> T:
    """Return what `look` finds, once it finds something; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)
    return found

"""A wire tap between a client and the registry: it writes down request heads, and cuts once.

The log holds each request line and each Range or Content-Range line in the order they passed, and
`CUT` where the connection was broken: proof that a client mounted, or resumed instead of starting
over. Bytes pass unchanged. The first line on standard output is the port.
"""

from __future__ import annotations

import argparse
import re
import socket
import socketserver
import sys
import threading
from pathlib import Path

HEAD_LINES = re.compile(
    rb"^(?:(?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+ HTTP/1\.1|(?:Content-)?Range: [^\r]+)\r$",
    re.MULTILINE | re.IGNORECASE,
)


class Cut:
    """Breaks the first connection that has carried this many bytes one way; 0 is never."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._lock = threading.Lock()

    def reached(self, carried: int) -> bool:
        with self._lock:
            if not self._after or carried < self._after:
                return False
            self._after = 0
            return True


class Tap(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: tuple[str, int], log: Path, cut_up: int, cut_down: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.upstream = upstream
        self.cut_up = Cut(cut_up)
        self.cut_down = Cut(cut_down)
        self._log = log
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        with self._lock, self._log.open("a") as log:
            log.write(line + "\n")


class Connection(socketserver.BaseRequestHandler):
    server: Tap

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as upstream:
            down = threading.Thread(
                target=self._pump, args=(upstream, self.request, self.server.cut_down)
            )
            down.start()
            self._pump(self.request, upstream, self.server.cut_up, heads=True)
            down.join()

    def _pump(
        self, source: socket.socket, target: socket.socket, cut: Cut, *, heads: bool = False
    ) -> None:
        carried = 0
        try:
            while data := source.recv(16384):
                if heads:
                    for line in HEAD_LINES.findall(data):
                        self.server.note(line.decode().strip())
                target.sendall(data)
                carried += len(data)
                if cut.reached(carried):
                    self.server.note("CUT")
                    break
            else:
                # A half-closed connection stays open the other way: an answer may still come.
                target.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass
        for end in (source, target):
            _break(end)


def _break(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer was faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--cut-up", type=int, default=0)
    parser.add_argument("--cut-down", type=int, default=0)
    options = parser.parse_args()
    host, _, port = options.upstream.rpartition(":")
    with Tap((host, int(port)), options.log, options.cut_up, options.cut_down) as tap:
        print(tap.server_address[1])
        sys.stdout.flush()
        tap.serve_forever()


if __name__ == "__main__":
    main()

"""A wire tap between a client and the registry: it writes down request heads, and cuts once.

The log holds each request line and each Range or Content-Range line in the order they passed, and
`CUT` where the connection was broken: proof that a client mounted, or resumed instead of starting
over. Bytes pass unchanged, and as slowly as is wished. The first line on standard output is the
port. A tap that stays for many tests takes orders from a file: where to write from now on, and when
to cut.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Way = Literal["up", "down"]
HEAD_LINES = re.compile(
    rb"^(?:(?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+ HTTP/1\.1|(?:Content-)?Range: [^\r]+)\r$",
    re.MULTILINE | re.IGNORECASE,
)


@contextlib.contextmanager
def running(upstream: str, log: Path, *options: str) -> Iterator[str]:
    """The address of a tap in a process of its own, until the block is left."""
    command = [sys.executable, __file__, "--upstream", upstream, "--log", str(log), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def order(orders: Path, *, log: Path, cut_down: int) -> None:
    """Tell the tap that reads this file where to write from now on, and when to cut."""
    aside = orders.with_suffix(".new")
    aside.write_text(json.dumps({"log": str(log), "cut_down": cut_down}))
    aside.replace(orders)


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

    def __init__(
        self,
        upstream: tuple[str, int],
        log: Path,
        orders: Path | None,
        cuts: dict[Way, Cut],
        paces: dict[Way, int],
    ) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.upstream = upstream
        self.cuts = cuts
        self.paces = paces
        self._log = log
        self._orders = orders
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        with self._lock, self._log.open("a") as log:
            log.write(line + "\n")

    def take_orders(self) -> None:
        with self._lock:
            if self._orders is not None and self._orders.exists():
                told = json.loads(self._orders.read_text())
                self._orders.unlink()
                self._log = Path(told["log"])
                self.cuts["down"] = Cut(told["cut_down"])


class Connection(socketserver.BaseRequestHandler):
    server: Tap

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as upstream:
            down = threading.Thread(target=self._pump, args=(upstream, self.request, "down"))
            down.start()
            self._pump(self.request, upstream, "up")
            down.join()

    def _pump(self, source: socket.socket, target: socket.socket, way: Way) -> None:
        carried, cut = 0, self.server.cuts[way]
        try:
            while data := source.recv(16384):
                self.server.take_orders()
                if self.server.cuts[way] is not cut:
                    # What a connection that was kept had carried before the order does not count.
                    carried, cut = 0, self.server.cuts[way]
                if way == "up":
                    for line in HEAD_LINES.findall(data):
                        self.server.note(line.decode().strip())
                if pace := self.server.paces[way]:
                    time.sleep(len(data) / pace)
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
    parser.add_argument("--pace-up", type=int, default=0, help="bytes a second, by connection")
    parser.add_argument("--orders", type=Path)
    options = parser.parse_args()
    host, _, port = options.upstream.rpartition(":")
    cuts: dict[Way, Cut] = {"up": Cut(options.cut_up), "down": Cut(options.cut_down)}
    paces: dict[Way, int] = {"up": options.pace_up, "down": 0}
    with Tap((host, int(port)), options.log, options.orders, cuts, paces) as tap:
        print(tap.server_address[1])
        sys.stdout.flush()
        tap.serve_forever()


if __name__ == "__main__":
    main()

"""Many clients at one registry at once, and which of its workers answers whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier
from typing import TypeVar

import psutil

from tests.faults.wire import Connection
from tests.serving import Served

T = TypeVar("T")

_TRIES = 40


def together(
    served: Served | Sequence[Served], clients: int, work: Callable[[int, Connection], T]
) -> list[T]:
    """Run `work(number, connection)` in as many threads, begun at one moment; return the results.

    Of several replicas each has its share. The first thing that went wrong in any is raised.
    """
    begun = Barrier(clients, timeout=60)
    replicas = [served] if isinstance(served, Served) else served

    def run(number: int) -> T:
        with Connection(replicas[number % len(replicas)].port) as connection:
            connection.ask("GET", "/v2/", expect=[200])
            begun.wait()
            return work(number, connection)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(run, range(clients)))


@contextmanager
def connection_to_each_worker(served: Served) -> Iterator[list[Connection]]:
    """Hold one connection to every worker: the kernel deals them out, so open some until it did."""
    with ExitStack() as held:
        found: dict[int, Connection] = {}
        for _ in range(_TRIES):
            opened = [held.enter_context(Connection(served.port)) for _ in range(8)]
            with ThreadPoolExecutor(len(opened)) as pool:
                list(pool.map(lambda each: each.ask("GET", "/v2/_catalog", expect=[200]), opened))
            ends = {each.local_port: each for each in opened}
            for port, worker in _accepted(served):
                if port in ends:
                    found.setdefault(worker, ends[port])
            if len(found) == served.workers:
                break
        assert len(found) == served.workers, f"only {sorted(found)} took a connection"
        yield list(found.values())


def _accepted(served: Served) -> Iterable[tuple[int, int]]:
    """Return the client's port of each connection, and the process that took it."""
    assert served.process is not None
    for child in psutil.Process(served.process.pid).children(recursive=True):
        for socket in child.net_connections("tcp"):
            if socket.status == psutil.CONN_ESTABLISHED and socket.raddr:
                yield socket.raddr.port, child.pid

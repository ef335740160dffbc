"""A cache of what was read from the catalog, exact under changes by any worker."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from ociserver.errors import LadingError, Unavailable
from ociserver.refs import RepositoryName

K = TypeVar("K")
V = TypeVar("V")

# What an entry weighs beside its bytes: key, record, rendered headers, dictionary slot (CPython).
_ENTRY_BYTES = 2048
# Should the news of a change ever be lost, nothing outdated is served for longer than this.
_TTL_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0


class _Entry(NamedTuple, Generic[V]):
    value: V
    weight: int
    repository: RepositoryName
    generation: int
    until: float


class FreshCache(Generic[K, V]):
    """Values that hold for as long as nobody has changed what they were read from.

    `generation` (`ports.Catalog`) is asked on every look-up, so what it tells of no one misses.
    What no longer holds stays for `stale`, until its room is wanted: bounded by `capacity` bytes,
    the least recently used entry goes first. Whose owner never `serves_stale` waits for a slow
    catalog for as long as it takes.
    """

    def __init__(
        self,
        generation: Callable[[RepositoryName], int],
        capacity: int,
        *,
        serves_stale: bool = True,
    ) -> None:
        self._generation = generation
        self._capacity = capacity
        self._serves_stale = serves_stale
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> V | None:
        """Return the value if it still holds."""
        entry = self._entries.get(key)
        if (
            entry is None
            or entry.generation != self._generation(entry.repository)
            or entry.until < time.monotonic()
        ):
            return None
        self._entries.move_to_end(key)
        return entry.value

    def stale(self, key: K) -> V | None:
        """Return what was last read, though it may hold no longer: for when nothing can be read."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    async def get_or_read(
        self,
        key: K,
        repository: RepositoryName,
        read: Callable[[], Awaitable[V]],
        size: Callable[[V], int],
        *,
        lifetime: Callable[[V], float] = lambda _: _TTL_SECONDS,
    ) -> V:
        """Return the kept value, else read it and keep it for at most its `lifetime` in seconds.

        What `read` raises is raised. Unless it is an outage, it proves that what was kept is gone.
        """
        kept = self.get(key)
        if kept is not None:
            return kept
        seen = self._generation(repository)
        # Where something stale can be served, a catalog that hangs is one that is away.
        patience = _PATIENCE_SECONDS if self._serves_stale and key in self._entries else None
        try:
            async with asyncio.timeout(patience):
                value = await read()
        except TimeoutError as error:
            raise Unavailable("the catalog does not answer") from error
        except Unavailable:
            raise
        except LadingError:
            self.drop(key)
            raise
        # Changed while we read: what we hold may be older than what is kept now.
        if self._generation(repository) == seen:
            until = time.monotonic() + min(lifetime(value), _TTL_SECONDS)
            self._keep(key, _Entry(value, size(value) + _ENTRY_BYTES, repository, seen, until))
        return value

    def _keep(self, key: K, entry: _Entry[V]) -> None:
        self.drop(key)
        self._entries[key] = entry
        self._bytes += entry.weight
        while self._bytes > self._capacity:
            self._bytes -= self._entries.popitem(last=False)[1].weight

    def drop(self, key: K) -> None:
        """Forget the value: it was changed, or is gone."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.weight

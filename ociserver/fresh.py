"""A cache of what was read from the catalog, exact under changes by any worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# What an entry weighs beside its bytes: key, record, rendered headers, dictionary slot (CPython).
_ENTRY_BYTES = 2048


class FreshCache(Generic[K, V]):
    """Values that hold for as long as no worker has changed the catalog.

    `generation` is asked on every look-up, so what one worker acknowledged no other can miss.
    Bounded by `capacity` bytes; the least recently used entry goes first.
    """

    def __init__(self, generation: Callable[[], int], capacity: int) -> None:
        self._generation = generation
        self._capacity = capacity
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._seen = -1
        self._bytes = 0

    def get(self, key: K) -> V | None:
        """Return the value if it still holds."""
        generation = self._generation()
        if generation != self._seen:
            self._entries.clear()
            self._bytes = 0
            self._seen = generation
            return None
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    async def get_or_read(
        self, key: K, read: Callable[[], Awaitable[V]], size: Callable[[V], int]
    ) -> V:
        """Return the kept value, else read it and keep it; what `read` raises is not kept."""
        kept = self.get(key)
        if kept is not None:
            return kept
        seen = self._seen
        value = await read()
        # The catalog moved on while we read: what we hold may be older than what is kept now.
        if self._seen == seen:
            self._keep(key, value, size(value) + _ENTRY_BYTES)
        return value

    def _keep(self, key: K, value: V, weight: int) -> None:
        if key in self._entries:
            self._bytes -= self._entries[key][1]
        self._entries[key] = (value, weight)
        self._entries.move_to_end(key)
        self._bytes += weight
        while self._bytes > self._capacity:
            self._bytes -= self._entries.popitem(last=False)[1][1]

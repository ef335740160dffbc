"""Limits on how much one caller, or one address, may ask for at once. Of each worker alone."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ociserver.errors import TooManyRequests

# Who was heard of longest ago is forgotten: an attacker with many addresses takes no more memory.
_REMEMBERED = 10_000
_RETRY_SECONDS = 5


class Rate:
    """So many requests in a second on average, and at most so many at once (a token bucket)."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        # When each will have been quiet for long enough to count as new.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Count a request; return 0, or for how many seconds none is due, and then count none."""
        full_at = max(self._full_at.get(key, 0.0), now) + 1 / self._per_second
        if full_at - now > 1.0:
            return full_at - now - 1.0
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        while len(self._full_at) > _REMEMBERED:
            self._full_at.popitem(last=False)
        return 0.0


class Limits:
    """What is counted of each caller. `refused` is told by which limit somebody was."""

    def __init__(self, *, rate: float | None, uploads: int, refused: Callable[[str], None]) -> None:
        self._rate = Rate(rate) if rate is not None else None
        self.count_requests = rate is not None
        self._uploads = uploads
        self._uploading: Counter[str] = Counter()
        self.refused = refused

    def count(self, key: str, now: float) -> None:
        """Count a request of that caller or address. Raises TooManyRequests."""
        if self._rate is not None and (wait := self._rate.wait(key, now)):
            self.refused("rate")
            raise TooManyRequests("too many requests", retry_after=wait)

    @contextmanager
    def upload(self, key: str) -> Iterator[None]:
        """Count what brings bytes, for as long as it lasts. Raises TooManyRequests."""
        if self._uploading[key] >= self._uploads:
            self.refused("uploads")
            raise TooManyRequests(
                f"more than {self._uploads} uploads at once", retry_after=_RETRY_SECONDS
            )
        self._uploading[key] += 1
        try:
            yield
        finally:
            self._uploading[key] -= 1
            if not self._uploading[key]:
                del self._uploading[key]

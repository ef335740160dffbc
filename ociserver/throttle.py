"""How long to wait so that no more than so many bytes a second are read. Pure: told the time."""

from __future__ import annotations

# What was not read while nobody asked may be caught up with for so long.
_BURST_SECONDS = 0.5


class Throttle:
    """A token bucket. In any stretch of time it lets through what the rate gives for it, half a
    second's worth more, and what is asked for last.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        # When all that was let through will have been paid for.
        self._paid_at = 0.0

    def wait(self, count: int, now: float) -> float:
        """Let these bytes through; return the seconds to wait before more are asked for."""
        self._paid_at = max(self._paid_at, now - _BURST_SECONDS) + count / self._rate
        return max(0.0, self._paid_at - now)

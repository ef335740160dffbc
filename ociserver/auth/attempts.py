"""How often somebody failed lately, and how long they must wait for that. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

# The memory of an attacker with many addresses is bounded: who failed longest ago is forgotten.
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """So many failures within `seconds`, from the first of them."""

    failures: int
    seconds: float


@dataclass(slots=True)
class _Failures:
    count: int
    until: float


class Attempts:
    """Failures by key, and who had too many. Times are seconds of any one clock."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failures: OrderedDict[Hashable, _Failures] = OrderedDict()

    def wait(self, key: Hashable, now: float) -> float:
        """Return for how many seconds the key is to be refused; 0 if it is not."""
        found = self._failures.get(key)
        if found is None or found.count < self._patience.failures:
            return 0.0
        return max(0.0, found.until - now)

    def failed(self, key: Hashable, now: float) -> None:
        """Count a failure. The window begins with the first."""
        found = self._failures.get(key)
        if found is None or found.until < now:
            self._failures.pop(key, None)
            self._failures[key] = _Failures(1, now + self._patience.seconds)
        else:
            found.count += 1
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, key: Hashable) -> None:
        """Forget its failures."""
        self._failures.pop(key, None)

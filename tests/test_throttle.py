"""The bound on scrub's reading, told the time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ociserver.throttle import Throttle

PIECES = st.lists(
    st.tuples(st.integers(1, 2**20), st.floats(0, 3, allow_nan=False)), min_size=1, max_size=60
)


@given(rate=st.integers(1, 2**26), pieces=PIECES)
def test_no_stretch_of_time_lets_more_through_than_the_rate_a_burst_and_a_piece(
    rate: int, pieces: list[tuple[int, float]]
) -> None:
    throttle, now = Throttle(rate), 1000.0
    passed: list[tuple[float, int]] = []
    for count, otherwise_busy in pieces:
        passed.append((now, count))
        now += throttle.wait(count, now) + otherwise_busy
    for first, (begun, _) in enumerate(passed):
        total = 0
        for ended, count in passed[first:]:
            total += count
            allowed = rate * (ended - begun + 0.5) + count
            assert total <= allowed * (1 + 1e-6) + 1


def test_who_only_reads_is_let_through_at_just_the_rate() -> None:
    throttle, now = Throttle(1000), 50.0
    for _ in range(100):
        now += throttle.wait(100, now)
    assert 9.4 <= now - 50.0 <= 10.0


def test_a_pause_is_not_saved_up() -> None:
    throttle = Throttle(1000)
    throttle.wait(10, 1.0)
    assert throttle.wait(2500, 1_000_000.0) == 2.0

"""How many failures are one too many."""

from __future__ import annotations

from ociserver.auth.attempts import Attempts, Patience


def test_so_many_failures_make_a_key_wait_for_the_rest_of_its_window() -> None:
    attempts = Attempts(Patience(failures=3, seconds=60.0))
    for second in range(3):
        assert attempts.wait("ann", second) == 0
        attempts.failed("ann", second)
    assert attempts.wait("ann", 3) == 57
    assert attempts.wait("bob", 3) == 0
    assert attempts.wait("ann", 60) == 0
    attempts.failed("ann", 61)
    assert attempts.wait("ann", 61) == 0


def test_success_is_a_new_beginning() -> None:
    attempts = Attempts(Patience(failures=2, seconds=60.0))
    attempts.failed("ann", 0)
    attempts.succeeded("ann")
    attempts.failed("ann", 1)
    assert attempts.wait("ann", 1) == 0


def test_a_flood_of_keys_takes_bounded_memory() -> None:
    attempts = Attempts(Patience(failures=1, seconds=1e9))
    for number in range(20_000):
        attempts.failed(number, 0)
    assert attempts.wait(19_999, 0) > 0
    assert attempts.wait(0, 0) == 0

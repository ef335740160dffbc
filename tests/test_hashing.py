"""Digests that can be put down and taken up again give what hashlib gives."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.hashing import fresh, resumed

quick = settings(derandomize=True, deadline=None, max_examples=150)
algorithms = st.sampled_from(["sha256", "sha512"])
pieces = st.lists(st.binary(max_size=300), max_size=8)

CONTEXT_BYTES = {"sha256": 112, "sha512": 216}
COUNT_AT = {"sha256": 104, "sha512": 208}
BLOCK_BYTES = {"sha256": 64, "sha512": 128}


def saved(algorithm: str, body: bytes) -> bytes:
    hasher = fresh(algorithm)
    hasher.update(body)
    state = hasher.state()
    assert state is not None, "this machine's libcrypto cannot save states; the tests need one"
    return state


@quick
@given(algorithms, pieces)
def test_any_split_gives_the_digest_of_the_whole(algorithm: str, split: list[bytes]) -> None:
    hasher = fresh(algorithm)
    for piece in split:
        hasher.update(piece)
    assert hasher.hexdigest() == hashlib.new(algorithm, b"".join(split)).hexdigest()


@quick
@given(algorithms, pieces)
def test_saving_and_resuming_after_every_piece_changes_nothing(
    algorithm: str, split: list[bytes]
) -> None:
    hasher = fresh(algorithm)
    for piece in split:
        hasher.update(piece)
        again = resumed(algorithm, hasher.state())
        assert again is not None
        hasher = again
    assert hasher.hexdigest() == hashlib.new(algorithm, b"".join(split)).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_state_saved_at_any_byte_around_a_block_goes_on(algorithm: str) -> None:
    body = bytes(range(256)) * 2
    whole = hashlib.new(algorithm, body).hexdigest()
    for at in range(len(body) + 1):
        hasher = resumed(algorithm, saved(algorithm, body[:at]))
        assert hasher is not None, at
        hasher.update(body[at:])
        assert hasher.hexdigest() == whole, at


@quick
@given(algorithms, st.binary(max_size=300), st.binary(max_size=300))
def test_reading_the_digest_does_not_end_it(algorithm: str, first: bytes, second: bytes) -> None:
    hasher = fresh(algorithm)
    hasher.update(first)
    assert hasher.hexdigest() == hashlib.new(algorithm, first).hexdigest()
    assert hasher.hexdigest() == hashlib.new(algorithm, first).hexdigest()
    hasher.update(second)
    assert hasher.hexdigest() == hashlib.new(algorithm, first + second).hexdigest()


@quick
@given(algorithms, st.binary(max_size=300))
def test_a_state_is_a_copy_that_later_bytes_do_not_change(algorithm: str, more: bytes) -> None:
    hasher = fresh(algorithm)
    hasher.update(b"cargo")
    state = hasher.state()
    hasher.update(more)
    again = resumed(algorithm, state)
    assert again is not None
    assert again.hexdigest() == hashlib.new(algorithm, b"cargo").hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_large_chunk_and_no_chunk_at_all_are_hashed_alike(algorithm: str) -> None:
    body = bytes(range(256)) * 16_384
    hasher = fresh(algorithm)
    for piece in (b"", memoryview(bytearray()), body, memoryview(bytearray(body)), b""):
        hasher.update(piece)
    assert hasher.hexdigest() == hashlib.new(algorithm, body * 2).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("state", [None, b"", b"nonsense", b"\0" * 112, b"\0" * 216])
def test_what_is_no_state_of_ours_is_refused(algorithm: str, state: bytes | None) -> None:
    assert resumed(algorithm, state) is None


@quick
@given(algorithms, st.binary(max_size=300), st.integers(0, 400))
def test_a_state_cut_short_or_too_long_is_refused(algorithm: str, body: bytes, size: int) -> None:
    state = saved(algorithm, body)
    if size != len(state):
        assert resumed(algorithm, state[:size].ljust(size, b"\0")) is None


@pytest.mark.parametrize(("made", "taken"), [("sha256", "sha512"), ("sha512", "sha256")])
def test_a_state_of_the_other_algorithm_is_refused(made: str, taken: str) -> None:
    assert resumed(taken, saved(made, b"cargo")) is None


@quick
@given(algorithms, st.binary(max_size=300), st.data())
def test_a_state_that_would_write_beyond_its_block_is_refused(
    algorithm: str, body: bytes, data: st.DataObject
) -> None:
    state = saved(algorithm, body)
    count = data.draw(st.integers(BLOCK_BYTES[algorithm], 2**32 - 1))
    at = len(state) - CONTEXT_BYTES[algorithm] + COUNT_AT[algorithm]
    broken = state[:at] + count.to_bytes(4, sys.byteorder) + state[at + 4 :]
    assert resumed(algorithm, broken) is None


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_state_of_another_machine_is_refused(algorithm: str) -> None:
    state = saved(algorithm, b"cargo")
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    elsewhere = state.replace(sys.byteorder.encode(), other, 1)
    assert elsewhere != state
    assert resumed(algorithm, elsewhere) is None

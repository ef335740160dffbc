"""What an upload may do next: the request's Content-Range, and whether the body fits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.errors import SizeInvalid, UploadInvalid, UploadOutOfOrder
from ociserver.refs import parse_name
from ociserver.upload import (
    Chunk,
    UploadSession,
    admit,
    is_session_id,
    parse_chunk,
    received_range,
)

quick = settings(derandomize=True, deadline=None, max_examples=150)
offsets = st.integers(0, 10**17)


def session(offset: int = 0) -> UploadSession:
    return UploadSession(
        id="0" * 32, repository=parse_name("a/b"), algorithm="sha256", offset=offset
    )


@quick
@given(offsets, offsets)
def test_a_content_range_names_its_first_and_last_byte(start: int, more: int) -> None:
    chunk = parse_chunk(f"{start}-{start + more}")
    assert chunk == Chunk(start=start, end=start + more)
    assert chunk is not None
    assert chunk.length == more + 1


def test_without_a_content_range_there_is_no_chunk() -> None:
    assert parse_chunk(None) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        "5",
        "5-",
        "-5",
        "5-4",
        "bytes 0-4",
        "bytes=0-4",
        "0-4/5",
        "0-4/*",
        "0 - 4",
        "0-4,5-9",
        "+0-4",
        "-1-4",
        "0x0-0x4",
        "0-4\n5",
        "\u0660-\u0664",
        "1.0-4",
        "0-" + "9" * 5000,
    ],
)
def test_a_content_range_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(UploadInvalid) as caught:
        parse_chunk(header)
    assert len(caught.value.message) < 200


@quick
@given(st.text(max_size=40))
def test_any_content_range_is_a_chunk_or_refused(header: str) -> None:
    try:
        chunk = parse_chunk(header)
    except UploadInvalid:
        return
    assert chunk is not None
    assert chunk.length > 0


@quick
@given(offsets, st.integers(1, 10**9))
def test_a_chunk_that_starts_where_the_upload_stands_is_admitted(offset: int, size: int) -> None:
    chunk = Chunk(start=offset, end=offset + size - 1)
    assert admit(session(offset), chunk, None) == size
    assert admit(session(offset), chunk, size) == size


@quick
@given(offsets, offsets)
def test_a_chunk_that_starts_anywhere_else_is_told_where_the_upload_stands(
    offset: int, start: int
) -> None:
    if start == offset:
        start += 1
    with pytest.raises(UploadOutOfOrder) as caught:
        admit(session(offset), Chunk(start=start, end=start + 9), 10)
    assert caught.value.offset == offset
    assert caught.value.detail == {"offset": offset}


@pytest.mark.parametrize("length", [0, 9, 11])
def test_a_length_that_contradicts_the_range_is_refused(length: int) -> None:
    with pytest.raises(SizeInvalid):
        admit(session(), Chunk(start=0, end=9), length)


def test_out_of_order_is_said_before_a_wrong_length() -> None:
    with pytest.raises(UploadOutOfOrder):
        admit(session(5), Chunk(start=0, end=9), 3)


@pytest.mark.parametrize("length", [None, 0, 7])
def test_a_body_without_a_range_is_appended_as_long_as_it_says(length: int | None) -> None:
    assert admit(session(5), None, length) == length


@pytest.mark.parametrize(("offset", "said"), [(0, "0-0"), (1, "0-0"), (2, "0-1"), (10**12, None)])
def test_the_received_range_ends_at_the_last_byte(offset: int, said: str | None) -> None:
    assert received_range(offset) == (said or f"0-{offset - 1}")


@quick
@given(st.integers(1, 10**17))
def test_what_was_received_parses_as_a_chunk_of_that_length(offset: int) -> None:
    chunk = parse_chunk(received_range(offset))
    assert chunk is not None
    assert chunk.length == offset


@pytest.mark.parametrize(
    ("text", "could_be"),
    [
        ("0123456789abcdef" * 2, True),
        ("0123456789ABCDEF" * 2, False),
        ("0" * 31, False),
        ("0" * 33, False),
        ("0" * 32 + "\n", False),
        ("../" + "0" * 29, False),
        ("\u0660" * 32, False),
        ("", False),
    ],
)
def test_only_thirty_two_hex_digits_could_name_an_upload(text: str, could_be: bool) -> None:
    assert is_session_id(text) is could_be

"""Ranges, validators, pages and links as values, against oracles simpler than the code."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.errors import RangeRefused, RangeUnsatisfiable, RequestInvalid
from ociserver.web.headers import (
    RANGES_MAX,
    ByteRange,
    Page,
    is_unchanged,
    next_link,
    parse_page,
    parse_ranges,
    range_applies,
)

quick = settings(derandomize=True, deadline=None, max_examples=300)
ETAG = '"sha256:0123"'

# (what is written, the slice of the body it means)
first_and_last = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(
    lambda pair: (f"{min(pair)}-{max(pair)}", slice(min(pair), max(pair) + 1))
)
from_first = st.integers(0, 40).map(lambda first: (f"{first}-", slice(first, None)))
suffix = st.integers(0, 40).map(lambda n: (f"-{n}", slice(-n, None) if n else slice(0, 0)))
specs = st.one_of(first_and_last, from_first, suffix)


@quick
@given(st.binary(max_size=30), st.lists(specs, min_size=1, max_size=6), st.booleans())
def test_ranges_give_the_asked_bytes_in_the_asked_order_unmerged(
    body: bytes, asked: list[tuple[str, slice]], spaced: bool
) -> None:
    header = "bytes=" + (", " if spaced else ",").join(text for text, _ in asked)
    expected = [piece for _, where in asked if (piece := body[where])]
    if not expected:
        with pytest.raises(RangeUnsatisfiable) as caught:
            parse_ranges(header, len(body))
        assert caught.value.size == len(body)
    elif len(expected) > 1 and sum(map(len, expected)) > 2 * len(body):
        with pytest.raises(RangeRefused):
            parse_ranges(header, len(body))
    else:
        found = parse_ranges(header, len(body))
        assert found is not None
        assert [body[one.start : one.end + 1] for one in found] == expected
        assert [one.length for one in found] == [len(piece) for piece in expected]
        assert all(one.end < len(body) for one in found)


def test_without_a_range_the_whole_is_served() -> None:
    assert parse_ranges(None, 10) is None


@pytest.mark.parametrize("header", ["items=0-5", "octets=0-5", "", "0-5", "bytes 0-5", "byte=0-5"])
def test_another_unit_is_ignored(header: str) -> None:
    assert parse_ranges(header, 10) is None


@pytest.mark.parametrize("header", ["Bytes=2-3", "BYTES=2-3", "bytes=,2-3,", "bytes=\t2-3 "])
def test_the_unit_has_no_case_and_empty_members_count_for_nothing(header: str) -> None:
    assert parse_ranges(header, 10) == [ByteRange(2, 3)]


@pytest.mark.parametrize(
    "specs",
    [
        "",
        ",",
        "-",
        "5-4",
        "500-0",
        "a-b",
        "0x0-1",
        "1--2",
        "--1",
        "0-1;2-3",
        "0 -1",
        "+1-2",
        "-1.5",
    ],
)
def test_a_malformed_range_is_answered_416(specs: str) -> None:
    with pytest.raises(RangeUnsatisfiable):
        parse_ranges(f"bytes={specs}", 1000)


@pytest.mark.parametrize("digits", ["\u0660-\u0661", "\uff10-\uff11", "\u00b2-\u00b3"])
def test_digits_of_other_scripts_are_no_range(digits: str) -> None:
    with pytest.raises(RangeUnsatisfiable):
        parse_ranges(f"bytes={digits}", 1000)


def test_one_malformed_range_among_good_ones_refuses_them_all() -> None:
    with pytest.raises(RangeUnsatisfiable):
        parse_ranges("bytes=0-1,nonsense,4-5", 1000)


@pytest.mark.parametrize("asked", ["0-", "-0", "-5", "0-0"])
def test_nothing_of_an_empty_blob_can_be_asked(asked: str) -> None:
    with pytest.raises(RangeUnsatisfiable) as caught:
        parse_ranges(f"bytes={asked}", 0)
    assert caught.value.size == 0


# The largest a client of 63 and of 64 bits can write: both mean "to the end" (RFC 9110, 14.1.2).
@pytest.mark.parametrize("last", [2**31 - 1, 2**53, 2**63 - 1, 2**64 - 1])
def test_a_last_byte_far_beyond_the_end_means_the_end(last: int) -> None:
    assert parse_ranges(f"bytes=10-{last}", 100) == [ByteRange(10, 99)]
    assert parse_ranges(f"bytes=-{last}", 100) == [ByteRange(0, 99)]


def test_a_thousand_and_thirteen_ranges_are_answered_each() -> None:
    starts = [(index * 7919) % 100_000 for index in range(1013)]
    header = "bytes=" + ",".join(f"{start}-{start + 9}" for start in starts)
    assert parse_ranges(header, 200_000) == [ByteRange(start, start + 9) for start in starts]


def test_as_many_ranges_as_the_bound_are_answered_and_one_more_is_refused() -> None:
    header = "bytes=" + ",".join(f"{index}-{index}" for index in range(RANGES_MAX))
    found = parse_ranges(header, 10_000)
    assert found is not None
    assert len(found) == RANGES_MAX >= 2 * 1013
    with pytest.raises(RangeRefused):
        parse_ranges(f"{header},0-0", 10_000)


def test_a_flood_of_commas_is_refused() -> None:
    with pytest.raises(RangeRefused):
        parse_ranges("bytes=" + "," * 150_000, 10_000)


def test_each_byte_may_be_asked_twice_and_no_more() -> None:
    assert parse_ranges("bytes=0-99,0-99", 100) == [ByteRange(0, 99)] * 2
    with pytest.raises(RangeRefused):
        parse_ranges("bytes=0-99,0-99,0-0", 100)


@quick
@given(st.text(max_size=30))
def test_any_range_text_is_answered_or_a_domain_error(text: str) -> None:
    try:
        found = parse_ranges(f"bytes={text}", 100)
    except (RangeUnsatisfiable, RangeRefused) as error:
        assert len(error.message) < 200  # noqa: PT017 - one of two good ends
    else:
        assert found
        assert all(0 <= one.start <= one.end < 100 for one in found)


def test_a_content_range_names_first_last_and_size() -> None:
    assert ByteRange(5, 9).content_range(100) == "bytes 5-9/100"


etag_words = st.text("abcdef0123456789:,*!#%", max_size=12)


@quick
@given(st.lists(st.tuples(st.booleans(), etag_words), max_size=5), st.sampled_from([",", ", "]))
def test_a_copy_is_current_when_its_tag_is_listed_strong_or_weak(
    listed: list[tuple[bool, str]], separator: str
) -> None:
    header = separator.join(f'{"W/" if weak else ""}"{word}"' for weak, word in listed)
    assert is_unchanged(header, '"abc"') is any(word == "abc" for _, word in listed)
    assert is_unchanged(f'{header}{separator}W/"abc"', '"abc"')
    assert is_unchanged(f'"abc"{separator}{header}', '"abc"')


@pytest.mark.parametrize("header", ["*", " * "])
def test_any_copy_is_current_for_a_star(header: str) -> None:
    assert is_unchanged(header, ETAG)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha256:0123",
        '"sha256:012"',
        '"sha256:01234"',
        '"SHA256:0123"',
        '"*"',
        "'*'",
        "W/",
    ],
)
def test_another_tag_or_none_is_not_current(header: str | None) -> None:
    assert not is_unchanged(header, ETAG)


@pytest.mark.parametrize("header", [None, ETAG, f" {ETAG} "])
def test_a_range_applies_without_a_condition_and_to_the_same_tag(header: str | None) -> None:
    assert range_applies(header, ETAG)


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"W/{ETAG}",
        '"other"',
        "*",
        "sha256:0123",
        "Sat, 29 Oct 1994 19:43:31 GMT",
        f"{ETAG}, {ETAG}",
    ],
)
def test_a_range_does_not_apply_to_a_weak_or_other_tag_or_a_date(header: str) -> None:
    assert not range_applies(header, ETAG)


@pytest.mark.parametrize(
    ("n", "limit"),
    [(None, 50), ("0", 0), ("1", 1), ("050", 50), ("51", 50), ("9" * 5000, 50), ("000000000", 0)],
)
def test_a_page_is_as_long_as_asked_and_never_over_the_maximum(n: str | None, limit: int) -> None:
    assert parse_page(n, None, maximum=50) == Page(limit=limit, last="")


@quick
@given(st.integers(0, 10**30), st.integers(0, 40))
def test_leading_zeros_do_not_change_a_number_of_entries(n: int, zeros: int) -> None:
    assert parse_page("0" * zeros + str(n), None, maximum=50).limit == min(n, 50)


@pytest.mark.parametrize(
    "n", ["", "-1", "+1", "1.0", "1e3", "a", " 1", "1\n", "0x1", "1_0", "\u0661", "\u00b2"]
)
def test_what_is_no_number_of_entries_is_refused(n: str) -> None:
    with pytest.raises(RequestInvalid):
        parse_page(n, None, maximum=50)


@pytest.mark.parametrize("last", ["", "v1", "a/b", "nothing by this name", "é", "x" * 255])
def test_a_page_may_start_after_what_need_not_exist(last: str) -> None:
    assert parse_page("5", last, maximum=50) == Page(limit=5, last=last)


@pytest.mark.parametrize("last", ["a\0", "a\n", "\x7f", "\ud800", "x" * 256])
def test_a_start_that_no_list_could_have_named_is_refused(last: str) -> None:
    with pytest.raises(RequestInvalid):
        parse_page(None, last, maximum=50)


@quick
@given(st.text(max_size=20), st.integers(0, 10**6))
def test_a_link_gives_back_its_path_and_query_and_stays_one_header(last: str, n: int) -> None:
    path = "/v2/a/b/tags/list"
    link = next_link(path, n=n, last=last)
    assert link.isascii()
    assert link.isprintable()
    target, _, relation = link.partition(">")
    assert relation == '; rel="next"'
    there, _, query = target.removeprefix("<").partition("?")
    assert unquote(there) == path
    assert parse_qs(query, keep_blank_values=True) == {"n": [str(n)], "last": [last]}


def test_a_path_in_a_link_is_escaped() -> None:
    assert next_link("/v2/a>b é/tags/list", n=1).startswith("</v2/a%3Eb%20%C3%A9/tags/list?n=1>")


def test_a_position_of_any_length_is_a_number() -> None:
    for nines in (20, 21, 5_000, 100_000):
        beyond = "9" * nines
        assert parse_ranges(f"bytes=2-{beyond}", 10) == [ByteRange(2, 9)]
        assert parse_ranges(f"bytes=-{beyond}", 10) == [ByteRange(0, 9)]
        with pytest.raises(RangeUnsatisfiable):
            parse_ranges(f"bytes={beyond}-", 10)
    assert parse_ranges(f"bytes={'0' * 5_000}2-{'0' * 5_000}3", 10) == [ByteRange(2, 3)]

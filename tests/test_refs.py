"""Names, tags and digests: what is one parses to itself, what is none is refused."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.errors import DigestInvalid, LadingError, NameInvalid, TagInvalid
from ociserver.refs import (
    HEX_LENGTH,
    NAME_MAX,
    Digest,
    parse_algorithm,
    parse_name,
    parse_reference,
    parse_tag,
    shortened,
)

quick = settings(derandomize=True, deadline=None, max_examples=150)

LOWER = string.ascii_lowercase + string.digits
WORD_CHARACTERS = string.ascii_letters + string.digits + "_"
SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

words = st.text(LOWER, min_size=1, max_size=6)
separators = st.sampled_from([".", "_", "__", "-", "--", "-----"])


@st.composite
def components(draw: st.DrawFn) -> str:
    text = draw(words)
    for separator, word in draw(st.lists(st.tuples(separators, words), max_size=3)):
        text += separator + word
    return text


names = st.lists(components(), min_size=1, max_size=4).map("/".join)
tags = st.builds(
    str.__add__,
    st.sampled_from(WORD_CHARACTERS),
    st.text(WORD_CHARACTERS + ".-", max_size=127),
)
digests = st.sampled_from(sorted(HEX_LENGTH.items())).flatmap(
    lambda one: st.text("0123456789abcdef", min_size=one[1], max_size=one[1]).map(
        lambda digits: f"{one[0]}:{digits}"
    )
)
# Whatever a client may put next to something valid to slip past a check of lines or of Unicode.
intruders = st.sampled_from(["\n", "\r", "\0", " ", "\u0660", "\uff11", "é", "ſ", "%", "\u200b"])  # noqa: RUF001


@quick
@given(names)
def test_a_name_of_the_grammar_is_itself(name: str) -> None:
    assert parse_name(name) == name


@quick
@given(tags)
def test_a_tag_of_the_grammar_is_itself(tag: str) -> None:
    assert parse_tag(tag) == tag
    assert parse_reference(tag) == tag


@quick
@given(digests)
def test_a_digest_is_itself_and_the_sum_of_its_parts(text: str) -> None:
    digest = Digest.parse(text)
    assert digest == text
    assert f"{digest.algorithm}:{digest.hex}" == text
    assert len(digest.hex) == HEX_LENGTH[digest.algorithm]
    assert isinstance(parse_reference(text), Digest)


@quick
@given(names, intruders, st.data())
def test_a_name_with_a_foreign_character_anywhere_is_refused(
    name: str, intruder: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(name)))
    with pytest.raises(NameInvalid):
        parse_name(name[:at] + intruder + name[at:])


@quick
@given(tags.map(lambda tag: tag[:100]), intruders, st.data())
def test_a_tag_with_a_foreign_character_anywhere_is_refused(
    tag: str, intruder: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(tag)))
    with pytest.raises(TagInvalid):
        parse_tag(tag[:at] + intruder + tag[at:])


@quick
@given(digests, intruders, st.data())
def test_a_digest_with_any_character_replaced_by_a_foreign_one_is_refused(
    text: str, intruder: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(DigestInvalid):
        Digest.parse(text[:at] + intruder + text[at + 1 :])


@quick
@given(st.text(max_size=300))
def test_any_text_is_a_reference_or_a_domain_error(text: str) -> None:
    for parse in (parse_name, parse_reference, Digest.parse, parse_algorithm):
        try:
            assert parse(text) == text
        except LadingError as error:
            assert len(error.message) < 400  # noqa: PT017 - the error is one of two good ends


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "a/B",
        "_a",
        "a_",
        "a___b",
        "a..b",
        "a._b",
        "a/_b",
        ".",
        "..",
        "a/../b",
        "-a",
        "a-",
        "a:b",
        "a@b",
        "a\n",
        "a\nb",
        "a b",
        "\u0661",
        "²",
        "ß",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_name(text)


@pytest.mark.parametrize(
    "text", ["", ".a", "-a", "a/b", "a:b", "a\n", "a b", "a+b", "\u0661", "a" * 129]
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(TagInvalid):
        parse_tag(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        "sha256:baddigeststring",
        SHA256 + "\n",
        SHA256 + "0",
        SHA256[:-1],
        SHA256.upper(),
        SHA256.replace("a", "A"),
        SHA256.replace("sha256", "SHA256"),
        SHA256.replace("sha256", "sha512"),
        SHA512.replace("sha512", "sha256"),
        SHA256.replace(":", "-"),
        SHA256.replace("0", "\u0660"),
        " " + SHA256,
        "md5:" + "0" * 32,
        "sha384:" + "0" * 96,
        "sha256+sha256:" + "0" * 64,
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


def test_the_longest_name_is_a_name_and_one_more_is_not() -> None:
    assert len(parse_name("a" * NAME_MAX)) == 255
    with pytest.raises(NameInvalid):
        parse_name("a" * (NAME_MAX + 1))


def test_the_longest_tag_is_a_tag() -> None:
    assert len(parse_tag("a" * 128)) == 128


def test_a_long_name_that_almost_matches_is_refused_at_once() -> None:
    # A grammar that backtracks would take longer than this test may.
    with pytest.raises(NameInvalid):
        parse_name("a-" * 127 + "A")


def test_a_reference_with_a_colon_is_never_a_tag() -> None:
    with pytest.raises(DigestInvalid):
        parse_reference("latest:1")


def test_an_unknown_algorithm_is_named_with_those_that_are_known() -> None:
    with pytest.raises(DigestInvalid, match=r"'md5'.*sha256, sha512"):
        Digest.parse("md5:" + "0" * 32)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_algorithm_we_compute_is_itself(algorithm: str) -> None:
    assert parse_algorithm(algorithm) == algorithm


@pytest.mark.parametrize("text", ["", "md5", "SHA256", "sha256\n", "sha256:", "sha-256"])
def test_an_algorithm_we_do_not_compute_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_algorithm(text)


@quick
@given(st.text(max_size=200))
def test_a_shortened_text_is_at_most_a_line_and_begins_as_the_text_does(text: str) -> None:
    short = shortened(text)
    assert len(short) <= 80
    assert text.startswith(short.removesuffix("...") if len(text) > 80 else short)
    assert len(text) > 80 or short == text


@pytest.mark.parametrize("parse", [parse_name, parse_tag, Digest.parse, parse_algorithm])
def test_no_error_echoes_a_flood(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(LadingError) as caught:
        parse("X!" * 50_000)
    assert len(caught.value.message) < 400

"""Where blobs lie in S3, from the URL that says it."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociserver.bucket import Bucket

_names = st.from_regex(r"[a-z0-9][a-z0-9-]{1,20}[a-z0-9]", fullmatch=True)
_segments = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
_secrets = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)
_endpoints = st.sampled_from(
    ["http://127.0.0.1:9000", "https://s3.example.org", "http://[::1]:9000/"]
)


@given(_names, st.lists(_segments, max_size=3), st.none() | _endpoints, st.none() | _segments)
def test_a_place_that_is_written_as_a_url_is_read_again(
    name: str, prefix: list[str], endpoint: str | None, region: str | None
) -> None:
    options = {"endpoint": endpoint, "region": region}
    query = urlencode({key: value for key, value in options.items() if value})
    bucket = Bucket.parse(f"s3://{name}/{'/'.join(prefix)}?{query}")
    assert bucket == Bucket(
        name=name,
        prefix="".join(f"{each}/" for each in ["/".join(prefix)] if each),
        endpoint=endpoint,
        region=region,
        addressing="path" if endpoint else "auto",
    )


@given(_secrets, _secrets)
def test_credentials_are_read_whatever_they_hold(user: str, secret: str) -> None:
    bucket = Bucket.parse(f"s3://{quote(user, safe='')}:{quote(secret, safe='')}@some-bucket/")
    assert (bucket.access_key, bucket.secret_key) == (user, secret)
    assert bucket.name == "some-bucket"


@pytest.mark.parametrize(
    ("asked", "endpoint", "addressing"),
    [
        ("", "", "auto"),
        ("path", "", "path"),
        ("virtual", "", "virtual"),
        ("", "http://here:1", "path"),
        ("virtual", "http://here:1", "virtual"),
    ],
)
def test_a_server_of_ones_own_is_addressed_by_path(
    asked: str, endpoint: str, addressing: str
) -> None:
    bucket = Bucket.parse(f"s3://bucket/?addressing={asked}&endpoint={endpoint}")
    assert bucket.addressing == addressing


@pytest.mark.parametrize(
    "url",
    [
        "s3:///prefix",
        "s3://ab/",
        "s3://Bucket/",
        "s3://bucket:9000/",
        "s3://buc_ket/",
        f"s3://{'b' * 64}/",
        "s3://-bucket/",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/.",
        "s3://bucket/a b",
        "s3://bucket/a%2e",
        "s3://bucket/#fragment",
        "s3://bucket/?endpoint=here",
        "s3://bucket/?endpoint=http://here/path",
        "s3://bucket/?region=a&region=b",
        "s3://bucket/?color=red",
        "s3://bucket/?color",
        "s3://bucket/?addressing=street",
        "s3://user@bucket/",
        "https://bucket/",
    ],
)
def test_what_is_no_place_in_s3_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says what form it takes
        Bucket.parse(url)


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        bucket = Bucket.parse(f"s3://{text}")
    except ValueError:
        return
    assert not bucket.prefix.startswith("/")
    assert ".." not in bucket.prefix.split("/")

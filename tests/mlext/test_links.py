# Addresses of downloads: what was signed is taken, and nothing else.
from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.downloads import safe_path
from mlext.errors import LinkExpired, LinkInvalid
from mlext.links import Kind, Link, disposition, filename_of, signed_link
from ociserver.refs import Digest, parse_name

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
DIGEST, OTHER = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
NAME = parse_name("team/fraud")
_filenames = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=40)


def link(**changes: object) -> Link:
    fields: dict[str, object] = {
        "kind": "blobs",
        "repository": NAME,
        "digest": DIGEST,
        "filename": "model.bin",
        "expires": 1_000,
    }
    return Link(**(fields | changes))  # type: ignore[arg-type]


def query(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))


@given(_filenames, st.integers(1, 10**12 - 1))
def test_what_was_given_out_is_taken_until_its_time_is_over(filename: str, expires: int) -> None:
    given_out = link(filename=filename, expires=expires)
    address = given_out.address(KEY)
    assert urlsplit(address).path == f"/v1/downloads/{NAME}/blobs/{DIGEST}"
    assert signed_link("blobs", (NAME, DIGEST), query(address), KEY, expires - 1) == given_out
    with pytest.raises(LinkExpired):
        signed_link("blobs", (NAME, DIGEST), query(address), KEY, expires)


@pytest.mark.parametrize(
    ("kind", "place", "changes", "key"),
    [
        ("manifests", (NAME, DIGEST), {}, KEY),
        ("blobs", (parse_name("team/other"), DIGEST), {}, KEY),
        ("blobs", (NAME, OTHER), {}, KEY),
        ("blobs", (NAME, DIGEST), {"expires": "1001"}, KEY),
        ("blobs", (NAME, DIGEST), {"expires": ""}, KEY),
        ("blobs", (NAME, DIGEST), {"expires": "-1"}, KEY),
        ("blobs", (NAME, DIGEST), {"expires": "٣"}, KEY),
        ("blobs", (NAME, DIGEST), {"expires": "9" * 5000}, KEY),
        ("blobs", (NAME, DIGEST), {"filename": "other.bin"}, KEY),
        ("blobs", (NAME, DIGEST), {"filename": "a\nb"}, KEY),
        ("blobs", (NAME, DIGEST), {"signature": ""}, KEY),
        ("blobs", (NAME, DIGEST), {"signature": "é"}, KEY),
        ("blobs", (NAME, DIGEST), {}, OTHER_KEY),
        ("blobs", (NAME, DIGEST), {}, None),
    ],
)
def test_what_was_changed_is_refused(
    kind: Kind, place: tuple[object, object], changes: dict[str, str], key: bytes | None
) -> None:
    asked = query(link().address(KEY)) | changes
    with pytest.raises(LinkInvalid):
        signed_link(kind, place, asked, key, 1.0)  # type: ignore[arg-type]


@given(st.integers(0, 42), st.sampled_from("AZaz09-_"))
def test_no_character_of_a_signature_can_be_another(place: int, other: str) -> None:
    asked = query(link().address(KEY))
    was = asked["signature"]
    assert len(was) == 43
    asked["signature"] = was[:place] + other + was[place + 1 :]
    if asked["signature"] != was:
        with pytest.raises(LinkInvalid):
            signed_link("blobs", (NAME, DIGEST), asked, KEY, 1.0)


@given(_filenames.filter(bool))
def test_a_client_saves_the_file_under_its_name(filename: str) -> None:
    header = disposition(filename)
    assert header.isascii()
    assert header.isprintable()
    plain, _, extended = header.removeprefix('attachment; filename="').partition('"; ')
    assert len(plain) == len(filename)
    assert not set(plain) & set('"\\%')
    assert unquote(extended.removeprefix("filename*=UTF-8''")) == filename


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("model.bin", "model.bin"),
        ("weights/00/model.bin", "model.bin"),
        (None, "digest"),
        ("x" * 256, "digest"),
    ],
)
def test_a_file_has_the_last_part_of_its_path_for_a_name(path: str | None, name: str) -> None:
    assert filename_of(path, "digest") == name


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("model.safetensors", "model.safetensors"),
        ("./weights/model.bin", "weights/model.bin"),
        ("folder/", "folder"),
        ("gewichte/größe 1.bin", "gewichte/größe 1.bin"),
        ("..", None),
        ("../../etc/passwd", None),
        ("a/../b", None),
        ("/etc/passwd", None),
        ("a//b", None),
        ("C:/x", None),
        ("a\\..\\b", None),
        ("a\nb", None),
        ("a\0b", None),
        ("\ud800", None),
        ("", None),
        (".", None),
        ("x" * 1001, None),
    ],
)
def test_a_path_that_leads_elsewhere_is_none(text: str, path: str | None) -> None:
    assert safe_path(text) == path

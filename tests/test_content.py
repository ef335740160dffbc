"""Manifests as documents: what one names, what a referrers list says of it, what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    parse_manifest,
)
from ociserver.errors import ManifestInvalid
from ociserver.refs import Digest

quick = settings(derandomize=True, deadline=None, max_examples=150)

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def described(number: int = 1, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(number), "size": 5, **more}


def changed(document: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A field given as None is left out."""
    return {key: value for key, value in {**document, **fields}.items() if value is not None}


def image(**fields: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(1, CONFIG),
        "layers": [described(2), described(3)],
    }
    return changed(document, fields)


def index(**fields: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [described(4, OCI_MANIFEST), described(5, OCI_INDEX)],
    }
    return changed(document, fields)


def parsed(document: dict[str, Any], content_type: str | None = None) -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type)


def referrer(document: dict[str, Any], content_type: str | None = None) -> dict[str, Any]:
    """What a referrers list says of the manifest."""
    listed = parsed(document, content_type).descriptor(Digest.parse(digest(9)), 77)
    return dict(json.loads(listed))


def refused(body: bytes | dict[str, Any], content_type: str | None = None) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(raw, content_type)
    return caught.value.message


def test_an_image_manifest_names_its_config_and_layers() -> None:
    view = parsed(image(), OCI_MANIFEST)
    assert view.media_type == OCI_MANIFEST
    assert view.blobs == (digest(1), digest(2), digest(3))
    assert view.manifests == ()
    assert view.subject is None


def test_an_index_names_its_manifests() -> None:
    view = parsed(index(), OCI_INDEX)
    assert view.media_type == OCI_INDEX
    assert view.manifests == (digest(4), digest(5))
    assert view.blobs == ()


def test_docker_s_schema_2_and_list_are_read_as_their_oci_kin() -> None:
    schema2 = parsed(image(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST)
    assert schema2.blobs == (digest(1), digest(2), digest(3))
    listed = parsed(index(mediaType=DOCKER_LIST), DOCKER_LIST)
    assert listed.manifests == (digest(4), digest(5))


def test_the_type_is_the_header_s_else_the_document_s_else_what_its_fields_tell() -> None:
    for header in (None, "", OCI_MANIFEST, f"{OCI_MANIFEST}; charset=utf-8"):
        assert parsed(image(), header).media_type == OCI_MANIFEST
    assert parsed(image(mediaType=None), DOCKER_MANIFEST).media_type == DOCKER_MANIFEST
    assert parsed(image(mediaType=None)).media_type == OCI_MANIFEST
    assert parsed(index(mediaType=None)).media_type == OCI_INDEX


@pytest.mark.parametrize("content_type", [DOCKER_MANIFEST, OCI_INDEX, "application/json"])
def test_a_header_that_contradicts_the_document_is_refused(content_type: str) -> None:
    assert "mediaType" in refused(image(), content_type)


@pytest.mark.parametrize(
    "text", ["x", "a/", "/b", "a/b\nc", "a/b/c", "é/b", "a b/c", "a" * 128 + "/b"]
)
def test_what_is_no_media_type_is_refused(text: str) -> None:
    refused(image(mediaType=None), text)
    refused(image(mediaType=text))


def test_unknown_media_types_and_fields_are_accepted_as_they_are() -> None:
    document = {"blobs": [described(1), described(2)], "layers": [described(3, "x/y")]}
    document |= {"manifests": [described(4)], "extra": [{"deep": [1, None, {"x": 1.5}]}]}
    view = parsed(document, "application/vnd.someone.thing.v9+json")
    assert view.media_type == "application/vnd.someone.thing.v9+json"
    assert set(view.blobs) == {digest(1), digest(2), digest(3)}
    assert view.manifests == (digest(4),)
    assert parsed(image(extra=[{}], layers=[described(2, "x/y", unknown=1)])).blobs


def test_a_null_field_is_an_absent_field() -> None:
    body = json.dumps({**image(), "subject": None, "annotations": None, "layers": None}).encode()
    view = parse_manifest(body, None)
    assert (view.subject, view.annotations, view.blobs) == (None, {}, (digest(1),))


@pytest.mark.parametrize("media_type", sorted(MANIFESTS))
def test_a_manifest_that_is_also_an_index_is_refused(media_type: str) -> None:
    assert "manifests" in refused(image(mediaType=None, manifests=[]), media_type)


@pytest.mark.parametrize("media_type", sorted(INDEXES))
@pytest.mark.parametrize("field", ["layers", "config"])
def test_an_index_that_is_also_a_manifest_is_refused(media_type: str, field: str) -> None:
    assert field in refused(index(mediaType=None, **{field: image()[field]}), media_type)


def test_without_any_type_a_document_with_manifests_and_layers_is_refused() -> None:
    refused({**image(mediaType=None), "manifests": []})


@pytest.mark.parametrize("version", [None, 1, 3, "2", [2]])
def test_another_schema_version_is_refused(version: object) -> None:
    refused(image(schemaVersion=version))
    refused(index(schemaVersion=version))


def test_an_image_manifest_without_config_is_refused() -> None:
    assert "config" in refused(image(config=None))


@pytest.mark.parametrize(
    "kind", ["oci.image.layer.nondistributable.v1.tar+gzip", "docker.image.rootfs.foreign.diff.tar"]
)
def test_a_foreign_layer_is_not_required(kind: str) -> None:
    view = parsed(image(layers=[described(2, f"application/vnd.{kind}"), described(3)]))
    assert view.blobs == (digest(1), digest(3))


def test_a_layer_that_is_to_be_had_elsewhere_is_not_required() -> None:
    layers = [described(2, urls=["https://example.org/x"]), described(3, urls=[])]
    assert parsed(image(layers=layers)).blobs == (digest(1), digest(3))


def test_a_digest_named_twice_counts_once() -> None:
    view = parsed(image(layers=[described(2), described(1), described(2)]))
    assert view.blobs == (digest(1), digest(2))
    assert parsed(index(manifests=[described(4)] * 3)).manifests == (digest(4),)


@pytest.mark.parametrize("document", [image(), index(), image(mediaType=DOCKER_MANIFEST)])
def test_a_subject_is_named_but_is_no_child(document: dict[str, Any]) -> None:
    view = parsed({**document, "subject": described(8, OCI_MANIFEST)})
    assert view.subject == digest(8)
    assert digest(8) not in {*view.blobs, *view.manifests}


BAD_DIGESTS = ("", "sha256:baddigeststring", "md5:" + "0" * 32, digest(1) + "\n", 5, None)
BAD_SIZES = (-1, "5", 5.0, True, None)


@pytest.mark.parametrize(
    "subject",
    ["sha256", [], {}, described(1) | {"mediaType": 5}]
    + [described(1) | {"digest": bad} for bad in BAD_DIGESTS]
    + [described(1) | {"size": bad} for bad in BAD_SIZES],
)
@pytest.mark.parametrize("field", ["subject", "config", "layers", "blobs", "manifests"])
def test_what_is_no_descriptor_is_refused_wherever_it_stands(field: str, subject: object) -> None:
    listed = field not in {"subject", "config"}
    document = {field: [described(1), subject] if listed else subject}
    said = refused(document, "application/vnd.someone.thing.v9+json")
    assert said.startswith(f"{field}[1]" if listed else field)


@pytest.mark.parametrize("field", ["layers", "blobs", "manifests"])
def test_what_should_be_a_list_and_is_none_is_refused(field: str) -> None:
    assert field in refused({field: {}}, "application/vnd.someone.thing.v9+json")


@pytest.mark.parametrize(
    ("document", "listed"),
    [
        (image(), CONFIG),
        (image(artifactType="a/b"), "a/b"),
        (image(artifactType=""), CONFIG),
        (image(mediaType=DOCKER_MANIFEST, config=described(1, "c/d")), "c/d"),
        (image(config={"digest": digest(1), "size": 2}), None),
        (index(), None),
        (index(artifactType="a/b"), "a/b"),
        (index(artifactType=""), None),
    ],
)
def test_a_referrer_s_artifact_type_is_its_own_else_its_config_s_and_an_index_may_have_none(
    document: dict[str, Any], listed: str | None
) -> None:
    assert parsed(document).artifact_type == listed
    found = referrer(document)
    assert found.get("artifactType") == listed
    assert ("artifactType" in found) is (listed is not None)


def test_a_referrer_is_listed_with_type_digest_size_and_all_annotations() -> None:
    annotations = {"one": "é\u2028\0", "two": "", "": "empty"}
    assert referrer(image(annotations=annotations)) == {
        "mediaType": OCI_MANIFEST,
        "digest": digest(9),
        "size": 77,
        "artifactType": CONFIG,
        "annotations": annotations,
    }
    assert "annotations" not in referrer(image(annotations={}))


def test_half_a_surrogate_pair_is_refused_for_no_list_could_carry_it() -> None:
    with pytest.raises(ManifestInvalid):
        referrer(image(annotations={"surrogate": "\ud800"}))


@pytest.mark.parametrize("annotations", [[], "x", {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {}}])
def test_annotations_that_are_no_map_of_strings_are_refused(annotations: object) -> None:
    assert "annotations" in refused(image(annotations=annotations))


@pytest.mark.parametrize("field", ["mediaType", "artifactType"])
@pytest.mark.parametrize("value", [5, [], {}, True])
def test_a_type_that_is_no_string_is_refused(field: str, value: object) -> None:
    assert field in refused(image(**{field: value}))


@pytest.mark.parametrize(
    "document", [image(artifactType="\ud800"), image(config=described(1, "\ud800"))]
)
def test_an_artifact_type_that_is_no_text_is_refused(document: dict[str, Any]) -> None:
    refused(document)  # no catalog can keep it, and no client can ask for it


NOT_OBJECTS = [b"", b"null", b"[]", b'"text"', b"5", b"{", b"{}x", b"{'a': 1}"]
NOT_JSON = [b"NaN", b"Infinity", b"-Infinity", b'"\xff"', b'"\xed\xa0\x80"']
TOO_DEEP = [b"[" * 4_000_000, b'{"a":' * 500_000, b'{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}"]
NOT_UTF_8 = [json.dumps(image()).encode(other) for other in ("utf-16", "utf-32-le", "utf-8-sig")]
BODIES = NOT_OBJECTS + [b'{"a": %s}' % each for each in NOT_JSON] + TOO_DEEP + NOT_UTF_8


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_what_is_no_json_object_in_utf_8_is_refused(body: bytes) -> None:
    assert len(refused(body, OCI_MANIFEST)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = ["mediaType", "schemaVersion", "config", "layers", "manifests", "subject", "annotations"]


@quick
@given(
    st.sampled_from([image(), index()]),
    st.dictionaries(st.sampled_from([*FIELDS, "artifactType", "blobs", "other"]), json_values),
)
def test_a_manifest_with_any_value_in_any_field_is_read_or_refused(
    document: dict[str, Any], changes: dict[str, Any]
) -> None:
    body = json.dumps({**document, **changes}).encode()
    try:
        view = parse_manifest(body, None)
    except ManifestInvalid:
        return
    listed = json.loads(view.descriptor(Digest.parse(digest(9)), len(body)))
    assert listed["mediaType"] == view.media_type


def test_a_number_longer_than_any_size_is_kept_where_it_means_nothing() -> None:
    digits = b"9" * 5_000
    body = json.dumps(image()).encode()
    found = parse_manifest(body.replace(b"{", b'{"x": %s, ' % digits, 1), OCI_MANIFEST)
    assert found.media_type == OCI_MANIFEST
    for sign in (b"", b"-"):
        refused(body.replace(b'"size": 5', b'"size": %s%s' % (sign, digits)), OCI_MANIFEST)

# What a manifest may hold and how large it may be; what is taken is served byte for byte.
from __future__ import annotations

import json

import httpx
import pytest

from tests.serving import digest_of
from tests.wire.build import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MIB,
    OCI_INDEX,
    OCI_MANIFEST,
    assert_refused,
    descriptor,
    image,
    index,
    new_repository,
    noise,
    put_manifest,
    unique_image,
)


def padded(size: int) -> bytes:
    """Return an image manifest of exactly that many bytes."""
    body = unique_image()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (
            b'  {"schemaVersion": 2,\n\t"config":'
            + json.dumps(descriptor(b"{}")).encode()
            + b',"layers":[ ] }\r\n ',
            OCI_MANIFEST,
        ),
        (
            image(a="here", z="\u00e9\U0001f600").replace(b'"here"', b"[1.50, 1e400, -0.0]"),
            OCI_MANIFEST,
        ),
        (b'{"a":1,"a":2,"schemaVersion":2,"manifests":[]}', OCI_INDEX),
        (b'{"anything":"\\u0041\\/"}', "application/vnd.example.unknown.v7+json"),
        (image(subject=None, annotations=None), OCI_MANIFEST),
    ],
)
def test_bytes_and_type_are_kept_as_they_came(
    client: httpx.Client, body: bytes, media_type: str
) -> None:
    repository = new_repository()
    put_manifest(client, repository, "v1", body, media_type)
    answer = client.get(f"/v2/{repository}/manifests/v1", headers={"accept": "text/html"})
    assert answer.content == body
    assert answer.headers["content-type"] == media_type
    assert "content-encoding" not in answer.headers


def test_docker_schema_2_and_its_list(client: httpx.Client) -> None:
    repository = new_repository()
    single = image(noise(3), mediaType=DOCKER_MANIFEST)
    many = index(single, mediaType=DOCKER_LIST)
    put_manifest(client, repository, digest_of(single), single, DOCKER_MANIFEST)
    put_manifest(client, repository, "v1", many, DOCKER_LIST)
    answer = client.get(f"/v2/{repository}/manifests/v1")
    assert (answer.content, answer.headers["content-type"]) == (many, DOCKER_LIST)
    answer = client.get(f"/v2/{repository}/manifests/{digest_of(single)}")
    assert (answer.content, answer.headers["content-type"]) == (single, DOCKER_MANIFEST)


def test_4_mib_are_taken(client: httpx.Client) -> None:
    repository, body = new_repository(), padded(4 * MIB)
    put_manifest(client, repository, "v1", body)
    assert client.get(f"/v2/{repository}/manifests/v1").content == body


@pytest.mark.parametrize("streamed", [True, False])
def test_one_byte_more_is_413(client: httpx.Client, streamed: bool) -> None:
    repository, body = new_repository(), padded(4 * MIB + 1)
    answer = client.put(
        f"/v2/{repository}/manifests/v1",
        content=iter([body[:MIB], body[MIB:]]) if streamed else body,
        headers={"content-type": OCI_MANIFEST},
    )
    assert_refused(answer, 413, "SIZE_INVALID")
    assert_refused(client.get(f"/v2/{repository}/manifests/v1"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_that_hashes_to_something_else_is_refused(
    client: httpx.Client, algorithm: str
) -> None:
    target = f"/v2/{new_repository()}/manifests/{digest_of(b'other', algorithm)}"
    answer = client.put(target, content=unique_image(), headers={"content-type": OCI_MANIFEST})
    assert_refused(answer, 400, "DIGEST_INVALID")
    assert_refused(client.get(target), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"schemaVersion":2}',
        b"[" * 100_000,
        b'{"schemaVersion":NaN}',
        b'{"schemaVersion":' + b"9" * 10_000 + b"}",
        image(config=None),
        image(config={"digest": "sha256:no", "size": 1}),
        image(config={"digest": digest_of(b""), "size": -1}),
        image(config={"digest": digest_of(b""), "size": "1"}),
        image(config={"size": 1}),
        image(config=[]),
        image(layers={}),
        image(layers=[1]),
        image(layers=[{"digest": digest_of(b""), "size": 0, "mediaType": 5}]),
        image(mediaType=OCI_INDEX),
        image(manifests=[]),
        image(schemaVersion=1),
        image(annotations={"a": 1}),
        image(annotations=[]),
        image(artifactType=7),
        image(subject={"digest": "no", "size": 1}),
    ],
)
def test_a_body_that_is_no_manifest_is_refused(client: httpx.Client, body: bytes) -> None:
    repository = new_repository()
    answer = client.put(
        f"/v2/{repository}/manifests/v1", content=body, headers={"content-type": OCI_MANIFEST}
    )
    assert_refused(answer, 400, "MANIFEST_INVALID")
    assert_refused(client.get(f"/v2/{repository}/manifests/v1"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("field", ["artifactType", "annotations", "config", "mediaType"])
def test_text_that_is_no_unicode_is_no_fault(client: httpx.Client, field: str) -> None:
    # A lone surrogate is legal in JSON's grammar and in no encoding.
    value: object = {
        "artifactType": "\ud800",
        "annotations": {"a\ud800": "\udfff"},
        "config": descriptor(b"{}", "a/\ud800"),
        "mediaType": "a/\ud800",
    }[field]
    body = unique_image(**{field: value}, subject=descriptor(b"subject"))
    answer = client.put(
        f"/v2/{new_repository()}/manifests/v1", content=body, headers={"content-type": OCI_MANIFEST}
    )
    assert answer.status_code in {201, 400}, answer.text


@pytest.mark.parametrize(
    "media_type",
    ["nonsense", "a/b c", "text/\u00e9".encode().decode("latin-1"), "/", "a/" + "b" * 200],
)
def test_a_content_type_that_is_none_is_refused(client: httpx.Client, media_type: str) -> None:
    answer = client.put(
        f"/v2/{new_repository()}/manifests/v1",
        content=b'{"schemaVersion":2}',
        headers={b"content-type": media_type.encode("latin-1")},
    )
    assert_refused(answer, 400, "MANIFEST_INVALID")

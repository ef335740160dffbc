# end-3, end-7, end-9: manifests by tag and by digest, kept and served byte for byte.
from __future__ import annotations

import json
import os

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
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


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_by_digest(client: httpx.Client, algorithm: str) -> None:
    repository, body = new_repository(), unique_image()
    digest = digest_of(body, algorithm)
    pushed = put_manifest(client, repository, digest, body)
    assert pushed.headers["docker-content-digest"] == digest
    assert client.get(pushed.headers["location"]).content == body
    answer = client.get(f"/v2/{repository}/manifests/{digest}")
    assert answer.content == body
    assert answer.headers["docker-content-digest"] == digest
    assert answer.headers["content-type"] == OCI_MANIFEST
    assert answer.headers["content-length"] == str(len(body))


def test_a_manifest_by_tag(client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    pushed = put_manifest(client, repository, "latest", body)
    assert pushed.headers["docker-content-digest"] == digest_of(body)
    for reference in ("latest", digest_of(body)):
        answer = client.get(f"/v2/{repository}/manifests/{reference}")
        assert answer.content == body
        assert answer.headers["docker-content-digest"] == digest_of(body)
    assert client.get(pushed.headers["location"]).content == body


def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client) -> None:
    repository = new_repository()
    put_manifest(client, repository, "v1", unique_image())
    target = f"/v2/{repository}/manifests/v1"
    head, get = client.head(target), client.get(target)
    assert (head.status_code, head.content) == (200, b"")
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


@pytest.mark.parametrize("count", [1, 10, 50])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_with_many_tags_at_once(
    client: httpx.Client, count: int, algorithm: str
) -> None:
    repository, body = new_repository(), unique_image()
    tags = [f"{number:03}-{'x' * 120}" for number in range(count)]
    digest = digest_of(body, algorithm)
    pushed = put_manifest(client, repository, digest, body, tags=tags)
    said = [each.strip() for each in ",".join(pushed.headers.get_list("oci-tag")).split(",")]
    assert sorted(said) == tags
    assert client.get(f"/v2/{repository}/tags/list").json()["tags"] == tags
    for tag in tags:
        answer = client.get(f"/v2/{repository}/manifests/{tag}")
        assert (answer.content, answer.headers["docker-content-digest"]) == (body, digest)


def test_tags_go_with_a_push_by_digest_only(client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    answer = client.put(
        f"/v2/{repository}/manifests/v1",
        params={"tag": "v2"},
        content=body,
        headers={"content-type": OCI_MANIFEST},
    )
    assert_refused(answer, 400, "UNSUPPORTED")
    assert_refused(client.get(f"/v2/{repository}/manifests/v2"), 404, "MANIFEST_UNKNOWN")


def test_one_bad_tag_refuses_the_whole_push(client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    target = f"/v2/{repository}/manifests/{digest_of(body)}"
    answer = client.put(
        target,
        params={"tag": ["good", "-bad"]},
        content=body,
        headers={"content-type": OCI_MANIFEST},
    )
    assert_refused(answer, 400, "MANIFEST_INVALID")
    assert_refused(client.get(target), 404, "MANIFEST_UNKNOWN")
    assert_refused(client.get(f"/v2/{repository}/manifests/good"), 404, "MANIFEST_UNKNOWN")


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
        headers={"content-type": media_type.encode("latin-1")},
    )
    assert_refused(answer, 400, "MANIFEST_INVALID")


def test_a_sparse_manifest_is_taken_with_a_warning(client: httpx.Client) -> None:
    repository, here, absent = new_repository(), noise(9), noise(9)
    push_blob(client, repository, b"{}")
    push_blob(client, repository, here)
    pushed = put_manifest(client, repository, "v1", image(here, absent))
    warning = pushed.headers["warning"]
    assert warning.startswith('299 - "')
    assert warning.endswith('"')
    assert digest_of(absent) in warning
    assert len(warning) < 4096
    push_blob(client, repository, absent)
    assert "warning" not in put_manifest(client, repository, "v1", image(here, absent)).headers


def test_foreign_layers_are_never_missed(client: httpx.Client) -> None:
    repository = new_repository()
    push_blob(client, repository, b"{}")
    layers = [
        descriptor(noise(5), urls=["https://example.org/layer"]),
        descriptor(noise(5), "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        descriptor(noise(5), "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    ]
    assert "warning" not in put_manifest(client, repository, "v1", image(layers=layers)).headers


@pytest.mark.parametrize("kind", [image, index])
def test_a_subject_is_acknowledged_though_it_is_not_there(
    client: httpx.Client, kind: object
) -> None:
    subject = descriptor(os.urandom(8), OCI_MANIFEST)
    body, media_type = (
        (image(subject=subject), OCI_MANIFEST)
        if kind is image
        else (index(subject=subject), OCI_INDEX)
    )
    pushed = put_manifest(client, new_repository(), digest_of(body), body, media_type)
    assert pushed.headers["oci-subject"] == subject["digest"]


def test_without_a_subject_none_is_acknowledged(client: httpx.Client) -> None:
    assert "oci-subject" not in put_manifest(client, new_repository(), "v1", unique_image()).headers


def test_deleting_a_tag_only_untags(client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, digest_of(body), body, tags=["a", "b"])
    assert client.delete(f"/v2/{repository}/manifests/a").status_code == 202
    assert_refused(client.get(f"/v2/{repository}/manifests/a"), 404, "MANIFEST_UNKNOWN")
    assert client.get(f"/v2/{repository}/manifests/b").content == body
    assert client.get(f"/v2/{repository}/manifests/{digest_of(body)}").content == body
    assert client.get(f"/v2/{repository}/tags/list").json()["tags"] == ["b"]
    assert_refused(client.delete(f"/v2/{repository}/manifests/a"), 404, "MANIFEST_UNKNOWN")


def test_moving_a_tag_keeps_the_old_manifest(client: httpx.Client) -> None:
    repository, old, new = new_repository(), unique_image(), unique_image()
    put_manifest(client, repository, "v1", old)
    put_manifest(client, repository, "v1", new)
    assert client.get(f"/v2/{repository}/manifests/v1").content == new
    assert client.get(f"/v2/{repository}/manifests/{digest_of(old)}").content == old


def test_deleting_a_digest_takes_all_its_tags_along(client: httpx.Client) -> None:
    repository, body, other = new_repository(), unique_image(), unique_image()
    tags = [f"t{number}" for number in range(20)]
    put_manifest(client, repository, digest_of(body), body, tags=tags)
    put_manifest(client, repository, "other", other)
    target = f"/v2/{repository}/manifests/{digest_of(body)}"
    assert client.delete(target).status_code == 202
    for reference in [*tags, digest_of(body)]:
        answer = client.get(f"/v2/{repository}/manifests/{reference}")
        assert_refused(answer, 404, "MANIFEST_UNKNOWN")
    assert client.get(f"/v2/{repository}/tags/list").json()["tags"] == ["other"]
    assert_refused(client.delete(target), 404, "MANIFEST_UNKNOWN")


def test_a_blob_that_a_manifest_needs_is_not_deleted(client: httpx.Client) -> None:
    repository, body = new_repository(), noise(77)
    digest, manifest = push_blob(client, repository, body), image(body)
    put_manifest(client, repository, "v1", manifest)
    refused = client.delete(f"/v2/{repository}/blobs/{digest}")
    assert_refused(refused, 405, "DENIED")
    assert "DELETE" not in refused.headers["allow"]
    assert client.get(f"/v2/{repository}/blobs/{digest}").content == body
    client.delete(f"/v2/{repository}/manifests/{digest_of(manifest)}")
    assert client.delete(f"/v2/{repository}/blobs/{digest}").status_code == 202


def test_sparse_manifests_are_refused_where_told_so(refusing: Served) -> None:
    repository, layer, child = new_repository(), noise(9), unique_image()
    with refusing.client() as client:
        push_blob(client, repository, b"{}")
        for body, kind in ((image(layer), OCI_MANIFEST), (index(child), OCI_INDEX)):
            answer = client.put(
                f"/v2/{repository}/manifests/v1", content=body, headers={"content-type": kind}
            )
            assert_refused(answer, 404, "MANIFEST_BLOB_UNKNOWN")
            assert_refused(client.get(f"/v2/{repository}/manifests/v1"), 404, "MANIFEST_UNKNOWN")
            assert client.get("/v2/_catalog").json()["repositories"] == []
        missing = client.put(
            f"/v2/{repository}/manifests/v1",
            content=image(layer),
            headers={"content-type": OCI_MANIFEST},
        ).json()["errors"][0]["detail"]
        assert missing == [{"digest": digest_of(layer)}]
        push_blob(client, repository, layer)
        put_manifest(client, repository, "v1", image(layer))
        subject = descriptor(b"absent", OCI_MANIFEST)
        put_manifest(client, repository, "v2", image(layer, subject=subject))

# end-3, end-7, end-9: manifests by tag and by digest, kept and served byte for byte.
from __future__ import annotations

import os

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
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


def test_more_tags_than_clients_read_headers_are_refused_before_any_is_moved(
    client: httpx.Client,
) -> None:
    repository, body = new_repository(), unique_image()
    digest = digest_of(body)
    many = [f"t{number}" for number in range(65)]
    refused = client.put(
        f"/v2/{repository}/manifests/{digest}",
        params={"tag": many},
        content=body,
        headers={"content-type": OCI_MANIFEST},
    )
    assert_refused(refused, 400, "UNSUPPORTED")
    assert client.get(f"/v2/{repository}/tags/list").status_code == 404
    put_manifest(client, repository, digest, body, tags=many[:64])
    assert len(client.get(f"/v2/{repository}/tags/list").json()["tags"]) == 64

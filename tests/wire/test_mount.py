# end-11: a blob that another repository holds, without its bytes.
from __future__ import annotations

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import assert_refused, files_holding, new_repository, noise


def mount(client: httpx.Client, repository: str, **parameters: str) -> httpx.Response:
    return client.post(f"/v2/{repository}/blobs/uploads/", params=parameters)


@pytest.mark.parametrize("named", [True, False])
def test_a_blob_is_mounted(client: httpx.Client, registry: Served, named: bool) -> None:
    source, target, body = new_repository(), new_repository(), noise(3000)
    digest = push_blob(client, source, body)
    answer = mount(client, target, mount=digest, **({"from": source} if named else {}))
    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == digest
    assert client.get(answer.headers["location"]).content == body
    assert client.get(f"/v2/{target}/blobs/{digest}").content == body
    assert len(files_holding(registry, body)) == 1


def test_a_mounted_blob_outlives_its_source(client: httpx.Client) -> None:
    source, target, body = new_repository(), new_repository(), noise(3000)
    digest = push_blob(client, source, body)
    assert mount(client, target, mount=digest, **{"from": source}).status_code == 201
    assert client.delete(f"/v2/{source}/blobs/{digest}").status_code == 202
    assert client.get(f"/v2/{target}/blobs/{digest}").content == body


@pytest.mark.parametrize("where", ["unknown repository", "repository without it", "nowhere"])
def test_a_blob_that_is_not_there_gives_a_session(client: httpx.Client, where: str) -> None:
    target, body = new_repository(), noise(3000)
    source = new_repository()
    if where == "repository without it":
        push_blob(client, source, b"another")
        push_blob(client, new_repository(), body)
    named = {} if where == "nowhere" else {"from": source}
    answer = mount(client, target, mount=digest_of(body), **named)
    assert answer.status_code == 202
    assert client.head(f"/v2/{target}/blobs/{digest_of(body)}").status_code == 404
    finished = client.put(
        answer.headers["location"], params={"digest": digest_of(body)}, content=body
    )
    assert finished.status_code == 201
    assert client.get(f"/v2/{target}/blobs/{digest_of(body)}").content == body


def test_the_session_of_a_failed_mount_can_be_cancelled(client: httpx.Client) -> None:
    # skopeo and podman do so at once.
    answer = mount(client, new_repository(), mount=digest_of(noise(9)))
    assert client.delete(answer.headers["location"]).status_code == 204


@pytest.mark.parametrize("digest", ["no", "sha256:no", "md5:" + "0" * 32, "sha256:" + "G" * 64])
def test_a_bad_digest_is_refused(client: httpx.Client, digest: str) -> None:
    assert_refused(mount(client, new_repository(), mount=digest), 400, "DIGEST_INVALID")


@pytest.mark.parametrize("source", ["NO", "a//b", "../a", "a" * 300, "\x00"])
def test_a_bad_source_is_refused(client: httpx.Client, source: str) -> None:
    answer = mount(client, new_repository(), mount=digest_of(b""), **{"from": source})
    assert_refused(answer, 400, "NAME_INVALID")

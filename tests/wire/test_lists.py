# end-8, end-12 and the extensions: tags, repositories, referrers, by pages.
from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.serving import Served, digest_of, push_blob
from tests.wire.build import (
    MIB,
    OCI_INDEX,
    OCI_MANIFEST,
    assert_refused,
    descriptor,
    image,
    index,
    new_repository,
    pages,
    put_manifest,
    unique_image,
)

# In byte order, which is not the dictionary's.
TAGS = ["0", "1.10", "1.2", "A", "Z", "_", "a", "a-b", "a.b", "a_b", "aa", "z" * 128]


def tagged(client: httpx.Client) -> str:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, digest_of(body), body, tags=TAGS[::-1])
    return repository


def test_tags_come_in_byte_order(client: httpx.Client) -> None:
    repository = tagged(client)
    answer = client.get(f"/v2/{repository}/tags/list")
    assert answer.json() == {"name": repository, "tags": sorted(TAGS)}
    assert answer.headers["content-type"] == "application/json"
    assert "link" not in answer.headers


@pytest.mark.parametrize("size", [1, 2, 5, 11, 12, 13, 10**8, 10**30])
def test_pages_of_tags_give_each_once(client: httpx.Client, size: int) -> None:
    repository = tagged(client)
    found = [page.json()["tags"] for page in pages(client, f"/v2/{repository}/tags/list?n={size}")]
    assert [tag for page in found for tag in page] == sorted(TAGS)
    assert all(len(page) == min(size, len(TAGS)) for page in found[:-1])


@pytest.mark.parametrize(
    "last", ["", "0", "1.10", "1.1", "Y", "zzz", "z" * 128, "~", "/", "\u00e9"]
)
def test_last_is_exclusive_and_need_not_exist(client: httpx.Client, last: str) -> None:
    target = f"/v2/{tagged(client)}/tags/list"
    expected = [tag for tag in sorted(TAGS) if tag > last]
    assert client.get(target, params={"last": last}).json()["tags"] == expected
    page = client.get(target, params={"last": last, "n": 3})
    assert page.json()["tags"] == expected[:3]
    assert ("link" in page.headers) is (len(expected) > 3)


def test_n_0_is_an_empty_page_without_link(client: httpx.Client) -> None:
    answer = client.get(f"/v2/{tagged(client)}/tags/list", params={"n": 0})
    assert (answer.status_code, answer.json()["tags"]) == (200, [])
    assert "link" not in answer.headers


ODD = [
    "n=-1", "n=", "n=abc", "n=1.5", "n=0x10", "n=+1", "n=%201", "n=1%00", "n=%D9%A3",
    "last=%00", "last=a%00b", "last=" + "x" * 300, "last=%0A", "n=%FF",
]  # fmt: skip


@pytest.mark.parametrize("query", ODD)
@pytest.mark.parametrize("kind", ["tags", "catalog", "referrers"])
def test_odd_pages_are_refused(client: httpx.Client, query: str, kind: str) -> None:
    target = {
        "tags": f"/v2/{tagged(client)}/tags/list",
        "catalog": "/v2/_catalog",
        "referrers": f"/v2/{new_repository()}/referrers/{digest_of(b'')}",
    }[kind]
    assert_refused(client.get(f"{target}?{query}"), 400, "UNSUPPORTED")


def test_a_repository_of_blobs_only_has_no_tags(client: httpx.Client) -> None:
    repository = new_repository()
    push_blob(client, repository, b"x")
    assert client.get(f"/v2/{repository}/tags/list").json()["tags"] == []


def test_an_unknown_repository_is_told(client: httpx.Client) -> None:
    assert_refused(client.get(f"/v2/{new_repository()}/tags/list"), 404, "NAME_UNKNOWN")


def test_the_link_holds_whatever_host_was_asked(client: httpx.Client) -> None:
    target = f"/v2/{tagged(client)}/tags/list?n=2"
    for host in ("registry.example:443", "[::1]:5000", "other"):
        link = client.get(target, headers={"host": host}).links["next"]["url"]
        assert link.startswith(target.partition("?")[0])


# -- repositories


def test_the_catalog_lists_each_repository_once(client: httpx.Client) -> None:
    mine = sorted(tagged(client) for _ in range(7))
    blobs_only = new_repository()
    push_blob(client, blobs_only, b"x")
    found = [
        name for page in pages(client, "/v2/_catalog?n=3") for name in page.json()["repositories"]
    ]
    assert found == sorted(set(found))
    assert set(mine) <= set(found)
    assert blobs_only not in found


def test_the_catalog_goes_on_after_last(client: httpx.Client) -> None:
    mine = sorted(tagged(client) for _ in range(3))
    answer = client.get("/v2/_catalog", params={"last": mine[0], "n": 1})
    assert answer.json()["repositories"][0] > mine[0]
    assert client.get("/v2/_catalog", params={"n": 0}).json() == {"repositories": []}


def test_a_repository_leaves_the_catalog_with_its_last_manifest(client: httpx.Client) -> None:
    repository, body = new_repository(), unique_image()
    put_manifest(client, repository, "v1", body)
    before: dict[str, str | int] = {"last": repository[:-1], "n": 1000}
    assert repository in client.get("/v2/_catalog", params=before).json()["repositories"]
    client.delete(f"/v2/{repository}/manifests/{digest_of(body)}")
    assert repository not in client.get("/v2/_catalog", params=before).json()["repositories"]


# -- referrers


def refer(client: httpx.Client, repository: str, subject: bytes, **fields: Any) -> dict[str, Any]:
    """Push an artifact that refers to the subject; return what the list must say of it."""
    body = unique_image(subject=descriptor(subject, OCI_MANIFEST), **fields)
    put_manifest(client, repository, digest_of(body), body)
    return descriptor(body, OCI_MANIFEST)


def listed(client: httpx.Client, target: str) -> list[dict[str, Any]]:
    found = []
    for page in pages(client, target):
        assert page.headers["content-type"] == OCI_INDEX
        assert len(page.content) <= 4 * MIB, "over what clients read of a referrers list"
        document = page.json()
        assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
        found += document["manifests"]
    return found


def by_digest(descriptors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(descriptors, key=lambda each: str(each["digest"]))


def test_referrers_carry_type_and_annotations(client: httpx.Client) -> None:
    repository, subject = new_repository(), unique_image()
    target = f"/v2/{repository}/referrers/{digest_of(subject)}"
    notes = {"org.example.a": "\u00e9", "b": ""}
    plain = refer(client, repository, subject)
    typed = refer(client, repository, subject, artifactType="application/x.a", annotations=notes)
    whole = index(subject=descriptor(subject, OCI_MANIFEST), annotations=notes)
    put_manifest(client, repository, digest_of(whole), whole, OCI_INDEX)
    expected = [
        {**plain, "artifactType": "application/vnd.oci.empty.v1+json"},
        {**typed, "artifactType": "application/x.a", "annotations": notes},
        {**descriptor(whole, OCI_INDEX), "annotations": notes},
    ]
    assert by_digest(listed(client, target)) == by_digest(expected)
    client.delete(f"/v2/{repository}/manifests/{typed['digest']}")
    assert len(listed(client, target)) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_of_referrers_give_each_once(client: httpx.Client, size: int) -> None:
    repository, subject = new_repository(), unique_image()
    kinds = ["application/x.a", "application/x.b+c"]
    pushed = [refer(client, repository, subject, artifactType=kinds[n % 2]) for n in range(8)]
    target = f"/v2/{repository}/referrers/{digest_of(subject)}"
    found = [each["digest"] for each in listed(client, f"{target}?n={size}")]
    assert sorted(found) == sorted(each["digest"] for each in pushed)
    some = listed(client, f"{target}?n={size}&artifactType=application%2Fx.b%2Bc")
    assert sorted(each["digest"] for each in some) == sorted(e["digest"] for e in pushed[1::2])


def test_a_filter_that_was_applied_is_named(client: httpx.Client) -> None:
    repository, subject = new_repository(), unique_image()
    refer(client, repository, subject, artifactType="application/x.a")
    target = f"/v2/{repository}/referrers/{digest_of(subject)}"
    assert "oci-filters-applied" not in client.get(target).headers
    for kind, count in (("application/x.a", 1), ("application/x.none", 0)):
        answer = client.get(target, params={"artifactType": kind})
        assert answer.headers["oci-filters-applied"] == "artifactType"
        assert len(answer.json()["manifests"]) == count


def annotated(size: int, subject: bytes, number: int) -> bytes:
    """Return a manifest whose descriptor in the list takes exactly that many bytes of JSON."""

    def build(padding: int) -> bytes:
        notes = {"n": str(number), "p": "x" * padding}
        return image(subject=descriptor(subject, OCI_MANIFEST), annotations=notes)

    def said(body: bytes) -> int:
        kind = "application/vnd.oci.empty.v1+json"
        notes = json.loads(body)["annotations"]
        entry = {**descriptor(body, OCI_MANIFEST), "artifactType": kind, "annotations": notes}
        return len(json.dumps(entry, separators=(",", ":")))

    padding = size - said(build(0))
    while (length := said(build(padding))) != size:
        padding += size - length
    return build(padding)


@pytest.mark.parametrize("size", [MIB // 2, MIB, MIB - 30, MIB + 1, 2 * MIB])
def test_a_page_of_referrers_is_never_over_4_mib(client: httpx.Client, size: int) -> None:
    repository, subject = new_repository(), unique_image()
    bodies = [annotated(size, subject, number) for number in range(9 * MIB // size)]
    for body in bodies:
        put_manifest(client, repository, digest_of(body), body)
    found = listed(client, f"/v2/{repository}/referrers/{digest_of(subject)}")
    assert sorted(each["digest"] for each in found) == sorted(digest_of(body) for body in bodies)


def test_annotations_do_not_grow_in_the_list(client: httpx.Client) -> None:
    # 3 MiB of text beyond ASCII: escaped, it would be 9 MiB, and no client could list it.
    repository, subject = new_repository(), unique_image()
    document = json.loads(unique_image(subject=descriptor(subject, OCI_MANIFEST)))
    document["annotations"] = {"a": "\u00e9" * (3 * MIB // 2)}
    body = json.dumps(document, ensure_ascii=False).encode()
    put_manifest(client, repository, digest_of(body), body)
    [found] = listed(client, f"/v2/{repository}/referrers/{digest_of(subject)}")
    assert found["annotations"] == document["annotations"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_nobody_refers_to_has_an_empty_list(client: httpx.Client, method: str) -> None:
    answer = client.request(method, f"/v2/{new_repository()}/referrers/{digest_of(b'nothing')}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == OCI_INDEX
    if method == "GET":
        assert answer.json()["manifests"] == []


@pytest.mark.parametrize("digest", ["sha256:no", "latest", "md5:" + "0" * 32, "sha256:" + "A" * 64])
def test_a_bad_subject_is_refused(client: httpx.Client, digest: str) -> None:
    answer = client.get(f"/v2/{new_repository()}/referrers/{digest}")
    assert_refused(answer, 400, "DIGEST_INVALID")


# -- extensions


@pytest.mark.parametrize("scope", ["", "some/repository/"])
def test_extensions_are_listed(client: httpx.Client, scope: str) -> None:
    answer = client.get(f"/v2/{scope}_oci/ext/discover")
    assert answer.status_code == 200
    names = {each["name"]: each["endpoints"] for each in answer.json()["extensions"]}
    assert "_oci/ext/discover" in names["_oci"]
    if not scope:
        assert "_catalog" in names["_catalog"]


def test_the_version_is_told(registry: Served, client: httpx.Client) -> None:
    for target in ("/v2/", "/v2"):
        answer = client.get(target)
        assert (answer.status_code, answer.json()) == (200, {})
        assert client.head(target).status_code == 200

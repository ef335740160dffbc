# Whatever is asked wrongly is answered with the spec's envelope and one of its codes.
from __future__ import annotations

import httpx
import pytest

from tests.serving import Served, digest_of
from tests.wire.build import (
    OCI_MANIFEST,
    assert_refused,
    begin,
    new_repository,
    put_manifest,
    unique_image,
)
from tests.wire.raw import Connection, request

D = digest_of(b"absent")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v2/a",
        "/v2/a/",
        "/v2/a/b/c",
        "/v2/a/manifests",
        "/v2/a/manifests/",
        "/v2/a/manifests/x/y",
        "/v2/a/blobs/",
        "/v2/a/tags/list/",
        "/v2/a/tags",
        "/v2/a/referrers/",
        "/v2/a/_oci/ext/other",
        "/v2/_catalog/",
        "/v2/_unknown/ext/x",
        "/healthz/",
        "/metrics/x",
        "/v2/../v2/",
        "//v2/",
        "/V2/",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/favicon.ico",
        "/v2/a/blobs/uploads/x/y",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_path_where_nothing_lives(registry: Served, method: str, target: str) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(request(method, target, "Content-Length: 0"))
        assert_refused(answer, 404, "UNSUPPORTED")
        assert connection.ask(request("GET", "/v2/")).status_code == 200


def test_where_no_model_lives_a_problem_document_says_so(registry: Served) -> None:
    with registry.client() as client:
        answer = client.get("/v1/")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "route_unknown"


ALLOWED = {
    "/v2/": "GET, HEAD",
    "/v2": "GET, HEAD",
    "/v2/_catalog": "GET, HEAD",
    "/v2/_oci/ext/discover": "GET, HEAD",
    "/v2/a/_oci/ext/discover": "GET, HEAD",
    "/v2/a/blobs/uploads/": "POST",
    "/v2/a/blobs/uploads": "POST",
    "/v2/a/blobs/uploads/" + "0" * 32: "DELETE, GET, HEAD, PATCH, PUT",
    f"/v2/a/blobs/{D}": "DELETE, GET, HEAD",
    "/v2/a/manifests/v1": "DELETE, GET, HEAD, PUT",
    f"/v2/a/manifests/{D}": "DELETE, GET, HEAD, PUT",
    "/v2/a/tags/list": "GET, HEAD",
    f"/v2/a/referrers/{D}": "GET, HEAD",
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/metrics": "GET, HEAD",
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]


@pytest.mark.parametrize("target", ALLOWED)
def test_a_method_that_is_not_for_this_path(registry: Served, target: str) -> None:
    allowed = ALLOWED[target].split(", ")
    with Connection(registry) as connection:
        for method in METHODS:
            answer = connection.ask(request(method, target, "Content-Length: 0"), method)
            if method in allowed:
                assert answer.status_code != 405, method
                continue
            assert answer.status_code == 405, method
            assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed)
            if method != "HEAD":
                assert_refused(answer, 405, "UNSUPPORTED")


BAD_NAMES = [
    "A", "a/B", "-a", "a-", ".a", "a.", "_a", "a_", "a..b", "a___b", "a/-b", "a//b", "/a", "a/",
    "a._b", "a%20b", "a%00b", "%00", "a%0Ab", "a%0A", "%C3%A9", "%FF", "a%2F..%2Fb", "a/../b",
    "..", "a/./b", "a:b", "a@b", "a%3Fb", "a%23b", "a+b", "~a", "*", "a" * 256, "a/" * 200 + "a",
    "a%", "%E2%80%AE", "a%5Cb", "blobs/_x",
]  # fmt: skip
WITH_NAME = [
    ("GET", "/v2/{}/manifests/v1"),
    ("PUT", "/v2/{}/manifests/v1"),
    ("DELETE", "/v2/{}/manifests/v1"),
    ("GET", "/v2/{}/tags/list"),
    ("GET", "/v2/{}/blobs/" + D),
    ("DELETE", "/v2/{}/blobs/" + D),
    ("POST", "/v2/{}/blobs/uploads/"),
    ("PATCH", "/v2/{}/blobs/uploads/" + "0" * 32),
    ("GET", "/v2/{}/referrers/" + D),
    ("GET", "/v2/{}/_oci/ext/discover"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_told_by_every_endpoint(registry: Served, name: str) -> None:
    with Connection(registry) as connection:
        for method, target in WITH_NAME:
            asked = request(method, target.format(name), "Content-Length: 0")
            assert_refused(connection.ask(asked, method), 400, "NAME_INVALID")


def test_an_empty_name_is_no_name(registry: Served) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(request("GET", "/v2//tags/list"))
    assert answer.status_code in {400, 404}
    assert answer.json()["errors"]


@pytest.mark.parametrize("length", [255, 254])
def test_a_name_as_long_as_allowed(client: httpx.Client, length: int) -> None:
    name, body = (new_repository() + "/" + "n" * 300)[:length], unique_image()
    put_manifest(client, name, "v1", body)
    assert client.get(f"/v2/{name}/manifests/v1").content == body


BAD_DIGESTS = [
    "sha256:", "sha256:baddigeststring", "sha256:" + "a" * 63, "sha256:" + "a" * 65, ":", "::",
    "sha256:" + "A" * 64, "sha256:" + "g" * 64, "sha512:" + "a" * 64, "sha256:" + "a" * 128,
    "md5:" + "a" * 32, "sha384:" + "a" * 96, "SHA256:" + "a" * 64, "sha256:%00", "%00:%00",
    "sha256:" + "a" * 64 + "%0A", "sha256:" + "%C3%A9" * 32, "sha256:" + "a" * 9000,
    "a" * 200 + ":x",
    "sha256:" + "%D9%A1" * 64, "sha256+b64:aGVsbG8", "sha256:" + "a" * 64 + "%20",
]  # fmt: skip


@pytest.mark.parametrize("digest", BAD_DIGESTS)
def test_a_bad_digest_is_told_by_every_endpoint(registry: Served, digest: str) -> None:
    with Connection(registry) as connection:
        for method, kind in (
            ("GET", "blobs"),
            ("DELETE", "blobs"),
            ("GET", "manifests"),
            ("PUT", "manifests"),
            ("DELETE", "manifests"),
            ("GET", "referrers"),
        ):
            asked = request(method, f"/v2/a/{kind}/{digest}", "Content-Length: 0")
            assert_refused(connection.ask(asked, method), 400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    "tag",
    [
        ".a",
        "-a",
        "a" * 129,
        "a%00",
        "a%20b",
        "%C3%A9",
        "a%0A",
        "%0A",
        "a+b",
        "a@b",
        "a%5C",
        "..",
        "*",
        "%FF",
    ],
)
def test_a_bad_tag_is_told_by_every_method(registry: Served, tag: str) -> None:
    with Connection(registry) as connection:
        for method in ("GET", "PUT", "DELETE"):
            asked = request(method, f"/v2/a/manifests/{tag}", "Content-Length: 0")
            assert_refused(connection.ask(asked, method), 400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/wire/absent/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/wire/absent/manifests/{D}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/wire/absent/blobs/{D}", 404, "BLOB_UNKNOWN"),
        ("/v2/wire/absent/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/wire/absent/blobs/uploads/" + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/wire/ABSENT/tags/list", 400, "NAME_INVALID"),
        ("/v2/wire/absent/blobs/sha256:no", 400, "DIGEST_INVALID"),
        ("/v2/_catalog?n=-1", 400, "UNSUPPORTED"),
        ("/nothing", 404, "UNSUPPORTED"),
    ],
)
def test_head_of_an_error_is_get_without_body(
    registry: Served, target: str, status: int, code: str
) -> None:
    with Connection(registry) as connection:
        get = connection.ask(request("GET", target))
        assert_refused(get, status, code)
        head = connection.ask(request("HEAD", target), "HEAD")
        assert head.status_code == status
        changing = {"date", "x-request-id"}
        assert {
            k: v for k, v in head.headers.items() if k not in changing | {"content-length"}
        } == {k: v for k, v in get.headers.items() if k not in changing | {"content-length"}}
        # No stray body: what follows is the next answer.
        assert connection.ask(request("GET", "/v2/")).json() == {}


@pytest.mark.parametrize("status", [400, 404, 405, 413, 416])
def test_the_connection_goes_on_after_an_error(
    registry: Served, client: httpx.Client, status: int
) -> None:
    location, body = begin(client, new_repository()), b"0123456789" * 1000
    size = f"Content-Length: {len(body)}"
    kind = f"Content-Type: {OCI_MANIFEST}"
    asked = {
        400: request("PUT", f"{location}?digest=no", size, body=body),
        404: request("PATCH", location[:-4] + "0000", size, body=body),
        405: request("POST", "/v2/a/tags/list", size, body=body),
        413: request(
            "PUT", "/v2/a/manifests/v1", f"Content-Length: {5 << 20}", kind, body=b" " * (5 << 20)
        ),
        416: request("PATCH", location, size, "Content-Range: 5-10004", body=body),
    }[status]
    with Connection(registry) as connection:
        for _ in range(3):
            assert connection.ask(asked).status_code == status
        assert connection.ask(request("GET", "/v2/")).status_code == 200
    assert client.get(location).headers["range"] == "0-0"


def test_an_error_does_not_echo_a_flood(client: httpx.Client) -> None:
    answer = client.get(f"/v2/{'A' * 8000}/tags/list")
    assert_refused(answer, 400, "NAME_INVALID")
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    "query",
    ["digest=%ZZ", "digest=%", "mount=%00&from=%00", "&&&", "=", "digest=" + D + "&digest=x"],
)
def test_odd_queries_are_no_fault(registry: Served, query: str) -> None:
    with Connection(registry) as connection:
        answer = connection.ask(
            request("POST", f"/v2/a/blobs/uploads/?{query}", "Content-Length: 0")
        )
    assert answer.status_code < 500

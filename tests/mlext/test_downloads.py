# Downloads from the file store: an address of our own, for anybody, for a while.
from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ociserver.storage.postgres import migrate
from tests.access import Guarded, guarded
from tests.mlext.models import Modelling
from tests.postgres import PostgresServer
from tests.serving import Served, digest_of, push_blob
from tests.wire.build import OCI_MANIFEST, noise

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "delete"]
on = ["secret/**", "team/**", "zoo/**"]

[[rule]]
who = "user:bob"
may = "pull"
on = "team/**"

[[rule]]
who = "anyone"
may = "pull"
on = "public/**"
"""
ABSENT = "sha256:" + "e" * 64


@dataclass
class Files:
    """An artifact of several files."""

    model: str
    digest: str
    body: bytes
    layers: dict[str, bytes]


def push_files(client: httpx.Client, model: str, layers: dict[str, bytes]) -> Files:
    """Push them as oras does: a layer for each, with its path in the title."""
    entries = [
        {
            "mediaType": "application/octet-stream",
            "digest": push_blob(client, model, body),
            "size": len(body),
            "annotations": {"org.opencontainers.image.title": title},
        }
        for title, body in layers.items()
    ]
    push_blob(client, model, b"{}")
    config = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(b"{}"),
        "size": 2,
    }
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": entries}
    ).encode()
    digest = digest_of(body)
    put = client.put(
        f"/v2/{model}/manifests/{digest}", content=body, headers={"Content-Type": OCI_MANIFEST}
    )
    assert put.status_code == 201, put.text
    return Files(model, digest, body, layers)


@pytest.fixture
def files(models: Modelling) -> Files:
    layers = {"config.json": b"{}" + noise(10), "weights/größe.bin": noise(1_000_000)}
    return push_files(models.client, models.name(), layers)


def download(client: httpx.Client, digest: str, **query: object) -> dict[str, Any]:
    answer = client.get(f"/v1/artifacts/{digest}/download", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_each_file_of_an_artifact_has_an_address(models: Modelling, files: Files) -> None:
    before = time.time()
    found = download(models.client, files.digest, ttl=60)
    assert found["scheme"] == "http"
    assert found["digest"] == files.digest
    assert found["size_bytes"] == len(files.body)
    assert found["model"] == files.model
    ends = datetime.fromisoformat(found["expires_at"]).timestamp()
    assert before + 59 <= ends <= time.time() + 60
    # No client of ours, and no credential.
    assert httpx.get(found["url"]).content == files.body
    assert [
        (each["path"], each["digest"], each["size_bytes"], httpx.get(each["url"]).content)
        for each in found["files"]
    ] == [(path, digest_of(body), len(body), body) for path, body in files.layers.items()]


def test_a_blob_is_downloaded_by_its_own_digest(models: Modelling, files: Files) -> None:
    body = files.layers["weights/größe.bin"]
    found = download(models.client, digest_of(body))
    assert (found["size_bytes"], found["files"]) == (len(body), [])
    answer = httpx.get(found["url"])
    assert answer.content == body
    assert answer.headers["etag"] == f'"{digest_of(body)}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    shared, _, age = answer.headers["cache-control"].partition(", max-age=")
    assert shared == "private"
    assert 0 < int(age.partition(",")[0]) <= 600


@pytest.mark.parametrize("door", ["/v1/models/{}", "/v2/{}/_lading"])
def test_a_model_has_the_door_too(models: Modelling, files: Files, door: str) -> None:
    place = f"{door.format(files.model)}/artifacts/{files.digest}/download"
    answer = models.client.get(place)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == files.model
    assert models.client.get(place.replace(files.digest, ABSENT)).status_code == 404


def test_an_address_answers_head_ranges_and_validators(models: Modelling, files: Files) -> None:
    for each, body in zip(
        download(models.client, files.digest)["files"], files.layers.values(), strict=True
    ):
        head = httpx.head(each["url"])
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(body))
        part = httpx.get(each["url"], headers={"Range": "bytes=3-6"})
        assert (part.status_code, part.content) == (206, body[3:7])
        assert part.headers["content-range"] == f"bytes 3-6/{len(body)}"
        beyond = httpx.get(each["url"], headers={"Range": f"bytes={len(body)}-"})
        assert beyond.status_code == 416
        held = httpx.get(each["url"], headers={"If-None-Match": head.headers["etag"]})
        assert held.status_code == 304


def test_an_address_is_for_reading_alone(models: Modelling, files: Files) -> None:
    url = download(models.client, files.digest)["url"]
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = httpx.request(method, url)
        assert answer.status_code == 405
        assert answer.headers["content-type"] == "application/problem+json"


def test_curl_saves_each_file_under_its_name(
    models: Modelling, files: Files, tmp_path: Path
) -> None:
    for each in download(models.client, files.digest)["files"]:
        command = ["curl", "-sfOJ", "--proto", "=http", each["url"]]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    saved = {path.read_bytes() for path in tmp_path.iterdir()}
    assert saved == set(files.layers.values())
    assert (tmp_path / "config.json").read_bytes() == files.layers["config.json"]


def test_what_was_forged_or_has_expired_is_refused(models: Modelling, files: Files) -> None:
    found = download(models.client, files.digest, ttl=1)
    url, other = (each["url"] for each in found["files"])
    first, second = (each["digest"] for each in found["files"])

    def code(address: str) -> tuple[int, str]:
        answer = httpx.get(address)
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["code"]

    forged = [
        url.replace(first, second),
        url.replace("/blobs/", "/manifests/"),
        url.replace(files.model, "team/other"),
        re.sub(r"expires=(\d+)", r"expires=1\1", url),
        re.sub(r"filename=[^&]*", "filename=run.exe", url),
        re.sub(r"signature=.*", re.search(r"signature=.*", other)[0], url),  # type: ignore[index]
        url.partition("&signature")[0],
        url.partition("?")[0],
    ]
    assert [code(each) for each in forged] == [(403, "link_invalid")] * len(forged)
    time.sleep(max(0.0, datetime.fromisoformat(found["expires_at"]).timestamp() - time.time()))
    assert [code(each) for each in (url, other, found["url"])] == [(403, "link_expired")] * 3


def test_what_is_deleted_is_gone_though_its_address_is_good(
    models: Modelling, files: Files
) -> None:
    found = download(models.client, files.digest)
    assert httpx.get(found["url"]).status_code == 200
    assert models.client.delete(f"/v2/{files.model}/manifests/{files.digest}").status_code == 202
    assert httpx.get(found["url"]).status_code == 404
    layer = found["files"][0]
    assert models.client.delete(f"/v2/{files.model}/blobs/{layer['digest']}").status_code == 202
    gone = httpx.get(layer["url"])
    assert (gone.status_code, gone.json()["code"]) == (404, "blob_unknown")
    assert models.client.get(f"/v1/artifacts/{files.digest}/download").status_code == 404


def test_what_nobody_pushed_has_no_address(models: Modelling) -> None:
    model = models.name()
    push_blob(models.client, model, b"{}")
    layer = {"mediaType": "x/y", "digest": ABSENT, "size": 5}
    config = {"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2}
    body = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
    models.client.put(
        f"/v2/{model}/manifests/x", content=body, headers={"Content-Type": OCI_MANIFEST}
    )
    found = download(models.client, digest_of(body))
    assert found["files"] == [{"path": None, "digest": ABSENT, "size_bytes": 5}]


@pytest.mark.parametrize("ttl", ["0", "3601", "-1", "1.5", "", "x", "9" * 5000, "٣"])
def test_a_time_out_of_bounds_is_400(models: Modelling, ttl: str) -> None:
    answer = models.client.get(f"/v1/artifacts/{ABSENT}/download", params={"ttl": ttl})
    assert (answer.status_code, answer.json()["code"]) == (400, "document_invalid")


def test_a_digest_that_is_none_is_400_and_one_of_nothing_404(models: Modelling) -> None:
    assert models.client.get("/v1/artifacts/latest/download").status_code == 400
    absent = models.client.get(f"/v1/artifacts/{ABSENT}/download")
    assert (absent.status_code, absent.json()["code"]) == (404, "artifact_unknown")


# -- with rules in force


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("downloads")) as served:
        served.change_rules(RULES)
        yield served


@pytest.fixture
def ann(house: Guarded) -> Iterator[httpx.Client]:
    with house.client() as client:
        client.auth = house.basic("ann")
        yield client


@pytest.fixture
def bob(house: Guarded) -> Iterator[httpx.Client]:
    with house.client() as client:
        client.auth = house.basic("bob")
        yield client


def test_what_one_may_not_pull_is_as_if_it_was_not_there(
    ann: httpx.Client, bob: httpx.Client
) -> None:
    secret = push_files(ann, "secret/a", {"x": noise(50)})
    layer = digest_of(secret.layers["x"])
    absent = bob.get(f"/v1/artifacts/{ABSENT}/download")
    for digest in (secret.digest, layer):
        for query in ({}, {"model": "secret/a"}, {"model": "team/none"}):
            answer = bob.get(f"/v1/artifacts/{digest}/download", params=query)
            assert answer.status_code == absent.status_code == 404
            said, expected = answer.json(), absent.json()
            assert said.pop("detail") == expected.pop("detail").replace(ABSENT, digest)
            assert said.pop("request_id") != expected.pop("request_id")
            assert said == expected
    assert download(ann, layer, model="secret/a")["model"] == "secret/a"


def test_the_first_that_one_may_pull_from_is_where_it_is_from(
    ann: httpx.Client, bob: httpx.Client
) -> None:
    layers = {"x": noise(50)}
    for model in ("secret/b", "team/b", "zoo/b"):
        pushed = push_files(ann, model, layers)
    for digest in (pushed.digest, digest_of(layers["x"])):
        assert download(bob, digest)["model"] == "team/b"
        assert download(ann, digest)["model"] == "secret/b"
        assert download(ann, digest, model="zoo/b")["model"] == "zoo/b"
        assert bob.get(
            f"/v1/artifacts/{digest}/download", params={"model": "zoo/b"}
        ).status_code == 404  # fmt: skip
    assert "secret/b" not in str(download(bob, pushed.digest))


def test_an_address_needs_no_credential_and_gives_nothing_else(
    house: Guarded, ann: httpx.Client, bob: httpx.Client
) -> None:
    pushed = push_files(ann, "team/c", {"x": noise(300_000)})
    (file,) = download(bob, pushed.digest)["files"]
    assert httpx.get(file["url"]).content == pushed.layers["x"]
    # The store of hot answers asks for the right, whatever was served by an address.
    manifest = download(bob, pushed.digest)["url"]
    assert httpx.get(manifest).content == pushed.body
    for path in (
        f"/v2/team/c/blobs/{file['digest']}",
        f"/v2/team/c/manifests/{pushed.digest}",
    ):
        assert httpx.get(f"{house.url}{path}").status_code == 401
    assert httpx.get(f"{house.url}/v1/artifacts/{pushed.digest}/download").status_code == 401


def test_a_token_for_one_repository_gives_no_bytes_of_another(
    house: Guarded, ann: httpx.Client
) -> None:
    pushed = push_files(ann, "team/i", {"x": noise(50)})
    other = push_files(ann, "team/j", {"x": noise(50)})
    with house.client() as client:
        client.headers.update(house.bearer("bob", "repository:team/i:pull"))
        assert download(client, pushed.digest)["model"] == "team/i"
        for query in ({}, {"model": "team/j"}):
            answer = client.get(f"/v1/artifacts/{other.digest}/download", params=query)
            assert answer.status_code == 404
        door = client.get(f"/v1/models/team/j/artifacts/{other.digest}/download")
        assert door.status_code == 401
        assert 'scope="repository:team/j:pull' in door.headers["www-authenticate"]


def test_a_right_that_is_taken_away_ends_no_address_that_was_given_out(
    house: Guarded, ann: httpx.Client, bob: httpx.Client
) -> None:
    pushed = push_files(ann, "team/g", {"x": noise(50)})
    url = download(bob, pushed.digest)["url"]
    house.change_rules(RULES.replace('on = "team/**"', 'on = "elsewhere/**"'))
    try:
        assert bob.get(f"/v1/artifacts/{pushed.digest}/download").status_code == 404
        # As with one of the store: it is its time that ends it, or that what it names is deleted.
        assert httpx.get(url).content == pushed.body
    finally:
        house.change_rules(RULES)


def test_no_log_has_an_address_whole(house: Guarded, ann: httpx.Client) -> None:
    pushed = push_files(ann, "team/d", {"x": noise(50)})
    url = download(ann, pushed.digest)["url"]
    signature = re.search(r"signature=([^&]+)", url)
    assert signature is not None
    assert httpx.get(url).status_code == 200
    assert httpx.post(url).status_code == 405
    house.wait_for_news()
    assert f"/v1/downloads/team/d/manifests/{pushed.digest}?expires=" in house.log
    assert signature[1] not in house.log


# -- whose key it is


def test_all_workers_sign_alike_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    served = Served(tmp_path, workers=2).start()
    try:
        with served.client() as client:
            pushed = push_files(client, "team/e", {"x": noise(50)})
        urls = set()
        for _ in range(12):  # each by a connection of its own, so by either worker
            with served.client() as client:
                urls.add(download(client, pushed.digest)["url"])
        answers = [httpx.get(url).status_code for url in urls for _ in range(6)]
        served.stop()
        served.start()
        answers += [httpx.get(url).status_code for url in urls]
    finally:
        served.stop()
    assert set(answers) == {200}
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as db:
        ((name, value),) = db.execute("SELECT name, value FROM secret").fetchall()
        assert (name, len(value)) == ("download-links", 32)
        with db:
            db.execute("DELETE FROM secret")
    try:
        served.start()
        assert {httpx.get(url).status_code for url in urls} == {403}
    finally:
        served.stop()


def test_one_replica_serves_what_another_signed(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    asyncio.run(migrate(url))
    stores = ("--catalog", url, "--blobs", f"file:///{tmp_path}/shared")
    pair = [Served(tmp_path / name, options=stores) for name in ("one", "two")]
    try:
        for each in pair:
            each.start()
        with pair[0].client() as client:
            pushed = push_files(client, "team/h", {"x": noise(50)})
        for signing, serving in (pair, pair[::-1]):
            with signing.client() as client:
                found = download(client, pushed.digest)
                blob = download(client, digest_of(pushed.layers["x"]), model="team/h")
            for address, body in (
                (found["url"], pushed.body),
                (found["files"][0]["url"], pushed.layers["x"]),
                (blob["url"], pushed.layers["x"]),
            ):
                assert httpx.get(address.replace(signing.host, serving.host)).content == body
    finally:
        for each in pair:
            each.stop()


@pytest.mark.parametrize(
    ("options", "fields", "origin"),
    [
        (("--public-address", "https://models.example/"), {}, "https://models.example"),
        (
            ("--trusted-proxies", "127.0.0.0/8"),
            {"x-forwarded-proto": "https", "x-forwarded-host": "outside:8443"},
            "https://outside:8443",
        ),
        ((), {"x-forwarded-host": "evil"}, None),
    ],
)
def test_an_address_is_ours_as_the_client_has_it(
    tmp_path: Path, options: tuple[str, ...], fields: dict[str, str], origin: str | None
) -> None:
    served = Served(tmp_path, options=options).start()
    try:
        with served.client() as client:
            pushed = push_files(client, "team/f", {"x": noise(50)})
            answer = client.get(f"/v1/artifacts/{pushed.digest}/download", headers=fields).json()
    finally:
        served.stop()
    origin = origin or served.url
    assert answer["url"].startswith(f"{origin}/v1/downloads/team/f/manifests/")
    assert answer["scheme"] == origin.partition(":")[0]

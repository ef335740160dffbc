"""Where the S3 client's keys and region come from: as in every AWS tool, or the URL."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from ociserver.bucket import Bucket
from ociserver.storage.s3_client import S3
from tests.s3 import S3Server

ROLE = "lading-node"
TOKEN = "a token of the cluster"
LATER = "2099-01-01T00:00:00Z"


@pytest.fixture
def url(versitygw: S3Server) -> str:
    return versitygw.url(versitygw.new_bucket())


@pytest.fixture(autouse=True)
def nothing_is_known(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what this machine knows, now that the bucket stands."""
    assert url
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


def test_from_variables(url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    keys_in_variables(versitygw, monkeypatch)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-old-1")
    assert region_of(Bucket.parse(url)) == "us-old-1"
    monkeypatch.setenv("AWS_REGION", "us-new-1")
    assert region_of(Bucket.parse(url)) == "us-new-1"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert_lets_in(url)


def test_from_a_profile(
    url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets, settings = tmp_path / "credentials", tmp_path / "config"
    secrets.write_text(
        f"[default]\naws_access_key_id = no\naws_secret_access_key = no\n[ours]\n"
        f"aws_access_key_id = {versitygw.access_key}\n"
        f"aws_secret_access_key = {versitygw.secret_key}\n"
    )
    settings.write_text("[profile ours]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    assert_lets_in(f"{url}&profile=ours")
    monkeypatch.setenv("AWS_PROFILE", "ours")
    assert_lets_in(url)


def test_from_the_url(url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_REGION", "other")
    keys = f"{quote(versitygw.access_key)}:{quote(versitygw.secret_key)}"
    assert_lets_in(url.replace("://", f"://{keys}@", 1) + "&region=us-east-1")


def test_from_the_endpoint_variable(
    url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_in_variables(versitygw, monkeypatch)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", versitygw.endpoint)
    assert_lets_in(url.partition("?")[0])


def test_from_the_instance(url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with granting(versitygw) as (address, asked):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        assert_lets_in(url)
    assert f"GET /latest/meta-data/iam/security-credentials/{ROLE}" in asked


def test_from_a_web_identity(
    url: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", f"arn:aws:iam::123456789012:role/{ROLE}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with granting(versitygw) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
        assert_lets_in(url)
    assert f"AssumeRoleWithWebIdentity {TOKEN}" in asked


def keys_in_variables(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)


def assert_lets_in(url: str) -> None:
    """The server checks both the keys and the region of every signature."""

    async def story() -> None:
        s3 = S3(Bucket.parse(url))
        try:
            await s3.check()
            assert await s3.put_new("key", b"cargo")
        finally:
            await s3.aclose()

    asyncio.run(story())


def region_of(bucket: Bucket) -> str:
    """Return the region that a signature is made for."""

    async def signed() -> str:
        s3 = S3(bucket)
        try:
            return await s3.presign("key")
        finally:
            await s3.aclose()

    [scope] = parse_qs(urlsplit(asyncio.run(signed())).query)["X-Amz-Credential"]
    return scope.split("/")[2]


@contextmanager
def granting(server: S3Server) -> Iterator[tuple[str, list[str]]]:
    """Answer as an instance's metadata and as the token service do; give address and requests."""
    asked: list[str] = []
    keys = {
        "AccessKeyId": server.access_key,
        "SecretAccessKey": server.secret_key,
        "Expiration": LATER,
    }

    class Grant(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:  # IMDSv2: a session first
            self.answer("session")

        def do_GET(self) -> None:
            asked.append(f"GET {self.path}")
            known = {
                "/latest/meta-data/iam/security-credentials/": ROLE,
                f"/latest/meta-data/iam/security-credentials/{ROLE}": json.dumps(
                    keys | {"Code": "Success", "Token": ""}
                ),
            }
            self.answer(known[self.path])

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append(f"{form['Action'][0]} {form['WebIdentityToken'][0]}")
            fields = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
            self.answer(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                f"{fields}<SessionToken></SessionToken></Credentials>"
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )

        def answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Grant) as answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{answering.server_port}", asked
        finally:
            answering.shutdown()
            thread.join()

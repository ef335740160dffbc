"""Real S3 servers of our own: started by the tests, on loopback, ended by process id.

Two kinds, because each leaves S3 in other places: versitygw copies all bytes to complete a
multipart upload and syncs nothing; MinIO completes in no time and reads presigned URLs strictly.
What a test learns about a bucket here, it learns behind the registry's back.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args
from urllib.parse import urlencode

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from types_aiobotocore_s3 import S3Client

from conformance import tools

Kind = Literal["versitygw", "minio"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")

_REGION = "us-east-1"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    id: str


class S3Server:
    """One server on a folder and port of its own; `start` and `stop` may follow each other."""

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.access_key = f"lading{secrets.token_hex(6)}"
        self.secret_key = secrets.token_hex(20)
        self._program = tools.build([kind])[kind]
        self._session = get_session()
        self._process: subprocess.Popen[bytes] | None = None
        # Not below pytest's folders: versitygw keeps what it knows of an object in extended
        # attributes, which a memory file system put there may not have.
        self.folder = Path(tempfile.mkdtemp(prefix=f"lading-{kind}-"))
        (self.folder / "data").mkdir()
        # Bound and never listening: the port stays ours while the server is away.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = int(self._reserved.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a registry needs to find its credentials here, and to ask nobody else for any."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": _REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def log(self) -> str:
        """Everything it wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    def url(self, bucket: str, prefix: str = "", *, endpoint: str | None = None) -> str:
        """Name a place for blobs; with an endpoint, by way of whatever answers there."""
        query = urlencode({"endpoint": endpoint or self.endpoint}, safe=":/")
        return f"s3://{bucket}/{prefix}?{query}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=self._own_environment(), cwd=self.folder,
                stdout=log, stderr=log,
            )  # fmt: skip
        asyncio.run(self._wait_until_ready(self._process))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it: SIGTERM in order, SIGKILL as a crash would."""
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(how)
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()
                process.wait()

    def remove(self) -> None:
        """End it and leave nothing."""
        self.stop(signal.SIGKILL)
        self._reserved.close()
        shutil.rmtree(self.folder)

    def client(
        self, *, endpoint: str | None = None, secret_key: str | None = None, attempts: int = 1
    ) -> AbstractAsyncContextManager[S3Client]:
        """Give a client, for tests that await.

        It repeats nothing unless told to; aiohttp below it still repeats, once, what has a method
        that may be repeated and got no answer.
        """
        return self._session.create_client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            region_name=_REGION,
            verify=False,  # http has nothing to verify, and reading authorities takes 20 ms
            aws_access_key_id=self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=AioConfig(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=5,
                read_timeout=30,
            ),
        )

    def new_bucket(self) -> str:
        """Make an empty bucket; return its name."""
        bucket = f"lading-{secrets.token_hex(8)}"
        self._ask(lambda s3: s3.create_bucket(Bucket=bucket))
        return bucket

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Every object below the prefix, and how many bytes it has."""

        async def listed(s3: S3Client) -> dict[str, int]:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return {
                each["Key"]: each["Size"]
                async for page in pages
                for each in page.get("Contents", [])
            }

        return self._ask(listed)

    def uploads(self, bucket: str, key: str = "") -> list[Upload]:
        """Every multipart upload that is open, of the bucket or of one object.

        A MinIO that was started again lists the earlier ones to those who name the object.
        """

        async def listed(s3: S3Client) -> list[Upload]:
            # One page: further ones fail on versitygw. No true prefix: MinIO finds nothing by it.
            page = await s3.list_multipart_uploads(Bucket=bucket, Prefix=key)
            assert not page["IsTruncated"], "more uploads than one page holds"
            return [
                Upload(key=each["Key"], id=each["UploadId"]) for each in page.get("Uploads", [])
            ]

        return self._ask(listed)

    def read(self, bucket: str, key: str) -> bytes:
        """Return an object's bytes."""

        async def got(s3: S3Client) -> bytes:
            answer = await s3.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                return bytes(await body.read())

        return self._ask(got)

    def write(self, bucket: str, key: str, body: bytes) -> None:
        """Make or replace an object."""
        self._ask(lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=body))

    def delete(self, bucket: str, key: str) -> None:
        """Take an object away."""
        self._ask(lambda s3: s3.delete_object(Bucket=bucket, Key=key))

    def begin_upload(self, bucket: str, key: str) -> None:
        """Begin a multipart upload and leave it."""
        self._ask(lambda s3: s3.create_multipart_upload(Bucket=bucket, Key=key))

    def _ask(self, question: Callable[[S3Client], Awaitable[T]]) -> T:
        async def main() -> T:
            async with self.client(attempts=3) as s3:
                return await question(s3)

        return asyncio.run(main())

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        async with self.client() as s3:
            while True:
                try:
                    await s3.list_buckets()
                except (BotoCoreError, ClientError, OSError):
                    assert process.poll() is None, self.log
                    assert time.monotonic() < deadline, f"{self.kind} does not answer:\n{self.log}"
                    await asyncio.sleep(0.02)
                else:
                    return

    def _command(self) -> Sequence[str | Path]:
        address, data = f"127.0.0.1:{self.port}", self.folder / "data"
        if self.kind == "minio":
            return [self._program, "server", "--address", address, data]
        return [self._program, "--port", address, "--quiet", "--keep-alive", "posix", data]

    def _own_environment(self) -> dict[str, str]:
        # Nothing of ours but the PATH: both read dozens of variables, and MinIO writes to HOME.
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        if self.kind == "minio":
            return environment | {
                "MINIO_ROOT_USER": self.access_key,
                "MINIO_ROOT_PASSWORD": self.secret_key,
                "MINIO_BROWSER": "off",  # else a console listens on every interface
                "MINIO_UPDATE": "off",  # else it asks its makers for a newer release
            }
        return environment | {
            "ROOT_ACCESS_KEY": self.access_key,
            "ROOT_SECRET_KEY": self.secret_key,
        }


@contextmanager
def running(kind: Kind) -> Iterator[S3Server]:
    """Give a server that runs, and leave nothing of it."""
    server = S3Server(kind)
    try:
        server.start()
        yield server
    finally:
        server.remove()

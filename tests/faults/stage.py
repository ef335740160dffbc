"""A registry on S3, a faulty proxy in between, and its bucket held against its catalog."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from types_aiobotocore_s3 import S3Client

from tests.faulty import FaultyProxy
from tests.s3 import S3Server
from tests.serving import Served
from tests.wire.build import assert_refused
from tests.wire.raw import eventually

PREFIX = "some/where"
_TAILS = (".tail0", ".tail1", ".tail2")
_BESIDE = ".beside"


@dataclass(frozen=True, slots=True)
class Held:
    """What a bucket holds: objects with their sizes, multipart uploads as (key, id)."""

    objects: dict[str, int]
    uploads: set[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Stage:
    """The proxy is the only way that the registry knows to the server."""

    server: S3Server
    proxy: FaultyProxy
    bucket: str
    served: Served

    def held(self) -> Held:
        """List the bucket behind the proxy's back."""
        return held(self.server, self.bucket)

    def check_named(self) -> None:
        """Every object and every multipart upload is named by a row, every blob is there."""
        # Listed first: what a sweep takes away in between must not look like a stray.
        found = self.held()
        with closing(sqlite3.connect(self.served.data / "catalog.db")) as db:
            named_by(db).check(found)

    def settle(self, seconds: float = 30.0) -> None:
        """Let a day go by: the bucket ends up with the catalog's blobs and nothing else."""

        def settled() -> bool:
            with closing(sqlite3.connect(self.served.data / "catalog.db", timeout=20)) as db:
                with db:
                    for aging in AGED:
                        db.execute(aging)
                named = named_by(db)
            return not named.rest and self.held() == Held(named.blobs, set())

        eventually(settled, seconds)


@dataclass(frozen=True, slots=True)
class Named:
    """What the rows of a catalog say of a bucket."""

    blobs: dict[str, int]
    # Keys of uploads and of what is discarded, each with the state that its writer gave.
    rest: dict[str, dict[str, object]]

    @classmethod
    def of(
        cls, blobs: Iterable[tuple[str, int]], rest: Iterable[tuple[str, bytes | None]]
    ) -> Named:
        return cls(dict(blobs), {key: json.loads(state) if state else {} for key, state in rest})

    def check(self, found: Held) -> None:
        stray = {key for key in found.objects if not self._names(key)}
        stray |= {f"{key}?uploadId={upload}" for key, upload in found.uploads
                  if not self._names_upload(key, upload)}  # fmt: skip
        assert not stray
        assert {key: found.objects.get(key) for key in self.blobs} == self.blobs

    def _names(self, key: str) -> bool:
        owner, dot, _ = key.partition(".")
        if dot:
            assert key.endswith(_TAILS), key
            return any(each.get("tails") for each in self._states(owner))
        return key in self.blobs or key in self.rest

    def _names_upload(self, key: str, upload: str) -> bool:
        return any(
            state.get("in_doubt") or (state.get("upload") or {}).get("id") == upload  # type: ignore[attr-defined]
            for state in self._states(key)
        )

    def _states(self, key: str) -> list[dict[str, object]]:
        return [self.rest[each] for each in (key, key + _BESIDE) if each in self.rest]


BLOBS = "SELECT key, size FROM blob"
REST = "SELECT id, store_state FROM upload UNION ALL SELECT key, store_state FROM discarded"
AGED = ("UPDATE upload SET touched_at = 0", "UPDATE discarded SET since = 0")


def named_by(db: sqlite3.Connection) -> Named:
    return Named.of(db.execute(BLOBS).fetchall(), db.execute(REST).fetchall())


def held(server: S3Server, bucket: str) -> Held:
    async def listed(s3: S3Client) -> Held:
        page = await s3.list_objects_v2(Bucket=bucket, Prefix=PREFIX)
        uploads = await s3.list_multipart_uploads(Bucket=bucket)
        assert not page["IsTruncated"]
        assert not uploads["IsTruncated"]
        start = len(PREFIX) + 1
        return Held(
            {each["Key"][start:]: each["Size"] for each in page.get("Contents", [])},
            {(each["Key"][start:], each["UploadId"]) for each in uploads.get("Uploads", [])},
        )

    return server._ask(listed)


def blobs_option(server: S3Server, bucket: str, endpoint: str) -> tuple[str, str]:
    """Return the option that has a registry keep its blobs there, with the credentials to do so."""
    user = f"{server.access_key}:{quote(server.secret_key, safe='')}"
    return (
        "--blobs",
        f"s3://{user}@{bucket}/{PREFIX}?endpoint={endpoint}&region=us-east-1",
    )


@contextmanager
def staged(
    server: S3Server, data: Path, options: Sequence[str] = (), workers: int = 1
) -> Iterator[Stage]:
    """Start a registry over a bucket of its own; leave no process of it."""
    bucket = server.new_bucket()
    with FaultyProxy(server.port) as proxy:
        blobs = blobs_option(server, bucket, proxy.endpoint)
        served = Served(data, options=(*blobs, *options), workers=workers)
        try:
            yield Stage(server, proxy, bucket, served.start())
        finally:
            served.stop()


def check_unavailable(answer: httpx.Response) -> None:
    """Assert that it is a 503 in the spec's words which says when to come again."""
    assert_refused(answer, 503, "TOOMANYREQUESTS")
    assert int(answer.headers["retry-after"]) > 0

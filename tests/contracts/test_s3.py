"""The blob store on S3: the contract, on both servers, and what only a bucket has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ociserver.bucket import Bucket
from ociserver.leases import Leases
from ociserver.ports import Catalog
from ociserver.storage.s3 import S3Blobs
from ociserver.storage.s3_client import S3
from ociserver.storage.sqlite import SqliteCatalog
from tests.contracts.blobs import OPENED, BlobStoreContract, Make
from tests.s3 import S3Server


class TestS3(BlobStoreContract):
    @pytest.fixture
    def make(self, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
        for name, value in s3_server.environment.items():
            monkeypatch.setenv(name, value)
        self.server, self.bucket = s3_server, s3_server.new_bucket()
        bucket = Bucket.parse(s3_server.url(self.bucket, "some/where"))
        catalogs: list[Catalog] = []

        def make() -> S3Blobs:
            # One catalog for each story, as replicas have: it says who writes.
            if not OPENED:
                catalogs.append(SqliteCatalog(tmp_path / "catalog.db"))
            store = _Shared(S3(bucket), Leases(catalogs[-1]), memory=64 * 2**20, patience=0.3)
            store.catalog = catalogs[-1]
            OPENED.append(store)
            return store

        return make

    def left_behind(self) -> list[str]:
        uploads = self.server.uploads(self.bucket)
        return [*self.server.sizes(self.bucket), *(each.id for each in uploads)]


class _Shared(S3Blobs):
    catalog: Catalog

    async def aclose(self) -> None:
        await super().aclose()
        if not OPENED:
            await self.catalog.aclose()

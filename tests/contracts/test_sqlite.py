from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ociserver.content import OCI_MANIFEST, parse_manifest
from ociserver.errors import ManifestUnknown
from ociserver.ports import CatalogTx, StoredManifest
from ociserver.refs import Digest, RepositoryName, Tag
from ociserver.storage.sqlite import SqliteCatalog
from ociserver.upload import UploadSession
from tests.serving import digest_of

REPOSITORY = RepositoryName("team/model")
OTHER = RepositoryName("team/other")
CONFIG = Digest(digest_of(b"{}"))
BODY = (
    b'{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"%s","size":2},"layers":[]}'
    % CONFIG.encode()
)
MANIFEST = StoredManifest(digest=Digest(digest_of(BODY)), media_type=OCI_MANIFEST, body=BODY)


def session(number: int) -> UploadSession:
    return UploadSession(id=f"{number:032x}", repository=REPOSITORY, algorithm="sha256", offset=2)


def tag_it(tx: CatalogTx, tag: str) -> None:
    tx.put_manifest(REPOSITORY, MANIFEST, parse_manifest(BODY, OCI_MANIFEST))
    tx.move_tag(REPOSITORY, Tag(tag), MANIFEST.digest)


def test_a_refused_write_undoes_itself_and_no_other_of_its_group(tmp_path: Path) -> None:
    def refused(tx: CatalogTx) -> None:
        tag_it(tx, "refused")
        raise ManifestUnknown("no")

    async def story() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db")
        writes = [
            catalog.write(refused if n % 5 == 0 else lambda tx, n=n: tag_it(tx, f"t{n}"))  # type: ignore[misc]
            for n in range(50)
        ]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(one, ManifestUnknown) for one in outcomes) == 10
        tags = await catalog.read(lambda tx: tx.tags(REPOSITORY, "", 100))
        assert set(tags) == {f"t{n}" for n in range(50) if n % 5}
        await catalog.aclose()
        await catalog.aclose()

    asyncio.run(story())


def test_an_acknowledged_write_is_seen_through_another_instance_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        one, two = (SqliteCatalog(tmp_path / "catalog.db") for _ in range(2))
        for number in range(20):
            before = two.generation()
            await one.write(lambda tx, number=number: tag_it(tx, f"t{number}"))  # type: ignore[misc]
            assert two.generation() != before
            assert await two.read(lambda tx: tx.tags(REPOSITORY, "", 100))
        await asyncio.gather(
            *(each.write(lambda tx: tag_it(tx, "both")) for each in (one, two) for _ in range(20))
        )
        found = await two.read(lambda tx: tx.manifest(REPOSITORY, Tag("both")))
        assert found == MANIFEST
        await one.aclose()
        await two.aclose()

    asyncio.run(story())


def test_bytes_are_seen_only_where_they_are_linked_and_kept_once(tmp_path: Path) -> None:
    async def story() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db")
        for number in (1, 2):
            await catalog.write(lambda tx, n=number: tx.begin_upload(session(n), 1.0))  # type: ignore[misc]
        keys = [
            await catalog.write(lambda tx, n=n: tx.commit_upload(session(n), [CONFIG], 2.0))  # type: ignore[misc]
            for n in (1, 2, 2)
        ]
        assert keys == [session(1).id, session(1).id, None]
        assert await catalog.read(lambda tx: tx.discarded_keys(9.0, 9)) == [session(2).id]
        assert await catalog.read(lambda tx: tx.blob(OTHER, CONFIG)) is None
        assert not await catalog.write(lambda tx: tx.mount(OTHER, CONFIG, OTHER))
        assert await catalog.write(lambda tx: tx.mount(OTHER, CONFIG, None))
        assert await catalog.read(lambda tx: tx.blob(OTHER, CONFIG)) is not None
        await catalog.write(lambda tx: tag_it(tx, "v1"))
        assert await catalog.read(lambda tx: tx.needed_by(REPOSITORY, CONFIG)) == MANIFEST.digest
        await catalog.aclose()

    asyncio.run(story())


@pytest.mark.parametrize("by_digest", [True, False])
def test_deleting_by_digest_takes_every_tag_by_tag_only_that_one(
    tmp_path: Path, by_digest: bool
) -> None:
    async def story() -> None:
        catalog = SqliteCatalog(tmp_path / "catalog.db")
        for tag in ("a", "b"):
            await catalog.write(lambda tx, tag=tag: tag_it(tx, tag))  # type: ignore[misc]
        if by_digest:
            assert await catalog.write(lambda tx: tx.delete_manifest(REPOSITORY, MANIFEST.digest))
        else:
            assert await catalog.write(lambda tx: tx.delete_tag(REPOSITORY, Tag("a")))
        left = await catalog.read(lambda tx: tx.tags(REPOSITORY, "", 9))
        assert left == ([] if by_digest else ["b"])
        await catalog.aclose()

    asyncio.run(story())

# What an alias needs stays, on either database: the artifact, and what an index of it names.
from __future__ import annotations

from mlext.ports import ModelsTx
from mlext.records import Alias
from ociserver.content import OCI_INDEX, OCI_MANIFEST, parse_manifest
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName, Tag, parse_name
from tests.mlext.population import Shelf
from tests.serving import digest_of
from tests.wire.build import index, unique_image

MODEL, OTHER = parse_name("kept/one"), parse_name("kept/two")
PROD = Tag("prod")


def put(tx: ModelsTx, model: RepositoryName, body: bytes, media_type: str) -> Digest:
    digest = Digest.parse(digest_of(body))
    stored = StoredManifest(digest=digest, media_type=media_type, body=body)
    tx.put_manifest(model, stored, parse_manifest(body, media_type))
    return digest


def point(tx: ModelsTx, digest: Digest, moves: int) -> None:
    pointing = Alias(
        model=MODEL,
        name=PROD,
        number=moves,
        digest=digest,
        moves=moves,
        updated_at=100.0 * moves,
        updated_by="user:ann",
        reason="",
    )
    tx.put_alias(pointing, moves - 1 or None)


def test_what_an_index_names_is_retained_as_long_as_it_is(shelved: Shelf) -> None:
    image = unique_image()
    inner = index(image)
    outer = index(inner)

    def furnish(tx: ModelsTx) -> tuple[Digest, ...]:
        put(tx, OTHER, image, OCI_MANIFEST)
        found = (
            put(tx, MODEL, image, OCI_MANIFEST),
            put(tx, MODEL, inner, OCI_INDEX),
            put(tx, MODEL, outer, OCI_INDEX),
            put(tx, MODEL, unique_image(), OCI_MANIFEST),
        )
        point(tx, found[2], 1)
        return found

    child, middle, top, next_one = shelved.write(furnish)

    def reasons(model: RepositoryName, digest: Digest, since: float) -> list[str]:
        return [*shelved.read(lambda tx: tx.retained(model, digest, since))]

    assert reasons(MODEL, top, 0.0) == ["alias prod points at it"]
    needs = f"alias prod points at {top}, which needs it,"
    assert reasons(MODEL, child, 0.0) == reasons(MODEL, middle, 0.0) == [needs]
    assert reasons(MODEL, next_one, 0.0) == reasons(OTHER, child, 0.0) == []

    shelved.write(lambda tx: point(tx, next_one, 2))
    [told] = reasons(MODEL, child, 150.0)
    assert told == f"alias prod pointed at {top}, which needs it, and may be rolled back"
    assert reasons(MODEL, child, 250.0) == []

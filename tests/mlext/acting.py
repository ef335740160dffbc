"""The model registry without its web: catalogs with its rows, and acts of theirs."""

from __future__ import annotations

from typing import Any, cast

from mlext.acts import Act
from mlext.ports import ModelsCatalog
from mlext.storage.catalog import ROWS
from mlext.warden import Warden
from ociserver.admission import Author
from ociserver.content import OCI_MANIFEST, parse_manifest
from ociserver.ports import StoredManifest
from ociserver.refs import Digest, RepositoryName, Tag
from ociserver.storage.catalog import SqlCatalogTx
from tests.serving import digest_of

# The config of every manifest passes for there: this is about rows, and none of a blob is written.
TRANSACTION: Any = type("Tx", (SqlCatalogTx, *ROWS), {"missing": lambda *_: []})


def author(name: str) -> Author:
    """Return one who may do everything."""
    return Author(name=name, may=lambda *_: True, may_somewhere=lambda *_: True)


def as_models(catalog: object) -> ModelsCatalog:
    """Return the catalog as what its transaction's rows make of it."""
    return cast("ModelsCatalog", catalog)


def stored(body: bytes) -> StoredManifest:
    return StoredManifest(digest=Digest(digest_of(body)), media_type=OCI_MANIFEST, body=body)


def pushed(act: Act, model: RepositoryName, body: bytes, tag: str | None = None) -> Digest:
    """Do what a push of a manifest does (`registry.RegistryWriter.put_manifest`)."""
    found, view = stored(body), parse_manifest(body, OCI_MANIFEST)
    act.tx.put_manifest(model, found, view)
    warden = Warden(history=3600, names_alias=lambda *_: False)
    warden.pushed(act.tx, model, found, view, act.by)
    if tag is not None:
        warden.tag_moves(act.tx, model, Tag(tag), found.digest, act.by)
        act.tx.move_tag(model, Tag(tag), found.digest)
    return found.digest

"""Admission: what stands before the graph of manifests and tags changes, in the transaction that
changes it. An extension that gives tags a meaning is asked here; no door goes round it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ociserver.auth.rules import Action
from ociserver.content import Manifest
from ociserver.ports import CatalogTx, StoredManifest
from ociserver.refs import Digest, RepositoryName, Tag

# Action, repository and, where the action moves one, an alias.
May = Callable[[Action, str, str | None], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who asks for a change: a principal's full name, what the rules let it do, and the request.

    `may_somewhere` tells of an action whether they may do it in any repository at all; `holds`
    whether the token that they showed, if any, was asked for it, where the path names nothing that
    it could be asked for.
    """

    name: str
    may: May
    may_somewhere: Callable[[Action], bool]
    holds: Callable[[Action, str], bool] = lambda *_: True
    request_id: str = ""


class Admission(Protocol):
    """Each method runs inside the write it is asked about; what it raises undoes all of it.

    Raises Denied, Conflict, ManifestInvalid, ManifestBlobUnknown.
    """

    def records(self, view: Manifest) -> bool:
        """Tell whether a push of this manifest will be recorded in the audit, outside any write.

        It is then done in its turn; one that is recorded all the same may lose against others.
        """

    def pushed(
        self,
        tx: CatalogTx,
        repository: RepositoryName,
        stored: StoredManifest,
        view: Manifest,
        by: Author,
    ) -> None:
        """Take note of a manifest that was just put, before any tag moves to it."""

    def tag_moves(
        self, tx: CatalogTx, repository: RepositoryName, tag: Tag, digest: Digest, by: Author
    ) -> None:
        """Let a tag move to a manifest of the repository, or raise."""

    def tag_goes(self, tx: CatalogTx, repository: RepositoryName, tag: Tag, by: Author) -> None:
        """Let a tag be removed, or raise."""

    def manifest_goes(
        self, tx: CatalogTx, repository: RepositoryName, digest: Digest, by: Author
    ) -> None:
        """Let a manifest be removed with every tag on it, or raise."""

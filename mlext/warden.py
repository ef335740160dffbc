"""`Admission` of the model registry: what pushes and deletes of OCI clients mean for models.

A manifest that says of itself what it is becomes a version; a tag that is an alias moves by the
rules of aliases; what an alias needs is not taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

from mlext import aliases, versions
from mlext.acts import Act
from mlext.documents import annotated, is_annotated
from mlext.errors import DocumentInvalid, Retained, TagProtected
from mlext.ports import ModelsTx
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.content import Manifest
from ociserver.errors import ManifestInvalid
from ociserver.ports import CatalogTx, StoredManifest
from ociserver.refs import Digest, RepositoryName, Tag


class Warden:
    """`ociserver.admission.Admission`. `history` is for how many seconds what an alias pointed at
    stays for a rollback; `names_alias` tells of a repository and a tag whether the rules in force
    are about an alias of just this name.
    """

    def __init__(self, *, history: float, names_alias: Callable[[str, str], bool]) -> None:
        self._history = history
        self._names_alias = names_alias

    def records(self, view: Manifest) -> bool:
        """Tell of a manifest that says what it is: its registration is an event."""
        return is_annotated(view.annotations)

    def pushed(
        self,
        tx: CatalogTx,
        repository: RepositoryName,
        stored: StoredManifest,
        view: Manifest,
        by: Author,
    ) -> None:
        """Register a manifest with `io.lading.*` annotations; one that is a version stays it."""
        rows = cast("ModelsTx", tx)
        if (known := rows.version_of(repository, stored.digest)) is not None:
            tag = versions.version_tag(known.number)
            if not rows.standing(repository, [tag]):
                # It was deleted: by its number, too, it is there again.
                tx.move_tag(repository, tag, stored.digest)
            return
        try:
            asked = annotated(stored.digest, view.annotations)
        except DocumentInvalid as error:
            raise ManifestInvalid(f"this push would register a version: {error.message}") from error
        if asked is None:
            return
        act = Act(rows, by)
        act.require(Action.REGISTER, repository)
        versions.register(act, repository, asked)

    def tag_moves(
        self, tx: CatalogTx, repository: RepositoryName, tag: Tag, digest: Digest, by: Author
    ) -> None:
        """Have a push onto an alias be a move of it."""
        act = Act(cast("ModelsTx", tx), by)
        is_named = self._names_alias(repository, tag)
        aliases.pushed_onto(act, repository, tag, digest, is_named=is_named)

    def tag_goes(self, tx: CatalogTx, repository: RepositoryName, tag: Tag, by: Author) -> None:  # noqa: ARG002 - nobody may
        """Leave aliases and tags of versions where they are."""
        rows = cast("ModelsTx", tx)
        is_moved = rows.alias(repository, tag) is not None
        # Of a tag that is not there nothing is said but that.
        if is_moved or (
            rows.standing(repository, [tag]) and self._reserved(rows, repository, [tag])
        ):
            raise TagProtected(f"{tag} is an alias of {repository}: it is moved, not deleted")
        if (version := versions.version_under(rows, repository, tag)) is not None:
            raise TagProtected(f"{tag} is version {version.number} of {repository}, which stays")

    def manifest_goes(
        self,
        tx: CatalogTx,
        repository: RepositoryName,
        digest: Digest,
        by: Author,  # noqa: ARG002 - nobody may
    ) -> None:
        """Keep what an alias points at, or pointed at within its kept history."""
        rows = cast("ModelsTx", tx)
        reasons = rows.retained(repository, digest, rows.now() - self._history) or [
            f"{tag} points at it, and {why}"
            for tag, why in self._reserved(rows, repository, rows.tags_on(repository, digest))
        ]
        if reasons:
            raise Retained(
                f"{digest} is needed: {'; '.join(reasons)}", detail={"reasons": list(reasons)}
            )

    def _reserved(
        self, rows: ModelsTx, repository: RepositoryName, tags: Collection[Tag]
    ) -> list[tuple[Tag, str]]:
        """Return those of the tags that are aliases before any move of theirs, and why."""
        gated = aliases.gated(rows, repository, tags)
        named = [
            tag
            for tag in tags
            if not versions.is_version_tag(tag) and self._names_alias(repository, tag)
        ]
        return [
            *((tag, "has a gate") for tag in gated),
            *((tag, "is an alias by the rules") for tag in named),
        ]

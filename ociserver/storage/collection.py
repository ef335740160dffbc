"""Garbage collection in SQL: what keeps each row, and its end. `ports.CollectionRows`, `PinRows`.

Everything is looked up by an index, from rows that a page or the caller named: no statement's cost
grows with the catalog. What takes rows away repeats in its own WHERE all that must hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Row,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.sql.dml import ReturningDelete

from ociserver.refs import Digest, RepositoryName, Tag
from ociserver.retention import HeldBlob, HeldLink, HeldManifest, Horizon, Place
from ociserver.storage.manifests import ManifestSql
from ociserver.storage.schema import (
    blob,
    blob_digest,
    discarded,
    manifest,
    manifest_child,
    pin,
    repository,
    repository_blob,
    tag,
)
from ociserver.storage.transaction import insert_unless_there, repository_named

_BEGIN: Place = (0, "")
_BEGIN_BY_ID: Place = (0, 0)
_no_scan = text("SET LOCAL enable_seqscan = off")
_name = manifest.c.digest.type


def _outer(name: str) -> ColumnElement[Any]:
    """Name a column of the row around: SQLAlchemy does not correlate into a recursion."""
    return literal_column(name, _name)


def _some(column: ColumnElement[Any], *where: ColumnElement[bool]) -> ColumnElement[bool]:
    """Tell whether there is such a row, by one look into an index for each row around.

    PostgreSQL takes EXISTS for a join, or for a table to be made of all that could be asked for.
    """
    return select(column).where(*where).limit(1).scalar_subquery().is_not(None)


def _walk_up(repository_id: ColumnElement[Any], seed: Select[Any]) -> CTE:
    """Return all that keeps the seed: its parents and subjects, theirs, and so on.

    `first` is the direct keeper that led there. The walk ends where edges lead back.
    """
    up = seed.cte("up", recursive=True, nesting=True)
    edge, node, keeper = manifest_child.alias("edge"), manifest.alias("node"), manifest.alias()
    # PostgreSQL allows a recursion to name itself once, so the two ways up are one join.
    zero: Select[Any] = select(literal_column("0").label("way"))
    way = zero.union_all(select(literal_column("1"))).subquery("ways")
    by_child = (edge.c.repository_id == repository_id, edge.c.child == up.c.digest)
    by_digest = (node.c.repository_id == repository_id, node.c.digest == up.c.digest)
    found = func.coalesce(edge.c.parent, node.c.subject)
    above = (
        up.join(way, true())
        .outerjoin(edge, and_(way.c.way == 0, *by_child))
        .outerjoin(node, and_(way.c.way == 1, *by_digest))
        .join(keeper, and_(keeper.c.repository_id == repository_id, keeper.c.digest == found))
    )
    first = func.coalesce(up.c.first, keeper.c.digest)
    return up.union(select(keeper.c.digest, first).select_from(above))


def _keeper_that_stays(
    repository_id: ColumnElement[Any], seed: Select[Any]
) -> ScalarSelect[Digest]:
    """Return a direct keeper of the seed that is tagged, pinned or young, or is kept by such a one.

    The walk goes no further than the first that is found.
    """
    up = _walk_up(repository_id, seed)
    young = manifest.alias()
    stays = or_(
        _some(tag.c.name, tag.c.repository_id == repository_id, tag.c.digest == up.c.digest),
        _some(pin.c.owner, pin.c.repository_id == repository_id, pin.c.digest == up.c.digest),
        _some(
            young.c.digest,
            young.c.repository_id == repository_id,
            young.c.digest == up.c.digest,
            young.c.touched_at >= bindparam("untagged_before"),
        ),
    )
    return select(up.c.first).where(up.c.first.is_not(None), stays).limit(1).scalar_subquery()


# -- manifests

_held = manifest.alias("held")
_subject = manifest.alias("its_subject")
_of_held = (_outer("held.repository_id"), _outer("held.digest"))
_nobody = cast(null(), _name)
_its_parent = (
    select(manifest_child.c.parent)
    .where(
        manifest_child.c.repository_id == _held.c.repository_id,
        manifest_child.c.child == _held.c.digest,
    )
    .limit(1)
)
_its_subject = select(_subject.c.digest).where(
    _subject.c.repository_id == _held.c.repository_id, _subject.c.digest == _held.c.subject
)
_its_tag = (
    select(tag.c.name)
    .where(tag.c.repository_id == _held.c.repository_id, tag.c.digest == _held.c.digest)
    .limit(1)
)
_its_pin = (
    select(pin.c.owner)
    .where(pin.c.repository_id == _held.c.repository_id, pin.c.digest == _held.c.digest)
    .limit(1)
)
_manifests = select(
    _held.c.repository_id,
    _held.c.digest,
    _held.c.subject,
    _held.c.touched_at,
    func.length(_held.c.body).label("size"),
    select(repository.c.name)
    .where(repository.c.id == _held.c.repository_id)
    .scalar_subquery()
    .label("repository"),
    _its_tag.scalar_subquery().label("tag"),
    _its_pin.scalar_subquery().label("pinned_by"),
    func.coalesce(_its_parent.scalar_subquery(), _its_subject.scalar_subquery()).label("keeper"),
    _keeper_that_stays(
        _of_held[0], select(_of_held[1].label("digest"), _nobody.label("first"))
    ).label("kept_by"),
)
_manifest_page = (
    _manifests.where(
        tuple_(_held.c.repository_id, _held.c.digest)
        > tuple_(bindparam("after_id", type_=Integer), bindparam("after", type_=_name))
    )
    .order_by(_held.c.repository_id, _held.c.digest)
    .limit(bindparam("limit"))
)
_one_manifest = _manifests.where(
    _held.c.repository_id == bindparam("in_repository"), _held.c.digest == bindparam("named")
)
_one_manifest_up = _walk_up(
    bindparam("in_repository", type_=Integer),
    select(bindparam("named", type_=_name).label("digest"), _nobody.label("first")),
)
_all_above = select(_one_manifest_up.c.digest).distinct()
_dropped_manifest = delete(manifest).returning(manifest.c.digest)
_among_manifests = (
    manifest.c.repository_id == bindparam("in_repository"),
    manifest.c.digest.in_(bindparam("named", expanding=True)),
)


def _named_by(rows: Any, name: str, of: ColumnElement[Any] = manifest.c.digest) -> Any:
    """Tell whether such a row of the manifest's repository names it, or what it names."""
    column = rows.c[name]
    return _some(column, rows.c.repository_id == manifest.c.repository_id, column == of)


_freed_manifests = _dropped_manifest.where(
    *_among_manifests,
    manifest.c.touched_at < bindparam("untagged_before"),
    ~_named_by(tag, "digest"),
    ~_named_by(pin, "digest"),
    ~_named_by(manifest_child, "child"),
    ~_named_by(_subject, "digest", manifest.c.subject),
)
_dropped_edges = delete(manifest_child).where(
    manifest_child.c.repository_id == bindparam("in_repository"),
    manifest_child.c.parent.in_(bindparam("named", expanding=True)),
)

# -- links

_link = repository_blob.alias("link")
_of_link = (_outer("link.repository_id"), _outer("link.blob_id"))
_of_repository_blob = (_outer("repository_blob.repository_id"), _outer("repository_blob.blob_id"))


def _namers(repository_id: ColumnElement[Any], blob_id: ColumnElement[Any]) -> Select[Any]:
    """Return the manifests that name the blob, by whichever of its digests."""
    # Not a join: SQLite would begin it with every edge of the repository.
    names = select(blob_digest.c.digest).where(blob_digest.c.blob_id == blob_id)
    parent = manifest_child.c.parent
    return select(parent.label("digest"), parent.label("first")).where(
        manifest_child.c.repository_id == repository_id, manifest_child.c.child.in_(names)
    )


def _a_digest(blob_id: ColumnElement[Any]) -> ScalarSelect[Digest]:
    """Return one digest of the blob, always the same."""
    name = blob_digest.alias()
    return select(func.min(name.c.digest)).where(name.c.blob_id == blob_id).scalar_subquery()


_namer_that_stays = _keeper_that_stays(_of_link[0], _namers(*_of_link))
_link_page = (
    select(
        _link.c.repository_id,
        _link.c.blob_id,
        _link.c.linked_at,
        blob.c.size,
        _a_digest(_link.c.blob_id).label("digest"),
        select(repository.c.name)
        .where(repository.c.id == _link.c.repository_id)
        .scalar_subquery()
        .label("repository"),
        _namers(*_of_link)
        .with_only_columns(manifest_child.c.parent)
        .limit(1)
        .scalar_subquery()
        .label("keeper"),
        _namer_that_stays.label("kept_by"),
    )
    .join(blob, blob.c.id == _link.c.blob_id)
    .where(
        tuple_(_link.c.repository_id, _link.c.blob_id)
        > tuple_(bindparam("after_id", type_=Integer), bindparam("after", type_=Integer))
    )
    .order_by(_link.c.repository_id, _link.c.blob_id)
    .limit(bindparam("limit"))
)
_freed_links = delete(repository_blob).where(
    repository_blob.c.repository_id == bindparam("in_repository"),
    repository_blob.c.blob_id.in_(bindparam("ids", expanding=True)),
    repository_blob.c.linked_at < bindparam("linked_before"),
    _namers(*_of_repository_blob)
    .with_only_columns(manifest_child.c.parent)
    .limit(1)
    .scalar_subquery()
    .is_(None),
)

# -- blobs

_holders = (
    select(repository.c.name)
    .join_from(_link, repository, repository.c.id == _link.c.repository_id)
    .where(_link.c.blob_id == blob.c.id)
    .limit(1)
)
_holder_that_stays = _holders.where(
    or_(_link.c.linked_at >= bindparam("linked_before"), _namer_that_stays.is_not(None))
)
_blob_page = (
    select(
        blob.c.id,
        blob.c.size,
        _a_digest(blob.c.id).label("digest"),
        _holders.scalar_subquery().label("keeper"),
        _holder_that_stays.scalar_subquery().label("kept_by"),
    )
    .where(blob.c.id > bindparam("after_id"))
    .order_by(blob.c.id)
    .limit(bindparam("limit"))
)
_freed_blobs = select(blob.c.id, blob.c.key, blob.c.size).where(
    blob.c.id.in_(bindparam("ids", expanding=True)),
    ~_some(repository_blob.c.blob_id, repository_blob.c.blob_id == blob.c.id),
)


class CollectionSql(ManifestSql):
    """`ports.PinRows`, `ports.CollectionRows`."""

    # -- pins

    def pin(self, repository: RepositoryName, digest: Digest, owner: str) -> None:
        repository_id = self._repository_id(repository)
        self._insert_new(pin, {"repository_id": repository_id, "digest": digest, "owner": owner})

    def unpin(self, repository: RepositoryName, digest: Digest, owner: str, now: float) -> None:
        ended = delete(pin).where(
            pin.c.repository_id == repository_named,
            pin.c.digest == digest,
            pin.c.owner == owner,
        )
        if self._db.execute(ended, {"repository": repository}).rowcount:
            self._touch(repository, digest, now)

    # -- what keeps what

    def held_manifests(
        self, horizon: Horizon, after: Place | None, limit: int
    ) -> Sequence[HeldManifest]:
        self._read_by_index()
        rows = self._db.execute(_manifest_page, _page(horizon, after or _BEGIN, limit))
        return [_as_manifest(row) for row in rows]

    def held_links(self, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldLink]:
        self._read_by_index()
        rows = self._db.execute(_link_page, _page(horizon, after or _BEGIN_BY_ID, limit))
        return [
            HeldLink(
                place=(row.repository_id, row.blob_id),
                repository=RepositoryName(row.repository),
                digest=Digest(row.digest),
                size=row.size,
                linked_at=row.linked_at,
                keeper=_digest(row.keeper),
                kept_by=_digest(row.kept_by),
            )
            for row in rows
        ]

    def held_blobs(self, horizon: Horizon, after: Place | None, limit: int) -> Sequence[HeldBlob]:
        self._read_by_index()
        rows = self._db.execute(_blob_page, _page(horizon, after or _BEGIN_BY_ID, limit))
        return [
            HeldBlob(
                place=(row.id, 0),
                digest=Digest(row.digest),
                size=row.size,
                keeper=_repository(row.keeper),
                kept_by=_repository(row.kept_by),
            )
            for row in rows
        ]

    # -- the end of it

    def drop_manifests(
        self, places: Sequence[Place], horizon: Horizon, *, with_keepers: bool = False
    ) -> int:
        self._read_by_index()
        if with_keepers:
            return sum(self._drop_with_keepers(place, horizon) for place in places)
        before = {"untagged_before": horizon.untagged_before}
        return sum(
            self._drop_manifests(repository_id, _freed_manifests, {**before, "named": named})
            for repository_id, named in _by_repository(places)
        )

    def _drop_with_keepers(self, place: Place, horizon: Horizon) -> int:
        where = {"in_repository": place[0], "named": place[1]}
        asked = {**where, "untagged_before": horizon.untagged_before}
        row = self._db.execute(_one_manifest, asked).one_or_none()
        if row is None or not _as_manifest(row).goes(horizon):
            return 0
        # Nothing above it stays, or it would be kept.
        above = self._db.execute(_all_above, where).scalars().all()
        going = _dropped_manifest.where(*_among_manifests)
        return self._drop_manifests(place[0], going, {"named": above})

    def _drop_manifests(
        self, repository_id: int, going: ReturningDelete[Any], values: dict[str, Any]
    ) -> int:
        where = {"in_repository": repository_id}
        taken = self._db.execute(going, {**where, **values}).scalars().all()
        if taken:
            self._db.execute(_dropped_edges, {**where, "named": taken})
            self._tell_of(repository_id)
        return len(taken)

    def drop_links(self, places: Sequence[Place], horizon: Horizon) -> int:
        self._read_by_index()
        taken = 0
        for repository_id, ids in _by_repository(places):
            values = {"in_repository": repository_id, "ids": ids}
            done = self._db.execute(
                _freed_links, {**values, "linked_before": horizon.linked_before}
            )
            if done.rowcount:
                self._tell_of(repository_id)
            taken += done.rowcount
        return taken

    def drop_blobs(self, places: Sequence[Place], since: float) -> Sequence[int]:
        self._read_by_index()
        rows = self._db.execute(_freed_blobs, {"ids": [place[0] for place in places]}).all()
        if not rows:
            return []
        ids = [row.id for row in rows]
        self._db.execute(delete(blob_digest).where(blob_digest.c.blob_id.in_(ids)))
        self._db.execute(delete(blob).where(blob.c.id.in_(ids)))
        gone = [{"key": row.key, "since": since, "store_state": None} for row in rows]
        self._db.execute(insert_unless_there(self._dialect, discarded), gone)
        return [row.size for row in rows]

    def _tell_of(self, repository_id: int) -> None:
        name = select(repository.c.name).where(repository.c.id == repository_id)
        self.changed.add(RepositoryName(self._db.execute(name).scalar_one()))

    def _read_by_index(self) -> None:
        """Have PostgreSQL find each row by an index, whatever it thinks of the tables.

        A write that reads a small table whole locks all of it (manual, 13.2.3), and every push
        beside it would be run again. A plan made while a table was empty is kept while it grows.
        """
        if self._db.dialect.name == "postgresql":
            self._db.execute(_no_scan)


def _page(horizon: Horizon, after: Place, limit: int) -> dict[str, object]:
    return {
        "after_id": after[0],
        "after": after[1],
        "limit": limit,
        "linked_before": horizon.linked_before,
        "untagged_before": horizon.untagged_before,
    }


def _by_repository(places: Sequence[Place]) -> Iterator[tuple[int, list[int | str]]]:
    for repository_id, group in groupby(sorted(places), key=itemgetter(0)):
        yield repository_id, [place[1] for place in group]


def _as_manifest(row: Row[*tuple[Any, ...]]) -> HeldManifest:
    return HeldManifest(
        place=(row.repository_id, row.digest),
        repository=RepositoryName(row.repository),
        digest=Digest(row.digest),
        size=row.size,
        touched_at=row.touched_at,
        subject=_digest(row.subject),
        tag=Tag(row.tag) if row.tag is not None else None,
        pinned_by=row.pinned_by,
        keeper=_digest(row.keeper),
        kept_by=_digest(row.kept_by),
    )


def _digest(found: str | None) -> Digest | None:
    return Digest(found) if found is not None else None


def _repository(found: str | None) -> RepositoryName | None:
    return RepositoryName(found) if found is not None else None

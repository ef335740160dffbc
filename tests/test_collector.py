"""Garbage collection on real stores: what a dry run says is what a run does, and no more."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociserver.collector import Collector
from ociserver.discards import Discards
from ociserver.errors import LeaseTaken, Unavailable
from ociserver.leases import Leases
from ociserver.ports import CatalogTx, StoredObject
from ociserver.refs import Digest, parse_name, parse_tag
from ociserver.retention import Retention, Verdict
from ociserver.storage.files import FileBlobs
from ociserver.storage.postgres import PostgresCatalog, migrate
from ociserver.storage.sqlite import SqliteCatalog, prepare_catalog
from tests.contracts.catalog import REPO, begun, committed, described, digest, key, put
from tests.postgres import PostgresServer

T = TypeVar("T")

DAY = 86_400.0
RETENTION = Retention(grace=DAY, delay=60.0, untagged=DAY)
REPOSITORIES = [parse_name("a/one"), parse_name("b")]
# Blobs 1 to 5; of these even ones have a second digest.
BLOBS = range(1, 6)
# Manifests are numbered from here: an edge leads to a lower number, as one of hashes would.
FIRST = 100

Gone = set[tuple[str, str | None, str]]


@dataclass(frozen=True)
class Node:
    """One manifest of a graph, by its place in it."""

    repository: int
    children: frozenset[int]
    subject: int | None
    blobs: frozenset[tuple[int, bool]]
    tagged: bool
    pinned: bool
    old: bool


@dataclass(frozen=True)
class Graph:
    nodes: tuple[Node, ...]
    # (repository, blob) -> old
    links: dict[tuple[int, int], bool]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes = []
    for number in range(draw(st.integers(0, 12))):
        below = st.sampled_from(range(max(number, 1)))
        nodes.append(
            Node(
                repository=draw(st.integers(0, 1)),
                children=draw(st.frozensets(below, max_size=3)) if number else frozenset(),
                subject=draw(st.none() | below) if number else None,
                blobs=draw(
                    st.frozensets(st.tuples(st.sampled_from(BLOBS), st.booleans()), max_size=3)
                ),
                tagged=draw(st.integers(0, 3)) == 0,
                pinned=draw(st.integers(0, 6)) == 0,
                old=draw(st.integers(0, 5)) > 0,
            )
        )
    pairs = st.tuples(st.integers(0, 1), st.sampled_from(BLOBS))
    links = draw(st.dictionaries(pairs, st.integers(0, 4).map(bool)))
    return Graph(tuple(nodes), links)


def live(graph: Graph, untagged: float | None) -> set[int]:
    """What can be reached from a tag, a pin or a young manifest: down, and up by subjects."""
    nodes = graph.nodes
    reached: set[int] = set()
    todo = [
        number
        for number, node in enumerate(nodes)
        if node.tagged or node.pinned or not node.old or untagged is None
    ]
    while todo:
        number = todo.pop()
        if number in reached:
            continue
        reached.add(number)
        here = nodes[number].repository
        kept = {
            *nodes[number].children,
            *(other for other, node in enumerate(nodes) if node.subject == number),
        }
        todo += [other for other in kept if nodes[other].repository == here]
    return reached


def expected(graph: Graph, untagged: float | None) -> Gone:
    staying = live(graph, untagged)
    gone: Gone = set()
    for number, node in enumerate(graph.nodes):
        if number not in staying:
            gone.add(("manifest", REPOSITORIES[node.repository], digest(FIRST + number)))
    named = {
        (graph.nodes[number].repository, blob)
        for number in staying
        for blob, twin in graph.nodes[number].blobs
        if not twin or blob % 2 == 0
    }
    linked: set[int] = set()
    for (repository, blob), old in graph.links.items():
        if old and (repository, blob) not in named:
            gone.add(("link", REPOSITORIES[repository], digest(blob)))
        else:
            linked.add(blob)
    return gone | {("blob", None, digest(blob)) for blob in BLOBS if blob not in linked}


def fill(tx: CatalogTx, graph: Graph) -> None:
    for blob in BLOBS:
        names = [digest(blob), *([digest(blob, "sha512")] if blob % 2 == 0 else [])]
        committed(tx, blob, *names, repository=parse_name("first"))
    for place, blob in graph.links:
        tx.mount(REPOSITORIES[place], digest(blob), parse_name("first"), 1.0)
    for blob in BLOBS:
        tx.unlink_blob(parse_name("first"), digest(blob))
    for number, node in enumerate(graph.nodes):
        repository, name = REPOSITORIES[node.repository], digest(FIRST + number)
        fields: dict[str, Any] = {
            "manifests": [described(digest(FIRST + child)) for child in node.children],
            "blobs": [
                described(digest(blob, "sha512" if twin else "sha256")) for blob, twin in node.blobs
            ],
        }
        if node.subject is not None:
            fields["subject"] = described(digest(FIRST + node.subject))
        put(tx, FIRST + number, repository, **fields)
        if node.tagged:
            tx.move_tag(repository, parse_tag(f"v{number}"), name)
        if node.pinned:
            tx.pin(repository, name, "models")


def age(path: Path, graph: Graph) -> None:
    """Make old what the graph says is old: the catalog's own clock does not go backwards."""
    now = time.time()
    with closing(sqlite3.connect(path)) as db, db:
        for number, node in enumerate(graph.nodes):
            touched = now - (2 * DAY if node.old else 0)
            db.execute(
                "UPDATE manifest SET touched_at = ? WHERE digest = ?",
                (touched, digest(FIRST + number)),
            )
        for (repository, blob), old in graph.links.items():
            db.execute(
                "UPDATE repository_blob SET linked_at = ? WHERE blob_id ="
                " (SELECT blob_id FROM blob_digest WHERE digest = ?) AND repository_id ="
                " (SELECT id FROM repository WHERE name = ?)",
                (now - (2 * DAY if old else 0), digest(blob), REPOSITORIES[repository]),
            )


def everything(verdicts: Sequence[Verdict]) -> Gone:
    return {(each.kind, each.repository, each.digest) for each in verdicts}


class Stores:
    """A catalog and a blob folder, and the collector on them."""

    def __init__(self, folder: Path, retention: Retention, url: str | None = None) -> None:
        self.catalog = PostgresCatalog(url) if url else SqliteCatalog(folder / "catalog.db")
        self.blobs = FailingBlobs(folder / "blobs")
        self.discards = Discards(self.catalog, self.blobs)
        self.collector = Collector(self.catalog, self.discards, retention)

    async def verdicts(self) -> list[Verdict]:
        return [each async for each in self.collector.verdicts()]


class FailingBlobs(FileBlobs):
    """The store of files, with objects that it does not delete."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.stuck: set[str] = set()

    async def delete(self, objects: Sequence[StoredObject]) -> None:
        if self.stuck & {each.key for each in objects}:
            raise Unavailable("the store did not delete it")
        await super().delete(objects)


def on_stores(
    folder: Path,
    story: Callable[[Stores], Awaitable[T]],
    retention: Retention = RETENTION,
    url: str | None = None,
) -> T:
    async def main() -> T:
        stores = Stores(folder, retention, url)
        try:
            return await story(stores)
        finally:
            await stores.catalog.aclose()
            await stores.blobs.aclose()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty catalog, to be copied: to make one takes longer than a collection."""
    folder = tmp_path_factory.mktemp("empty")
    prepare_catalog(folder / "catalog.db")
    return folder


@settings(deadline=None, max_examples=100)
@given(graph=graphs(), untagged=st.sampled_from([None, DAY]))
def test_a_run_takes_what_the_dry_run_said_and_nothing_that_is_reachable(
    empty: Path, graph: Graph, untagged: float | None
) -> None:
    folder = empty.with_name(f"graph-{os.urandom(8).hex()}")
    shutil.copytree(empty, folder)
    retention = Retention(grace=DAY, delay=60.0, untagged=untagged)

    async def story(stores: Stores) -> None:
        await stores.catalog.write(lambda tx: fill(tx, graph))
        age(folder / "catalog.db", graph)
        said = await stores.verdicts()
        going = everything([each for each in said if not each.stays])
        assert going == expected(graph, untagged)
        assert everything(await stores.verdicts()) == everything(said)

        done = await stores.collector.run()
        left = await stores.verdicts()
        assert everything(left) == everything(said) - going
        assert all(each.stays for each in left)
        counted = (done.manifests, done.links, done.blobs)
        kinds = [each[0] for each in going]
        assert counted == tuple(map(kinds.count, ("manifest", "link", "blob")))
        assert done.bytes == sum(e.size for e in said if e.kind == "blob" and not e.stays)

        again = await stores.collector.run()
        assert (again.manifests, again.links, again.blobs) == (0, 0, 0)

    on_stores(folder, story, retention)
    shutil.rmtree(folder)


# -- why


def test_each_verdict_says_why(tmp_path: Path) -> None:
    def change(tx: CatalogTx) -> None:
        for number in (1, 2, 3):
            committed(tx, number)
        put(tx, 10, blobs=[described(digest(1))])
        put(tx, 11, manifests=[described(digest(10))])
        put(tx, 12, subject=described(digest(11)))
        put(tx, 13)
        put(tx, 20, blobs=[described(digest(2))])
        put(tx, 21, manifests=[described(digest(20))])
        put(tx, 22, subject=described(digest(20)))
        put(tx, 30)
        tx.move_tag(REPO, parse_tag("v1"), digest(11))
        tx.pin(REPO, digest(13), "models")

    async def story(stores: Stores) -> dict[tuple[str, str], str]:
        await stores.catalog.write(change)
        now = time.time()
        with closing(sqlite3.connect(tmp_path / "catalog.db")) as db, db:
            db.execute("UPDATE manifest SET touched_at = ?", (now - 3 * DAY,))
            young = (now - DAY / 2 + 1, digest(30))
            db.execute("UPDATE manifest SET touched_at = ? WHERE digest = ?", young)
        found = await stores.verdicts()
        return {(each.kind, each.digest): each.why for each in found}

    said = on_stores(tmp_path, story)
    assert said == {
        ("manifest", digest(10)): f"named by {digest(11)}",
        ("manifest", digest(11)): "tagged v1",
        ("manifest", digest(12)): f"refers to {digest(11)}, which stays",
        ("manifest", digest(13)): "pinned by models",
        ("manifest", digest(20)): f"goes with its parent {digest(21)}",
        ("manifest", digest(21)): "untagged for 3 d",
        ("manifest", digest(22)): f"goes with its subject {digest(20)}",
        ("manifest", digest(30)): "untagged for 11 h, goes in 12 h",
        ("link", digest(1)): f"named by {digest(10)}",
        ("link", digest(2)): f"goes with its manifest {digest(20)}",
        ("link", digest(3)): "no manifest names it",
        ("blob", digest(1)): f"linked by {REPO}",
        ("blob", digest(2)): f"goes with its link in {REPO}",
        ("blob", digest(3)): f"goes with its link in {REPO}",
    }


# -- objects


def discarded_long_ago(tx: CatalogTx, *numbers: int) -> None:
    for number in numbers:
        tx.discard_upload(begun(tx, number), now=1.0)


def object_of(folder: Path, number: int) -> Path:
    return folder / "blobs" / key(number)[:2] / key(number)


def test_an_object_that_will_not_go_holds_up_no_other_and_stays_on_the_list(
    tmp_path: Path,
) -> None:
    numbers = range(1, 1200)

    async def story(stores: Stores) -> None:
        await stores.catalog.write(lambda tx: discarded_long_ago(tx, *numbers))
        for number in numbers:
            path = object_of(tmp_path, number)
            path.parent.mkdir(exist_ok=True)
            path.touch()
        stores.blobs.stuck = {key(3), key(700)}
        done = await stores.collector.run()
        assert (done.swept.deleted, sorted(done.swept.failed)) == (1197, [key(3), key(700)])
        left = await stores.catalog.read(lambda tx: tx.discarded(1e12, 10))
        assert [each.key for each in left] == [key(3), key(700)]
        assert [n for n in numbers if object_of(tmp_path, n).exists()] == [3, 700]
        stores.blobs.stuck = set()
        assert (await stores.discards.sweep()).deleted == 2
        assert (await stores.discards.sweep()).deleted == 0
        assert not await stores.catalog.read(lambda tx: tx.discarded(1e12, 10))

    on_stores(tmp_path, story)


def test_a_collected_blob_s_bytes_are_kept_for_the_delay(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        await stores.catalog.write(lambda tx: committed(tx, 1))
        object_of(tmp_path, 1).parent.mkdir()
        object_of(tmp_path, 1).write_bytes(b"x")
        for _ in range(2):
            done = await stores.collector.run()
            assert done.swept.deleted == 0
        assert object_of(tmp_path, 1).exists()
        due = time.time() + 900.0 - 60.0
        assert not await stores.catalog.read(lambda tx: tx.discarded(due - 5, 10))
        assert await stores.catalog.read(lambda tx: tx.discarded(due + 5, 10))

    on_stores(tmp_path, story, Retention(grace=1.0, delay=900.0, untagged=None))


# -- one at a time


def test_a_collection_beside_another_is_refused(tmp_path: Path) -> None:
    async def story(stores: Stores) -> None:
        async with Leases(stores.catalog).hold("gc"):
            with pytest.raises(LeaseTaken):
                await stores.collector.run()
            assert await stores.collector.run_in_turn(0.001) is None
        assert await stores.collector.run() is not None

    on_stores(tmp_path, story)


def test_of_many_workers_one_runs_in_each_interval(tmp_path: Path) -> None:
    async def story(stores: Stores) -> list[int]:
        rounds = []
        for _ in range(3):
            ran = [await stores.collector.run_in_turn(2.0) for _ in range(5)]
            rounds.append(sum(each is not None for each in ran))
            await asyncio.sleep(2.0)
        return rounds

    assert on_stores(tmp_path, story) == [1, 1, 1]


# -- beside pushes


_MANY = 5_000
# Blobs as if pushed long ago, in SQL of both databases: pushing them takes longer than the test.
_PADDED = "substr('{zeros}' || CAST(n.i AS TEXT), length(CAST(n.i AS TEXT)) + 1)"
_NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {_MANY})"
_FILL = (
    "INSERT INTO repository (name) VALUES ('a/b')",
    (
        f"INSERT INTO blob (key, size, created_at) {_NUMBERS}"
        f" SELECT {_PADDED.format(zeros='0' * 32)}, 5, 1.0 FROM n"
    ),
    "INSERT INTO blob_digest (digest, blob_id) SELECT 'sha256:' || key || key, id FROM blob",
    (
        "INSERT INTO repository_blob (repository_id, blob_id, linked_at)"
        " SELECT repository.id, blob.id, 1.0 FROM blob CROSS JOIN repository"
    ),
)


def old_blob(number: int) -> Digest:
    return Digest.parse(f"sha256:{number:032}{number:032}")


def push(tx: CatalogTx, number: int) -> None:
    """An image whose layer is about to be collected, or has been."""
    committed(tx, _MANY + number, old_blob(number))
    put(tx, number, blobs=[described(old_blob(number))])


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_pushes_go_on_while_much_is_collected(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    url = None
    if database == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.new_database()
        asyncio.run(migrate(url))
        for statement in _FILL:
            server.run(statement, url.rpartition("/")[2])
    else:
        prepare_catalog(tmp_path / "catalog.db")
        with closing(sqlite3.connect(tmp_path / "catalog.db")) as db, db:
            for statement in _FILL:
                db.execute(statement)

    async def story(stores: Stores) -> None:
        for number in range(1, 501):
            await stores.catalog.write(partial(push, number=number))
        if url is not None:  # as it does by itself within a minute
            await asyncio.to_thread(server.run, "ANALYZE", url.rpartition("/")[2])
        begun = time.monotonic()
        collecting = asyncio.create_task(stores.collector.run())
        waits: list[float] = []
        while not collecting.done():
            began = time.monotonic()
            await stores.catalog.write(partial(push, number=_MANY - len(waits)))
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.001)
        done = await collecting
        took = time.monotonic() - begun
        # All but those that a push came for in time.
        assert _MANY - 500 - len(waits) <= done.blobs <= done.links <= _MANY - 500
        assert len(waits) > 100
        # None waited for the collection, of which a push takes some thousandth.
        assert max(waits) < took / 3
        for number in range(_MANY - len(waits) + 1, _MANY + 1):
            held = await stores.catalog.read(lambda tx, n=number: tx.blob(REPO, old_blob(n)))  # type: ignore[misc]
            assert held is not None

    on_stores(tmp_path, story, url=url)

# Tracing lineage: every node once, the nearest first, whatever the graph.
from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.ancestry import Bounds, Direction, Question, Trace, answer, trace
from mlext.ports import ModelsCatalog, ModelsTx
from mlext.records import Alias, Edge, Model, ModelVersion
from mlext.storage.catalog import ROWS
from ociserver.admission import Author
from ociserver.refs import Digest, parse_name, parse_tag
from ociserver.settings import Settings
from ociserver.stores import open_stores, prepare_stores

WIDE = Bounds(depth=50, nodes=1_000, edges=5_000)
_graphs = st.lists(
    st.builds(Edge, *(st.sampled_from(names) for names in ("abcdefg", ["made"], "abcdefg"))),
    max_size=30,
    unique=True,
)
_ways = st.sampled_from([Direction.UPSTREAM, Direction.DOWNSTREAM])


class Graph:
    """Edges in memory; `asked` counts how often it was asked for some."""

    def __init__(self, edges: Sequence[Edge], way: Direction) -> None:
        self.edges = sorted(edges)
        self.way = way
        self.asked = 0

    def near(self, edge: Edge) -> str:
        return edge.source if self.way is Direction.UPSTREAM else edge.target

    def far(self, edge: Edge) -> str:
        return edge.target if self.way is Direction.UPSTREAM else edge.source

    def __call__(self, nodes: Collection[str], limit: int) -> Sequence[Edge]:
        self.asked += 1
        return [each for each in self.edges if self.near(each) in nodes][:limit]

    def distances(self, start: str) -> dict[str, int]:
        """How many edges each node is away, found by relaxing every edge again and again."""
        found = {start: 0}
        for _ in self.edges:
            for edge in self.edges:
                if self.near(edge) in found:
                    way = found[self.near(edge)] + 1
                    found[self.far(edge)] = min(way, found.get(self.far(edge), way))
        return found


@given(_graphs, _ways, st.integers(1, 8))
def test_it_finds_what_is_near_enough_and_nothing_else(
    edges: list[Edge], way: Direction, depth: int
) -> None:
    graph = Graph(edges, way)
    found = trace("a", way, Bounds(depth=depth, nodes=1_000, edges=5_000), graph)
    distances = graph.distances("a")
    assert set(found.nodes) == {node for node, far in distances.items() if far <= depth}
    assert len(found.nodes) == len(set(found.nodes))
    assert [distances[node] for node in found.nodes] == sorted(
        distances[node] for node in found.nodes
    )
    assert set(found.edges) == {
        each for each in edges if distances.get(graph.near(each), depth) < depth
    }
    assert not found.truncated
    assert graph.asked <= depth


@given(_graphs, _ways, st.integers(1, 6), st.integers(1, 6))
def test_it_says_so_where_it_was_cut_off(
    edges: list[Edge], way: Direction, nodes: int, most: int
) -> None:
    whole = trace("a", way, WIDE, Graph(edges, way))
    found = trace("a", way, Bounds(depth=50, nodes=nodes, edges=most), Graph(edges, way))
    assert len(found.nodes) <= nodes
    assert len(found.edges) <= most
    assert set(found.nodes) <= set(whole.nodes)
    assert set(found.edges) <= set(whole.edges)
    for edge in found.edges:
        assert {edge.source, edge.target} <= set(found.nodes)
    assert found.truncated == (len(found.edges) < len(whole.edges))


@given(_graphs, _ways, st.sets(st.sampled_from("abcdefg")))
def test_what_leads_nowhere_that_is_asked_for_is_left_out(
    edges: list[Edge], way: Direction, ends: set[str]
) -> None:
    graph = Graph(edges, way)
    whole = trace("a", way, WIDE, graph)
    found = whole.leading_to(ends)
    for edge in whole.edges:
        leads = bool(ends & graph.distances(graph.far(edge)).keys())
        assert (edge in found.edges) == leads
    for node in whole.nodes:
        assert (node in found.nodes) == bool(ends & graph.distances(node).keys())


@pytest.mark.parametrize("way", [Direction.UPSTREAM, Direction.DOWNSTREAM])
def test_a_start_without_edges_is_all_there_is(way: Direction) -> None:
    found = trace("a", way, WIDE, Graph([], way))
    assert found == Trace(way=way, nodes=["a"], edges=[], truncated=False)


def test_an_alias_is_searched_for_among_more_than_is_shown(tmp_path: Path) -> None:
    dataset, model = "dataset:shared@1", parse_name("team/one")
    digest = Digest("sha256:" + "a" * 64)
    me = Author(name="me", may=lambda *_: True, may_somewhere=lambda _: True)

    def furnish(tx: ModelsTx) -> None:
        for number in range(7_000):
            tx.put_edges(f"run:{number:04}", [("dataset", dataset)], "", "me", 0.0)
        tx.put_model(
            Model(name=model, last_number=0, created_at=0.0, updated_at=0.0, updated_by="")
        )
        version = ModelVersion(
            model=model,
            number=1,
            digest=digest,
            id="mv",
            framework="",
            run_id="6999",
            created_at=0.0,
            created_by="",
            body=b"",
        )
        tx.add_version(version, [])
        tx.put_edges(digest, [("run", "run:6999")], model, "me", 0.0)
        alias = Alias(
            model=model,
            number=1,
            digest=digest,
            name=parse_tag("prod"),
            moves=1,
            updated_at=0.0,
            updated_by="",
            reason="",
        )
        tx.put_alias(alias, None)

    def ask(tx: ModelsTx, alias: str | None) -> dict[str, Any]:
        asked = Question(
            node=dataset,
            direction=Direction.DOWNSTREAM,
            depth=10,
            alias=parse_tag(alias) if alias else None,
        )
        return answer(tx, me, asked)

    async def story() -> tuple[dict[str, Any], ...]:
        stores = open_stores(settings, ROWS)
        models = cast("ModelsCatalog", stores.catalog)
        try:
            await models.write(furnish)
            return tuple([await models.read(partial(ask, alias=each)) for each in (None, "prod")])
        finally:
            await stores.aclose()

    settings = Settings(
        catalog=f"sqlite:///{tmp_path}/catalog.db", blobs=f"file:///{tmp_path}/blobs"
    )
    prepare_stores(settings)
    whole, found = asyncio.run(story())
    assert (len(whole["nodes"]) + len(whole["dangling"]), whole["truncated"]) == (1_000, True)
    assert found["truncated"] is False
    assert [(each["source"], each["target"]) for each in found["edges"]] == [
        ("run:6999", dataset),
        (digest, "run:6999"),
    ]
    assert [each.get("aliases") for each in found["nodes"]] == [None, ["prod"]]

# Tracing lineage: every node once, the nearest first, whatever the graph.
from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.ancestry import Bounds, Direction, Trace, trace
from mlext.records import Edge

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

"""Queries of lineage: what a node came from, and what came from it, as far as who asks may know.

What they may not know of looks as if it were not there: an edge is shown to those who may pull
from the model it was said in, or may know the run that said it; a digest by what of it they see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mlext.acts import Act
from mlext.errors import DocumentInvalid
from mlext.lineage import Node
from mlext.ports import ModelsTx
from mlext.records import Edge, ModelVersion, PlacedVersion
from ociserver.admission import Author
from ociserver.auth.rules import Action
from ociserver.refs import RepositoryName, Tag

_RUN = "run:"
# Nodes that name something outside: that there is an edge to them is all there is to know.
_OUTSIDE = {"commit:": "commit", "dataset:": "dataset"}
# What a digest is, that is no version, by the edge that leads to it.
_BY_KIND = {"image": "image", "dataset": "dataset"}
# For an alias, more is searched than is shown without one: few versions have it. What is searched
# takes 30 us a node on SQLite, so this is most of a second.
_NODES = 1_000
_SEARCHED = 20_000
_EDGES_PER_NODE = 5
# Nodes that one statement asks for.
_BATCH = 5_000
# Versions that these are, once for each of their aliases: one base may be in every model.
_PLACED = 20_000


class Direction(StrEnum):
    """Which way a query goes."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    BOTH = "both"

    @property
    def ways(self) -> Sequence[Direction]:
        """The one or two ways that it is."""
        return (Direction.UPSTREAM, Direction.DOWNSTREAM) if self is Direction.BOTH else (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: from where, which way, over how many edges; only versions under `alias`."""

    node: Node
    direction: Direction
    depth: int
    alias: Tag | None = None

    def at(self, node: Node) -> Question:
        """Return the same question of another node."""
        return replace(self, node=node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a trace goes, and how much it may find: what lies beyond the latter is cut off."""

    depth: int
    nodes: int
    edges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was found on one way: `nodes` the nearest first, from the start on."""

    way: Direction
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    truncated: bool

    def leading_to(self, ends: Collection[Node]) -> Trace:
        """Return the part of it that lies between its start and these of its nodes."""
        back: dict[Node, list[Edge]] = {}
        for edge in self.edges:
            back.setdefault(_ends(edge, self.way)[1], []).append(edge)
        reached = dict.fromkeys(each for each in self.nodes if each in ends)
        todo = list(reached)
        while todo:
            for edge in back.get(todo.pop(), ()):
                near = _ends(edge, self.way)[0]
                if near not in reached:
                    reached[near] = None
                    todo.append(near)
        return Trace(
            way=self.way,
            nodes=[each for each in self.nodes if each in reached],
            edges=[each for each in self.edges if _ends(each, self.way)[1] in reached],
            truncated=self.truncated,
        )


def _ends(edge: Edge, way: Direction) -> tuple[Node, Node]:
    """Return the end that one comes by, and the other."""
    there = (edge.source, edge.target)
    return there if way is Direction.UPSTREAM else (edge.target, edge.source)


def trace(
    start: Node,
    way: Direction,
    bounds: Bounds,
    edges_at: Callable[[Collection[Node], int], Sequence[Edge]],
) -> Trace:
    """Go from the start, breadth first, and over no node twice: a cycle is gone round once.

    `edges_at` returns so many edges at most that leave these nodes that way: it is asked once for
    all nodes that are equally far.
    """
    seen, found, truncated = {start: None}, dict[Edge, None](), False
    level: list[Node] = [start]
    for _ in range(bounds.depth):
        room = bounds.edges - len(found)
        leaving = edges_at(level, room + 1) if level else []
        truncated = truncated or len(leaving) > room
        level = []
        for edge in leaving[:room]:
            far = _ends(edge, way)[1]
            if far not in seen:
                if len(seen) >= bounds.nodes:
                    truncated = True
                    continue
                seen[far] = None
                level.append(far)
            found[edge] = None
    return Trace(way=way, nodes=list(seen), edges=list(found), truncated=truncated)


def answer(tx: ModelsTx, by: Author, asked: Question) -> dict[str, object]:
    """Return what they may know of it, as the wire shows it."""
    most = _SEARCHED if asked.alias else _NODES
    bounds = Bounds(depth=asked.depth, nodes=most, edges=most * _EDGES_PER_NODE)
    traces = [trace(asked.node, way, bounds, _Visible(tx, by, way)) for way in asked.direction.ways]
    known = _Known(tx, by, {node for each in traces for node in each.nodes})
    if asked.alias is not None:
        ends = known.under(asked.alias)
        traces = [each.leading_to(ends) for each in traces]
    nodes = dict.fromkeys([asked.node, *(node for each in traces for node in each.nodes)])
    edges = dict.fromkeys(edge for each in traces for edge in each.edges)
    kinds = {edge.target: edge.kind for edge in edges}
    shown = [each for node in nodes for each in known.shown(node, kinds.get(node), asked.alias)]
    return {
        "node": asked.node,
        "direction": asked.direction,
        "depth": asked.depth,
        "nodes": shown,
        "edges": [
            {"source": each.source, "type": each.kind, "target": each.target} for each in edges
        ],
        "dangling": [node for node in nodes if not known.is_known(node)],
        "truncated": known.truncated or any(each.truncated for each in traces),
    }


def add(act: Act, version: ModelVersion, kind: str, target: Node) -> bool:
    """Record that the version came from the node; False where that is on record.

    The version itself stays as it is. Raises DocumentInvalid.
    """
    if target == version.digest:
        raise DocumentInvalid("a version does not come from itself")
    edge = Edge(version.digest, kind, target)
    added = act.tx.add_edge(edge, version.model, act.by.name, act.at)
    if added:
        said = {"version": version.number, "digest": version.digest}
        act.note("edge", version.model, {**said, "type": kind, "target": target})
    return added


def _batches(nodes: Collection[Node]) -> Iterator[Sequence[Node]]:
    every = list(nodes)
    return (every[start : start + _BATCH] for start in range(0, len(every), _BATCH))


def _may_pull(by: Author, names: Iterable[RepositoryName]) -> list[RepositoryName]:
    return [each for each in names if by.may(Action.PULL, each, None)]


@dataclass(frozen=True, slots=True)
class _Visible:
    """Edges that they may know of, one way."""

    tx: ModelsTx
    by: Author
    way: Direction

    def __call__(self, nodes: Collection[Node], limit: int) -> Sequence[Edge]:
        # Rights first, then the limit: what is hidden must not crowd out what is not.
        upstream = self.way is Direction.UPSTREAM
        found: list[Edge] = []
        for batch in _batches(nodes):
            names = _may_pull(self.by, self.tx.edge_models(batch, upstream=upstream))
            room = limit - len(found)
            found += self.tx.edges(batch, names, self.by.name, room, upstream=upstream)
        return found


class _Known:
    """What they may know of some nodes: `truncated` tells that it is not all."""

    def __init__(self, tx: ModelsTx, by: Author, nodes: Collection[Node]) -> None:
        self._runs: set[str] = set()
        self._held: set[Node] = set()
        self._versions: dict[Node, list[PlacedVersion]] = {}
        self.truncated = False
        for batch in _batches(nodes):
            self._learn(tx, by, batch)

    def _learn(self, tx: ModelsTx, by: Author, nodes: Collection[Node]) -> None:
        runs = [each.removeprefix(_RUN) for each in nodes if each.startswith(_RUN)]
        digests = [each for each in nodes if not each.startswith((_RUN, *_OUTSIDE))]
        names = _may_pull(by, tx.node_models(digests, runs))
        self._runs |= tx.known_runs(runs, names, by.name)
        self._held |= tx.held_digests(digests, names)
        placed, more = tx.placed_versions(digests, names, _PLACED)
        self.truncated = self.truncated or more
        for each in placed:
            self._versions.setdefault(each.digest, []).append(each)

    def under(self, alias: Tag) -> set[Node]:
        """Return the digests that the alias of some model points at."""
        return {
            digest
            for digest, versions in self._versions.items()
            if any(alias in each.aliases for each in versions)
        }

    def is_known(self, node: Node) -> bool:
        """Tell whether the registry holds anything by that name, or it is of the world outside."""
        if node.startswith(_RUN):
            return node.removeprefix(_RUN) in self._runs
        return node.startswith(tuple(_OUTSIDE)) or node in self._versions or node in self._held

    def shown(self, node: Node, kind: str | None, alias: Tag | None) -> Iterator[dict[str, object]]:
        """Yield it as the wire shows it: once for each model that it is a version of."""
        if node in self._versions:
            for each in self._versions[node]:
                if alias is None or alias in each.aliases:
                    yield {"node": node, "type": "version", **each.shown()}
        elif self.is_known(node):
            prefix = node.partition(":")[0] + ":"
            found = "run" if prefix == _RUN else _OUTSIDE.get(prefix)
            yield {"node": node, "type": found or _BY_KIND.get(kind or "", "artifact")}

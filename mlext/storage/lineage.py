"""Runs and edges in SQL. `ports.LineageRows`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from sqlalchemy import Column, delete, select

from mlext.records import Edge, Run
from mlext.storage.schema import edge, model_version, run
from ociserver.refs import RepositoryName
from ociserver.storage.schema import repository
from ociserver.storage.transaction import SqlTransaction

_MANY = 1_000


class LineageSql(SqlTransaction):
    """`ports.LineageRows`."""

    def run(self, run_id: str) -> Run | None:
        row = self._db.execute(select(run).where(run.c.id == run_id)).one_or_none()
        if row is None:
            return None
        return Run(
            id=row.id,
            created_by=row.created_by,
            created_at=row.created_at,
            finished_at=row.finished_at,
            body=json.loads(row.body),
        )

    def put_run(self, value: Run) -> None:
        row = {
            "id": value.id,
            "created_by": value.created_by,
            "created_at": value.created_at,
            "finished_at": value.finished_at,
            "body": json.dumps(dict(value.body)).encode(),
        }
        self._put(run, [row])

    def models_of_run(self, run_id: str) -> Sequence[RepositoryName]:
        found = (
            select(repository.c.name)
            .join(model_version, model_version.c.repository_id == repository.c.id)
            .where(model_version.c.run == run_id)
            .distinct()
            .limit(_MANY)
        )
        return [RepositoryName(name) for name in self._db.execute(found).scalars()]

    def put_edges(self, source: str, edges: Sequence[tuple[str, str]], by: str, now: float) -> None:
        self._put(
            edge,
            [
                {"source": source, "kind": kind, "target": target, "at": now, "by": by}
                for kind, target in dict.fromkeys(edges)
            ],
        )

    def replace_edges(
        self, source: str, edges: Sequence[tuple[str, str]], by: str, now: float
    ) -> None:
        self._db.execute(delete(edge).where(edge.c.source == source))
        self.put_edges(source, edges, by, now)

    def edges_from(self, nodes: Collection[str], limit: int) -> Sequence[Edge]:
        return self._edges(edge.c.source, nodes, limit)

    def edges_to(self, nodes: Collection[str], limit: int) -> Sequence[Edge]:
        return self._edges(edge.c.target, nodes, limit)

    def _edges(self, end: Column[str], nodes: Collection[str], limit: int) -> Sequence[Edge]:
        found = (
            select(edge.c.source, edge.c.kind, edge.c.target)
            .where(end.in_(list(nodes)))
            .order_by(edge.c.source, edge.c.kind, edge.c.target)
            .limit(limit)
        )
        return [Edge(*row) for row in self._db.execute(found)]

"""A catalog filled with a population, past the program: by its tables' own definitions, in bulk.

Registering them one by one in the process takes 1.9 ms each on SQLite and more on PostgreSQL, eight
minutes and more for what is here in one. The rows are those that registration and promotion write,
the audit's chain included; `tests/mlext/test_bench_filling.py` holds them against each other.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import asyncpg

from bench import material
from bench.population import ALIASES, Population, Version
from mlext.records import rfc3339
from mlext.storage import schema as models
from ociserver.auth.chain import START, Mark, chained
from ociserver.auth.records import AuditEvent
from ociserver.content import parse_manifest
from ociserver.refs import Digest
from ociserver.storage import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Table

BY = "anyone"
FRAMEWORK = "pytorch"
REASON = "the best so far"
_CACHE_KIB = 512 * 1024


class Rows(NamedTuple):
    """Rows of one table, in the order in which tables depend on each other."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def of_lading(population: Population) -> Iterator[Rows]:
    """Yield what a catalog of this release has in it once they are registered and promoted."""
    key = UUID(int=0).hex
    digest = material.digest(material.CONFIG)
    yield _rows(schema.blob, [(1, key, len(material.CONFIG), 0.0, None, None)])
    yield _rows(schema.blob_digest, [(digest, 1)])
    writer = _Writer()
    for batch in population.batches():
        for of in batch:
            writer.add(of + 1, list(population.versions(of)))
        yield from writer.flush()


class _Writer:
    """Gathers the rows of some models."""

    def __init__(self) -> None:
        self._last: Mark = START
        self._rows: dict[Table, list[tuple[Any, ...]]] = {}
        self._events: list[AuditEvent] = []

    def _put(self, table: Table, *values: Any) -> None:
        self._rows.setdefault(table, []).append(values)

    def add(self, model_id: int, versions: list[Version]) -> None:
        first, last = versions[0], versions[-1]
        self._put(schema.repository, model_id, first.model)
        self._put(schema.repository_blob, model_id, 1, first.at)
        self._put(models.model, model_id, last.number, "", "", "", first.at, first.at, BY)
        for version in versions:
            self._add_version(model_id, version)
        for name, behind in ALIASES.items():
            self._point(model_id, name, versions[max(0, len(versions) - 1 - behind)])

    def _add_version(self, model_id: int, version: Version) -> None:
        self._put_manifest(model_id, version)
        version_id = f"mv_{model_id:016x}{version.number:016x}"
        body = _body(version, version_id)
        at, digest, number = version.at, version.digest, version.number
        self._put(
            models.model_version, model_id, number, version_id, digest, FRAMEWORK, "", at, BY, body
        )
        for key, value in version.metrics.items():
            row = (model_id, number, "metric", key, value, json.dumps(value))
            self._put(models.version_value, *row)
        for key, text in version.tags.items():
            self._put(models.version_value, model_id, number, "tag", key, None, text)
        self._put(schema.tag, model_id, f"v{number}", digest, at)
        said = {"version": number, "version_id": version_id, "digest": digest, "run_id": ""}
        self._note("register", version, said)

    def _put_manifest(self, model_id: int, version: Version) -> None:
        view = parse_manifest(version.manifest, material.MANIFEST)
        digest = Digest.parse(version.digest)
        descriptor = view.descriptor(digest, len(version.manifest))
        self._put(
            schema.manifest, model_id, digest, view.media_type, view.artifact_type, None,
            version.at, version.at, descriptor, version.manifest,
        )  # fmt: skip
        for child in view.blobs:
            self._put(schema.manifest_child, model_id, digest, child)

    def _point(self, model_id: int, name: str, version: Version) -> None:
        at, digest, number = version.at, version.digest, version.number
        self._put(models.alias, model_id, name, number, digest, 1, at, BY, REASON)
        self._put(models.alias_move, model_id, name, 1, at, BY, REASON, None, number, digest)
        self._put(schema.tag, model_id, name, digest, at)
        to = {"version": number, "digest": digest}
        verdict: dict[str, object] = {"passed": True, "conditions": []}
        said = {"alias": name, "from": None, "to": to, "reason": REASON, "verdict": verdict}
        self._note("promote", version, said)

    def _note(self, action: str, version: Version, detail: dict[str, Any]) -> None:
        event = AuditEvent(
            at=version.at,
            actor=BY,
            action=action,
            subject=version.model,
            outcome="done",
            detail={**detail, "request_id": "bench"},
        )
        self._events.append(event)

    def flush(self) -> Iterator[Rows]:
        """Yield what was gathered, and forget it."""
        for link in chained(self._last, self._events):
            event = link.event
            self._put(
                schema.audit_event, event.number, event.at, event.actor, event.action,
                event.subject, event.outcome, json.dumps(event.detail), link.hash,
            )  # fmt: skip
            self._last = Mark(event.number, link.hash)
        for table, rows in self._rows.items():
            yield _rows(table, rows)
        self._rows, self._events = {}, []


def _body(version: Version, version_id: str) -> bytes:
    shown = {
        "model": version.model,
        "version": version.number,
        "version_id": version_id,
        "artifact_digest": version.digest,
        "media_type": material.MANIFEST,
        "artifact_type": material.ARTIFACT,
        "framework": FRAMEWORK,
        "description": "",
        "metrics": version.metrics,
        "params": {},
        "tags": version.tags,
        "run_id": "",
        "lineage": [],
        "status": "registered",
        "created_by": BY,
        "created_at": rfc3339(version.at),
    }
    return json.dumps(shown, ensure_ascii=False).encode()


def _rows(table: Table, rows: list[tuple[Any, ...]]) -> Rows:
    return Rows(table.name, tuple(column.name for column in table.columns), rows)


def into_sqlite(path: Path, parts: Iterable[Rows]) -> None:
    """Write the rows into a database whose tables are there."""
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        with db:
            for part in parts:
                columns = ", ".join(f'"{each}"' for each in part.columns)
                marks = ", ".join("?" * len(part.columns))
                db.executemany(
                    f'INSERT INTO "{part.table}" ({columns}) VALUES ({marks})', part.rows
                )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()


def into_postgres(url: str, parts: Iterable[Rows]) -> None:
    """Write the rows into a database whose tables are there, and do what autovacuum would soon."""

    async def fill() -> None:
        db = await asyncpg.connect(url)
        try:
            async with db.transaction():
                for part in parts:
                    await db.copy_records_to_table(
                        part.table, columns=part.columns, records=part.rows
                    )
                for table in ("repository", "blob"):
                    await db.execute(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) "
                        f"FROM {table}"
                    )
            await db.execute("VACUUM ANALYZE")
        finally:
            await db.close()

    asyncio.run(fill())

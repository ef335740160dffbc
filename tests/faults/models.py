"""Models under races and crashes: a registry with its workers or replicas, and its rows, which
must agree with each other whatever happened to those who wrote them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ociserver import trail
from ociserver.auth.chain import first_break
from ociserver.storage.postgres import migrate
from tests.faults.audit import crash
from tests.faults.wire import Connection, finishing, manifest_of
from tests.postgres import PostgresServer
from tests.serving import Served, digest_of

Row = tuple[Any, ...]

_ALIASES = """
    SELECT repository.name, alias.name, alias.number, alias.digest, moves, alias.updated_at,
        updated_by, reason, tag.digest
    FROM alias JOIN repository ON repository.id = alias.repository_id
    LEFT JOIN tag ON tag.repository_id = alias.repository_id AND tag.name = alias.name
"""
_MOVES = """
    SELECT repository.name, alias_move.name, move, at, "by", reason, from_number, number, digest
    FROM alias_move JOIN repository ON repository.id = alias_move.repository_id
    ORDER BY repository.name, alias_move.name, move
"""
_VERSIONS = """
    SELECT repository.name, number, model_version.digest, model_version.id, tag.digest, last_number
    FROM model_version JOIN repository ON repository.id = model_version.repository_id
    JOIN model ON model.repository_id = model_version.repository_id
    LEFT JOIN tag ON tag.repository_id = model_version.repository_id AND tag.name = 'v' || number
    ORDER BY repository.name, number
"""
_EVENTS = """
    SELECT number, at, actor, action, subject, detail FROM audit_event
    WHERE action IN ('promote', 'register') ORDER BY number
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A registry, once or twice over one catalog, and a way to read the catalog's rows."""

    catalog: str
    replicas: Sequence[Served]
    database: PostgresServer | None = None

    def rows(self, statement: str) -> list[Row]:
        """Return what the catalog has."""
        if self.database is not None:
            return self.database.rows(statement, self.catalog.rpartition("/")[2])
        with closing(sqlite3.connect(self.catalog.partition(":///")[2], timeout=20)) as db:
            return db.execute(statement).fetchall()

    def connection(self, number: int = 0) -> Connection:
        """Return a connection to one of the replicas."""
        return Connection(self.replicas[number % len(self.replicas)].port)

    def model(self, versions: int) -> str:
        """Make a model of so many versions; return its name."""
        name = f"race/{uuid.uuid4().hex}"
        with self.connection() as connection:
            push_config(connection, name)
            for number in range(1, versions + 1):
                assert register(connection, name, push(connection, name)) == (201, number)
        return name

    def check_whole(self) -> None:
        """Aliases, tags, history, versions and the audit say the same, and its chain holds."""
        moves: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for model, alias, *move in self.rows(_MOVES):
            moves[model, alias].append(tuple(move))
        self._check_aliases(moves)
        versions = self._check_versions()
        self._check_audit(moves, versions)

    def _check_aliases(self, moves: dict[tuple[str, str], list[Row]]) -> None:
        aliases = self.rows(_ALIASES)
        assert len(aliases) == len(moves)
        for model, alias, number, digest, count, at, by, reason, tagged in aliases:
            history = moves[model, alias]
            assert [each[0] for each in history] == list(range(1, count + 1))
            assert history[-1] == (count, at, by, reason, history[-1][4], number, digest)
            assert tagged == digest, (model, alias)
            assert [each[4] for each in history] == [None, *(each[5] for each in history[:-1])]
            times = [each[1] for each in history]
            assert times == sorted(set(times)), (model, alias)

    def _check_versions(self) -> dict[str, list[Row]]:
        versions: dict[str, list[Row]] = defaultdict(list)
        for model, number, digest, version_id, tagged, last in self.rows(_VERSIONS):
            versions[model].append((number, version_id, digest))
            assert tagged == digest, (model, number)
            assert number <= last
        return versions

    def _check_audit(
        self, moves: dict[tuple[str, str], list[Row]], versions: dict[str, list[Row]]
    ) -> None:
        told: dict[tuple[str, str], list[Row]] = defaultdict(list)
        registered: dict[str, list[Row]] = defaultdict(list)
        for _, at, actor, action, model, text in self.rows(_EVENTS):
            said = json.loads(text)
            if action == "register":
                registered[model].append((said["version"], said["version_id"], said["digest"]))
                continue
            now, was = said["to"], (said["from"] or {}).get("version")
            move = (at, actor, said["reason"], was, now["version"], now["digest"])
            told[model, said["alias"]].append((len(told[model, said["alias"]]) + 1, *move))
            assert said["verdict"]["passed"]
        assert told == moves
        assert {model: sorted(found) for model, found in registered.items()} == versions
        assert first_break(self.export()) is None

    def export(self) -> list[bytes]:
        """Return the lines of `lading audit export`."""
        printed = io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(printed):
            assert trail.main(["export", "--catalog", self.catalog]) == 0
        return printed.buffer.getvalue().splitlines(keepends=True)


@contextmanager
def sqlite_scene(folder: Path, workers: int = 2) -> Iterator[Scene]:
    """Give a registry of several workers on the embedded catalog."""
    served = Served(folder, workers=workers)
    try:
        yield Scene(f"sqlite:///{folder}/catalog.db", [served.start()])
    finally:
        crash(served)


@contextmanager
def postgres_scene(folder: Path, database: PostgresServer) -> Iterator[Scene]:
    """Give two replicas on a database of their own."""
    url = database.new_database()
    asyncio.run(migrate(url))
    options = ("--catalog", url, "--blobs", f"file:///{folder}/shared")
    replicas = [Served(folder / name, options=options) for name in ("one", "two")]
    try:
        yield Scene(url, [each.start() for each in replicas], database)
    finally:
        for each in replicas:
            crash(each)


def ask(
    connection: Connection, method: str, path: str, document: object = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request of the model API; return status and document."""
    body = b"" if document is None else json.dumps(document).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    answer = connection.ask(method, path, body, headers=named)
    return answer.status, json.loads(answer.body)


def push_config(connection: Connection, repository: str) -> None:
    """Push the empty config that every manifest of `push` names."""
    location = connection.begin(repository)
    connection.ask("PUT", finishing(location, digest_of(b"{}")), b"{}", expect=[201])


def artifact(**annotations: str) -> bytes:
    """Return a manifest that nobody else has."""
    document = json.loads(manifest_of(uuid.uuid4().hex))
    document["annotations"] |= {f"io.lading.{key}": text for key, text in annotations.items()}
    return json.dumps(document).encode()


def push(connection: Connection, repository: str, **annotations: str) -> str:
    """Push such a manifest; return its digest."""
    body = artifact(**annotations)
    connection.put_manifest(repository, digest_of(body), body)
    return digest_of(body)


def register(connection: Connection, model: str, digest: str) -> tuple[int, int]:
    """Register an artifact; return the status, and the number of the version that it is."""
    asked = {"artifact_digest": digest}
    status, said = ask(connection, "POST", f"/v1/models/{model}/versions", asked)
    assert status in (201, 409), said
    return status, int((said.get("data") or said)["version"])


def promote(
    connection: Connection, model: str, alias: str, number: int, **asked: object
) -> tuple[int, dict[str, Any]]:
    """Move an alias."""
    return ask(
        connection,
        "PUT",
        f"/v1/models/{model}/aliases/{alias}",
        {"version": number, "reason": "a race", **asked},
    )

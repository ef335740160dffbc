"""Holds a registry that came back from a crash to what its clients were told (`ledger.py`)."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.faults.ledger import Ledger, Upload
from tests.faults.wire import Connection, finishing
from tests.serving import Served, digest_of

_KEYS = "SELECT id FROM upload UNION SELECT key FROM blob UNION SELECT key FROM discarded"
_READABLE = """
    SELECT repository.name, blob_digest.digest FROM repository_blob
    JOIN repository ON repository.id = repository_blob.repository_id
    JOIN blob_digest ON blob_digest.blob_id = repository_blob.blob_id
"""
_MANIFESTS = """
    SELECT repository.name, manifest.digest FROM manifest
    JOIN repository ON repository.id = manifest.repository_id
"""


def crash(served: Served) -> None:
    """Kill -9 every process of the server, and wait until the kernel has taken them all."""
    if served.process is None:
        return
    workers = psutil.Process(served.process.pid).children(recursive=True)
    served.kill()
    deadline = time.monotonic() + 20
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running(served: Served) -> Iterator[Served]:
    """Start it; whatever happens, no process of it is left."""
    try:
        yield served.start()
    finally:
        crash(served)


def check_at_rest(data: Path) -> None:
    """The catalog is sound, and no file lies about that it does not know."""
    with TemporaryDirectory() as folder:
        # A copy: the server is to find the log as the crash left it.
        for path in data.glob("catalog.db*"):
            shutil.copy(path, folder)
        keys, blobs = _named(Path(folder))
    files = {path.name: path.stat().st_size for path in blob_files(data)}
    assert set(files) <= keys
    assert {key: files.get(key) for key in blobs} == blobs


def _named(folder: Path) -> tuple[set[str], dict[str, int]]:
    """Return the keys the catalog knows, and the sizes of those that are blobs."""
    with closing(sqlite3.connect(folder / "catalog.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        keys = {key for (key,) in db.execute(_KEYS)}
        return keys, dict(db.execute("SELECT key, size FROM blob").fetchall())


def blob_files(data: Path) -> list[Path]:
    return [path for path in (data / "blobs").rglob("*") if path.is_file()]


def check_acknowledged(served: Served, ledger: Ledger) -> None:
    """All that was acknowledged is there and whole, and nothing reads that is not whole."""
    with closing(sqlite3.connect(served.data / "catalog.db")) as db:
        readable = set(db.execute(_READABLE).fetchall())
        manifests = set(db.execute(_MANIFESTS).fetchall())
    assert ledger.blobs <= readable
    assert ledger.manifests <= manifests
    with Connection(served.port) as connection:
        for kind, held in (("blobs", readable), ("manifests", manifests)):
            for repository, digest in held:
                found = connection.ask("GET", f"/v2/{repository}/{kind}/{digest}", expect=[200])
                assert found.digest == digest
        _check_tags(connection, ledger)
        for repository, subject in {edge[:2] for edge in ledger.referrers}:
            told = {edge[2] for edge in ledger.referrers if edge[:2] == (repository, subject)}
            assert told <= set(connection.referrers(repository, subject))


def _check_tags(connection: Connection, ledger: Ledger) -> None:
    listed = {
        repository: set(connection.tags(repository))
        for repository in {repository for repository, _ in ledger.tags}
    }
    for (repository, tag), possible in ledger.tags.items():
        found = connection.ask("GET", f"/v2/{repository}/manifests/{tag}", expect=[200, 404])
        pointed_at = found.digest if found.status == 200 else None
        assert pointed_at in possible, (repository, tag)
        assert (tag in listed[repository]) == (pointed_at is not None)


def resume(served: Served, ledger: Ledger) -> None:
    """Every upload in flight stands where it was said to, at least, and can be ended from there."""
    with Connection(served.port) as connection:
        while ledger.uploads:
            upload = ledger.uploads.pop()
            resume_one(connection, upload)
            ledger.blobs.add((upload.repository, upload.digest))


def resume_one(connection: Connection, upload: Upload) -> int:
    """Send what is missing, end the upload and read the blob back; return where it stood."""
    blob = f"/v2/{upload.repository}/blobs/{upload.digest}"
    found = connection.ask("GET", upload.location, expect=[204, 404])
    if found.status == 404:
        # Only an end that was asked for may have ended it; then it did so wholly.
        assert upload.ending, upload.location
        assert connection.ask("GET", blob, expect=[200]).body == upload.content
        return len(upload.content)
    offset = found.offset
    assert upload.acknowledged <= offset <= upload.sent
    rest = upload.content[offset:]
    if rest:
        chunk = {"Content-Range": f"{offset}-{len(upload.content) - 1}"}
        appended = connection.ask("PATCH", upload.location, rest, headers=chunk, expect=[202])
        assert appended.offset == len(upload.content)
    connection.ask("PUT", finishing(upload.location, upload.digest), expect=[201])
    assert digest_of(connection.ask("GET", blob, expect=[200]).body) == upload.digest
    return offset

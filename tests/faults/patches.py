"""An upload body that stands still where a test wants it, and what the server has done with it."""

from __future__ import annotations

import os
import time

from tests.faults.ledger import Upload
from tests.faults.wire import Connection
from tests.serving import Served

# Enough for one checkpoint within a body, which `sessions.py` makes at each so many bytes.
CHECKPOINT = 256 * 1024 * 1024
LARGE = CHECKPOINT + 16 * 1024 * 1024
_SECONDS = 30


def begin_patch(connection: Connection, repository: str, size: int) -> Upload:
    """Open an upload of random bytes and announce a PATCH of all of it, with none sent yet."""
    upload = Upload(repository, connection.begin(repository), os.urandom(size))
    announce(connection, upload)
    return upload


def announce(connection: Connection, upload: Upload) -> None:
    """Begin a PATCH of the rest of the content."""
    connection.http.putrequest("PATCH", upload.location)
    connection.http.putheader("Content-Length", str(len(upload.content) - upload.sent))
    connection.http.endheaders()


def send(connection: Connection, upload: Upload, count: int) -> None:
    """Send that many bytes more."""
    connection.http.send(upload.content[upload.sent : upload.sent + count])
    upload.sent += count


def wait_for_offset(connection: Connection, upload: Upload, offset: int) -> int:
    """Return the offset the server reports, once it is at least this one."""
    deadline = time.monotonic() + _SECONDS
    while True:
        reported = connection.ask("GET", upload.location, expect=[204]).offset
        if reported >= offset:
            return reported
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)


def wait_for_file(served: Served, upload: Upload, size: int) -> None:
    """Wait until the server has written that much, which it need not have recorded."""
    key = upload.location.rpartition("/")[2]
    path = served.data / "blobs" / key[:2] / key
    deadline = time.monotonic() + _SECONDS
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, "nothing is written"
        time.sleep(0.02)

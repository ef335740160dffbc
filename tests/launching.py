"""`lading serve` in a process of its own that begins where its imports have ended.

The tests start hundreds of registries, and most of a start is Python reading the same modules. So
one process reads them, once, does nothing else, and is forked for each. That the command itself
starts from nothing is for `test_smoke.py` and `make conformance` to show.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_PRELOADED = [
    "ociserver.serve",
    "ociserver.storage.postgres",
    "ociserver.storage.s3",
    "ociserver.storage.s3_client",
]
_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(_PRELOADED)


class Launched(Protocol):
    """A process that was started: what `subprocess.Popen` shows of it."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended. Raises subprocess.TimeoutExpired."""

    def terminate(self) -> None:
        """Send SIGTERM."""


def launch(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Launched:
    """Run `lading serve` in a session of its own, its output at the end of the log."""
    return _Forked(arguments, log, environment)


def launch_command(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Launched:
    """Do the same by the installed command, from nothing: for a registry of several processes."""
    command = [str(Path(sys.executable).with_name("lading")), "serve", *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )


class _Forked:
    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._process = _forking.Process(
            target=_serve, args=(arguments, str(log), dict(environment)), daemon=True
        )
        self._process.start()
        self.pid = self._process.ident or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("lading serve", timeout or 0)
        return status

    def terminate(self) -> None:
        self._process.terminate()


def _serve(arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
    from ociserver import serve  # noqa: PLC0415 - read before the fork, by that process alone

    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(serve.main(arguments))

"""A registry on files or on S3, its blobs as a disk or a bucket has them, and `lading scrub`."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.s3 import S3Server
from tests.serving import Served

PREFIX = "some/where/"


class Behind(Protocol):
    """The blob store behind the registry's back."""

    def keys(self) -> list[str]: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, body: bytes) -> None: ...
    def delete(self, key: str) -> None: ...


@dataclass(frozen=True)
class Folder:
    root: Path

    def path(self, key: str) -> Path:
        return self.root / key[:2] / key

    def keys(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def write(self, key: str, body: bytes) -> None:
        self.path(key).parent.mkdir(exist_ok=True)
        self.path(key).write_bytes(body)

    def delete(self, key: str) -> None:
        self.path(key).unlink()


@dataclass(frozen=True)
class InBucket:
    server: S3Server
    bucket: str

    def keys(self) -> list[str]:
        return sorted(each.removeprefix(PREFIX) for each in self.server.sizes(self.bucket))

    def read(self, key: str) -> bytes:
        return self.server.read(self.bucket, PREFIX + key)

    def write(self, key: str, body: bytes) -> None:
        self.server.write(self.bucket, PREFIX + key, body)

    def delete(self, key: str) -> None:
        self.server.delete(self.bucket, PREFIX + key)


@dataclass
class Scrubbed:
    """A registry that serves, with what lies behind it."""

    served: Served
    behind: Behind

    def command(self, *options: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("lading")),
            "scrub",
            *("--catalog", f"sqlite:///{self.served.data}/catalog.db"),
            *("--blobs", f"file:///{self.served.data}/blobs"),
            *self.served.options,
            *options,
        ]

    def scrub(self, *options: str, status: int, again: bool = True) -> str:
        """Run it, by default over everything once more; return what it says on standard output."""
        everything = ("--older-than", "1ms", "--rate", "1TiB") if again else ()
        ended = subprocess.run(
            self.command(*everything, *options),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=_environment(),
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.returncode == status, ended
        return ended.stdout

    @contextmanager
    def scrubbing(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Give a run that is under way."""
        with subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def key_of(self, digest: str) -> str:
        return str(
            self._ask(
                "SELECT key FROM blob JOIN blob_digest ON blob_id = blob.id WHERE digest = ?",
                digest,
            )
        )

    def flip(self, digest: str) -> None:
        """Flip a bit in the middle of the blob."""
        body = bytearray(self.behind.read(self.key_of(digest)))
        body[len(body) // 2] ^= 1
        self.behind.write(self.key_of(digest), bytes(body))

    def is_under_way(self) -> bool:
        """Tell whether a run has taken its lease."""
        return bool(self._ask("SELECT count(*) FROM lease WHERE name = 'scrub'"))

    def unchecked(self) -> int:
        return int(str(self._ask("SELECT count(*) FROM blob WHERE checked_at IS NULL")))

    def _ask(self, question: str, *values: str) -> object:
        """Ask the catalog itself for one value."""
        with closing(
            sqlite3.connect(f"file:{self.served.data}/catalog.db?mode=ro", uri=True)
        ) as db:
            [(value,)] = db.execute(question, values)
        return value


def found(said: str) -> list[str]:
    """The kinds of what was found, in order."""
    return re.findall(r"^(damaged|unreadable|orphan|healed) ", said, re.MULTILINE)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("LADING_")}


@contextmanager
def on_files(data: Path) -> Iterator[Scrubbed]:
    with _served(Served(data)) as served:
        yield Scrubbed(served, Folder(data / "blobs"))


@contextmanager
def on_s3(data: Path, server: S3Server) -> Iterator[Scrubbed]:
    """The caller has put the server's credentials into the environment."""
    bucket = server.new_bucket()
    options = ("--blobs", server.url(bucket, PREFIX.strip("/")))
    with _served(Served(data, options=options)) as served:
        yield Scrubbed(served, InBucket(server, bucket))


@contextmanager
def _served(served: Served) -> Iterator[Served]:
    try:
        yield served.start()
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.stop()
        served.kill()

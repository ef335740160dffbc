"""What the clients of a crashed server were told, and what may be true though nobody told them.

`Pusher.run` is a push loop that ends when its server does; it writes an intent down before it
asks, and a fact once it is answered. `audit.py` holds the server to the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from random import Random
from threading import Event, Thread

from tests.faults.wire import Connection, Refused, finishing, manifest_of
from tests.serving import digest_of

_SERVER_FAULT = 500


@dataclass(slots=True)
class Upload:
    """An upload whose end nobody has acknowledged."""

    repository: str
    location: str
    content: bytes
    sent: int = 0
    acknowledged: int = 0
    ending: bool = False

    @property
    def digest(self) -> str:
        return digest_of(self.content)


@dataclass(slots=True)
class Ledger:
    """Every acknowledgement, from all pushers. Only whole-value operations: threads share it."""

    blobs: set[tuple[str, str]] = field(default_factory=set)
    manifests: set[tuple[str, str]] = field(default_factory=set)
    referrers: set[tuple[str, str, str]] = field(default_factory=set)
    # What a tag may point at: the last thing acknowledged, and what was asked for since.
    tags: dict[tuple[str, str], set[str | None]] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


class Pusher:
    """One client. It goes on where it was when its server is started again."""

    def __init__(self, ledger: Ledger, number: int, seed: int) -> None:
        self._ledger = ledger
        self._number = number
        self._repository = f"crash/r{number % 2}"
        self._random = Random(seed)
        self._count = 0
        self._blobs: list[tuple[str, int]] = []
        self._subjects: list[tuple[str, int]] = []
        self._steps: tuple[Callable[[Connection], None], ...] = (
            self._push_blob,
            self._push_at_once,
            self._push_in_chunks,
            self._push_in_chunks,
            self._push_manifest,
            self._push_manifest,
            self._push_referrer,
            self._remove_tag,
        )

    def run(self, port: int, crashing: Event, *, deaf: bool = False) -> None:
        """Push until the server is gone; whatever goes wrong before that is a failure.

        One that is `deaf` does not count an answer that comes once the crash has begun.
        """
        try:
            with Connection(port, deaf_from=crashing if deaf else None) as connection:
                while True:
                    self._random.choice(self._steps)(connection)
        except (OSError, HTTPException) as error:
            if not crashing.is_set():
                self._ledger.failures.append(error)
        except Refused as error:
            # A server whose disk has just died says 5xx; it must not say anything else.
            if not crashing.is_set() or error.status < _SERVER_FAULT:
                self._ledger.failures.append(error)
        except AssertionError as error:
            self._ledger.failures.append(error)

    # -- blobs

    def _content(self) -> bytes:
        if self._random.random() < 0.15:
            # The same bytes from several clients: one object, whoever comes first.
            return Random(self._random.randrange(40)).randbytes(50_000)
        size = self._random.choice((1_000, 30_000, 200_000, 1_500_000))
        return self._random.randbytes(size + self._random.randrange(size))

    def _begin(self, connection: Connection) -> Upload:
        upload = Upload(self._repository, connection.begin(self._repository), self._content())
        self._ledger.uploads.append(upload)
        return upload

    def _finish(self, connection: Connection, upload: Upload) -> None:
        rest = upload.content[upload.acknowledged :]
        upload.sent, upload.ending = len(upload.content), True
        connection.ask("PUT", finishing(upload.location, upload.digest), rest, expect=[201])
        self._pushed(upload.digest, len(upload.content))
        self._ledger.uploads.remove(upload)

    def _pushed(self, digest: str, size: int) -> None:
        self._ledger.blobs.add((self._repository, digest))
        self._blobs.append((digest, size))

    def _push_blob(self, connection: Connection) -> None:
        self._finish(connection, self._begin(connection))

    def _push_at_once(self, connection: Connection) -> None:
        content = self._content()
        digest = digest_of(content)
        path = f"/v2/{self._repository}/blobs/uploads/?digest={digest}"
        connection.ask("POST", path, content, expect=[201])
        self._pushed(digest, len(content))

    def _push_in_chunks(self, connection: Connection) -> None:
        upload = self._begin(connection)
        whole = len(upload.content)
        for _ in range(self._random.randrange(1, 4)):
            start = upload.acknowledged
            end = self._random.randrange(start + 1, whole + 1) if start < whole else whole
            if end - start < 2:
                break
            headers = {"Content-Range": f"{start}-{end - 1}"} if self._random.random() < 0.5 else {}
            upload.sent = end
            chunk = upload.content[start:end]
            told = connection.ask("PATCH", upload.location, chunk, headers=headers, expect=[202])
            assert told.offset == end
            upload.acknowledged = end
        if self._random.random() < 0.8:
            self._finish(connection, upload)

    # -- manifests

    def _put(self, connection: Connection, tag: str | None, body: bytes) -> str:
        digest = digest_of(body)
        key = (self._repository, tag or "")
        if tag:
            self._ledger.tags.setdefault(key, {None}).add(digest)
        connection.put_manifest(self._repository, tag or digest, body)
        self._ledger.manifests.add((self._repository, digest))
        if tag:
            self._ledger.tags[key] = {digest}
        return digest

    def _note(self) -> str:
        self._count += 1
        return f"{self._number}-{self._count}"

    def _push_manifest(self, connection: Connection) -> None:
        note = self._note()
        moving = self._random.random() < 0.5
        body = manifest_of(note, layers=self._blobs[-2:])
        tag = f"moving-{self._number}" if moving else f"tag-{note}"
        self._subjects.append((self._put(connection, tag, body), len(body)))

    def _push_referrer(self, connection: Connection) -> None:
        if not self._subjects:
            return
        subject = self._random.choice(self._subjects)
        digest = self._put(connection, None, manifest_of(self._note(), subject=subject))
        self._ledger.referrers.add((self._repository, subject[0], digest))

    def _remove_tag(self, connection: Connection) -> None:
        key = (self._repository, f"moving-{self._number}")
        possible = self._ledger.tags.get(key)
        if possible is None or None in possible:
            return
        possible.add(None)
        connection.ask("DELETE", f"/v2/{key[0]}/manifests/{key[1]}", expect=[202])
        self._ledger.tags[key] = {None}


def push_until(
    port: int,
    pushers: Sequence[Pusher],
    crash: Callable[[Event], None],
    ledger: Ledger,
    *,
    deaf: bool = False,
) -> None:
    """Let the pushers go; `crash` sets its event and then takes the server away from them."""
    crashing = Event()
    threads = [
        Thread(target=pusher.run, args=(port, crashing), kwargs={"deaf": deaf})
        for pusher in pushers
    ]
    for thread in threads:
        thread.start()
    try:
        crash(crashing)
    finally:
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not ledger.failures, ledger.failures

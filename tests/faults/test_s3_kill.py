"""`kill -9` of a registry on S3 at random moments of a push loop."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from threading import Event

from tests.faults.audit import check_acknowledged, crash, resume
from tests.faults.ledger import Ledger, Pusher, push_until
from tests.faults.stage import Stage, staged
from tests.faults.wire import Connection, finishing
from tests.faulty import Rule
from tests.s3 import S3Server
from tests.serving import digest_of
from tests.wire.raw import eventually

_ROUNDS = 2
_MIB = 2**20


class LargePusher(Pusher):
    """Pushes in parts and tails. What it was not told of it begins anew."""

    def __init__(self, ledger: Ledger, number: int, seed: int) -> None:
        super().__init__(ledger, number, seed)
        self._steps = (self._push_large,)

    def _push_large(self, connection: Connection) -> None:
        content, sent = self._random.randbytes(self._random.randrange(6, 12) * _MIB), 0
        location = connection.begin(self._repository)
        for _ in range(self._random.randrange(3)):
            size = self._random.choice([1000, 3 * _MIB, 5 * _MIB])
            if sent + size < len(content):
                chunk = content[sent : sent + size]
                sent = connection.ask("PATCH", location, chunk, expect=[202]).offset
        path = finishing(location, digest_of(content))
        connection.ask("PUT", path, content[sent:], expect=[201])
        self._pushed(digest_of(content), len(content))


def test_what_was_acknowledged_outlives_kills_and_nothing_else_is_left(
    versitygw: S3Server, tmp_path: Path
) -> None:
    ledger = Ledger()
    kinds = (Pusher, Pusher, Pusher, Pusher, LargePusher)
    pushers = [kind(ledger, number, random.getrandbits(32)) for number, kind in enumerate(kinds)]
    with staged(versitygw, tmp_path, ("--redirect", "off")) as stage:

        def kill(crashing: Event) -> None:
            enough = len(ledger.blobs) + 10
            eventually(lambda: len(ledger.blobs) >= enough or ledger.failures)
            time.sleep(random.uniform(0, 0.5))
            crashing.set()
            crash(stage.served)

        for _ in range(_ROUNDS):
            # Now and then S3 fails as well.
            stage.proxy.reset()
            for nth in range(5, 500, 25):
                stage.proxy.add(Rule(fault="internal", nth=nth), Rule(fault="cut", nth=nth + 9))
            push_until(stage.served.port, pushers, kill, ledger)
            stage.proxy.reset()
            forget_leases(stage)
            stage.check_named()
            stage.served.start()
            resume(stage.served, ledger)
        crash(stage.served)
        stage.served.options += ("--upload-idle", "2s")
        stage.served.start()
        stage.settle()
        check_acknowledged(stage.served, ledger)


def forget_leases(stage: Stage) -> None:
    """Let the nine seconds go by that a dead holder is waited for: other tests wait them out."""
    with closing(sqlite3.connect(stage.served.data / "catalog.db")) as db, db:
        db.execute("DELETE FROM lease")

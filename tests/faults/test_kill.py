"""`kill -9` of the whole server at random moments: what was acknowledged outlives it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from threading import Event

import psutil
import pytest

from tests.faults.audit import check_acknowledged, check_at_rest, crash, resume, resume_one, running
from tests.faults.ledger import Ledger, Pusher, Upload, push_until
from tests.faults.patches import (
    CHECKPOINT,
    LARGE,
    announce,
    begin_patch,
    send,
    wait_for_file,
    wait_for_offset,
)
from tests.faults.wire import Connection, finishing
from tests.serving import Served, digest_of

_ROUNDS = 3
_CLIENTS = 6
_MIB = 1024 * 1024
# What `sessions.py` promises: at most this much is sent again.


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with running(Served(tmp_path)) as served:
        yield served


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_outlives_kills_in_a_push_loop(tmp_path: Path, workers: int) -> None:
    ledger = Ledger()
    pushers = [Pusher(ledger, number, random.getrandbits(32)) for number in range(_CLIENTS)]
    with running(Served(tmp_path, workers=workers)) as served:

        def kill(crashing: Event) -> None:
            time.sleep(random.uniform(0.2, 1.5))
            crashing.set()
            crash(served)

        for _ in range(_ROUNDS):
            push_until(served.port, pushers, kill, ledger)
            check_at_rest(served.data)
            served.start()
            resume(served, ledger)
        check_acknowledged(served, ledger)
        crash(served)
    check_at_rest(tmp_path)
    # The loop must have been one: enough of each kind to lose.
    assert min(len(ledger.blobs), len(ledger.tags), len(ledger.referrers)) > _CLIENTS


def test_one_worker_killed_takes_nothing_acknowledged_along(tmp_path: Path) -> None:
    ledger = Ledger()
    pushers = [Pusher(ledger, number, random.getrandbits(32)) for number in range(_CLIENTS)]
    with running(Served(tmp_path, workers=2)) as served:
        assert served.process is not None
        supervisor = psutil.Process(served.process.pid)

        def kill_workers(crashing: Event) -> None:
            time.sleep(random.uniform(0.2, 1.0))
            crashing.set()
            first, second = _serving(supervisor)
            first.send_signal(signal.SIGKILL)
            time.sleep(random.uniform(0.0, 0.5))
            second.send_signal(signal.SIGKILL)

        push_until(served.port, pushers, kill_workers, ledger)
        _wait_until_answers(served)
        resume(served, ledger)
        check_acknowledged(served, ledger)
        crash(served)
    check_at_rest(tmp_path)


def test_workers_whose_supervisor_was_killed_end_and_leave_the_port(tmp_path: Path) -> None:
    with running(Served(tmp_path, workers=2)) as served:
        assert served.process is not None
        supervisor = psutil.Process(served.process.pid)
        workers, counters = _serving(supervisor), f"lading-metrics-{supervisor.pid}-*"
        assert len(workers) == 2
        assert len(list(Path(gettempdir()).glob(counters))) == 1
        os.kill(supervisor.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == []
        served.process.wait(20)
        served.start()
        assert list(Path(gettempdir()).glob(counters)) == []


def test_an_upload_killed_in_mid_patch_resumes_from_its_checkpoint(served: Served) -> None:
    with Connection(served.port) as connection:
        upload = begin_patch(connection, "crash/large", LARGE)
        send(connection, upload, CHECKPOINT + 8 * _MIB)
        with Connection(served.port) as watcher:
            upload.acknowledged = wait_for_offset(watcher, upload, CHECKPOINT)
        send(connection, upload, 3 * _MIB)
        crash(served)
    check_at_rest(served.data)
    served.start()
    with Connection(served.port) as connection:
        assert resume_one(connection, upload) >= CHECKPOINT


def test_an_upload_killed_before_a_checkpoint_resumes_from_its_last_chunk(served: Served) -> None:
    content = random.randbytes(6 * _MIB)
    with Connection(served.port) as connection:
        upload = Upload("crash/small", connection.begin("crash/small"), content)
        connection.ask("PATCH", upload.location, content[:_MIB], expect=[202])
        upload.sent = upload.acknowledged = _MIB
        announce(connection, upload)
        send(connection, upload, 3 * _MIB)
        wait_for_file(served, upload, 2 * _MIB)
        crash(served)
    served.start()
    with Connection(served.port) as connection:
        assert resume_one(connection, upload) == _MIB


def test_bytes_a_killed_patch_left_are_no_part_of_a_shorter_blob(served: Served) -> None:
    with Connection(served.port) as connection:
        upload = begin_patch(connection, "crash/left", 6 * _MIB)
        send(connection, upload, 4 * _MIB)
        wait_for_file(served, upload, 2 * _MIB)
        crash(served)
    served.start()
    short = random.randbytes(_MIB)
    with Connection(served.port) as connection:
        assert connection.ask("GET", upload.location, expect=[204]).offset == 0
        path = finishing(upload.location, digest_of(short))
        connection.ask("PUT", path, short, expect=[201])
        found = connection.ask("GET", f"/v2/crash/left/blobs/{digest_of(short)}", expect=[200])
    assert found.body == short


def _serving(supervisor: psutil.Process) -> list[psutil.Process]:
    """Return the workers: of the supervisor's children, those that listen."""
    return [
        child
        for child in supervisor.children()
        if any(each.status == psutil.CONN_LISTEN for each in child.net_connections("tcp"))
        and "resource_tracker" not in " ".join(child.cmdline())
    ]


def _wait_until_answers(served: Served) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with Connection(served.port) as connection:
                connection.http.timeout = 5
                connection.ask("GET", "/readyz", expect=[200])
        except OSError:
            assert time.monotonic() < deadline, served.log
            time.sleep(0.05)
        else:
            return

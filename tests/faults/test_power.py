"""A power cut at a random moment of a push loop: what was acknowledged is on the disk."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.faults.audit import check_acknowledged, check_at_rest, crash, resume, resume_one, running
from tests.faults.disk import copy_as_on_disk, cut_power, make_image, mounted, write_synced
from tests.faults.ledger import Ledger, Pusher, push_until
from tests.faults.patches import CHECKPOINT, LARGE, begin_patch, send, wait_for_offset
from tests.faults.wire import Connection
from tests.serving import Served
from tests.wire.raw import eventually

_IMAGE_BYTES = 512 * 1024 * 1024
_CUTS = 2
_CLIENTS = 6
_CONTROL = b"cargo" * 20_000
_MIB = 1024 * 1024


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_outlives_power_cuts(tmp_path: Path, workers: int) -> None:
    ledger = Ledger()
    pushers = [Pusher(ledger, number, random.getrandbits(32)) for number in range(_CLIENTS)]
    image = tmp_path / "disk"
    make_image(image, _IMAGE_BYTES)
    for cut in range(_CUTS):
        with _on_disk(image, workers) as served:
            if cut:
                resume(served, ledger)
                check_acknowledged(served, ledger)
            _push_until_dark(served, pushers, ledger)
        _lose_what_was_not_flushed(image)
    with _on_disk(image, workers) as served:
        resume(served, ledger)
        check_acknowledged(served, ledger)
        crash(served)
        check_at_rest(served.data)


def _least(ledger: Ledger) -> int:
    return min(len(ledger.blobs), len(ledger.tags), len(ledger.referrers))


def test_an_offset_reported_in_mid_patch_outlives_a_power_cut(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    make_image(image, _IMAGE_BYTES)
    with _on_disk(image, 1) as served, Connection(served.port) as connection:
        upload = begin_patch(connection, "power/large", LARGE)
        send(connection, upload, CHECKPOINT + 8 * _MIB)
        with Connection(served.port) as watcher:
            upload.acknowledged = wait_for_offset(watcher, upload, CHECKPOINT)
        send(connection, upload, 3 * _MIB)
        cut_power(served.data.parent)
        crash(served)
        copy_as_on_disk(image, image.with_name("copy"))
    image.with_name("copy").replace(image)
    with _on_disk(image, 1) as served, Connection(served.port) as connection:
        assert resume_one(connection, upload) >= CHECKPOINT


def test_a_cut_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    """The control: a method that keeps unsynced pages would let every other test here pass."""
    image = tmp_path / "disk"
    make_image(image, _IMAGE_BYTES)
    with mounted(image, tmp_path / "mount") as disk:
        write_synced(disk / "synced", _CONTROL)
        write_synced(disk / "rewritten", _CONTROL)
        with (disk / "rewritten").open("r+b") as file:
            file.write(_CONTROL[::-1])
        (disk / "unsynced").write_bytes(_CONTROL)
        cut_power(disk)
        copy_as_on_disk(image, tmp_path / "copy")
    with mounted(tmp_path / "copy", tmp_path / "mount") as disk:
        assert (disk / "synced").read_bytes() == _CONTROL
        assert (disk / "rewritten").read_bytes() == _CONTROL
        assert not (disk / "unsynced").exists()


@contextmanager
def _on_disk(image: Path, workers: int) -> Iterator[Served]:
    """Run a registry whose data folder is on that disk."""
    with mounted(image, image.with_name("mount")) as disk:
        if (disk / "data").exists():
            check_at_rest(disk / "data")
        with running(Served(disk / "data", workers=workers)) as served:
            yield served


def _push_until_dark(served: Served, pushers: list[Pusher], ledger: Ledger) -> None:
    """Cut the power while all push.

    A server without power answers nobody. Ours still runs, and an fsync that was under way when its
    file system ended may return as if it had not: what it says from then on is not heard.
    """
    disk = served.data.parent

    def cut(crashing: Event) -> None:
        write_synced(disk / "synced", _CONTROL)
        (disk / "unsynced").unlink(missing_ok=True)
        time.sleep(random.uniform(0.3, 1.5))
        # On a busy machine that is soon: something of each kind must be there to be lost.
        eventually(lambda: _least(ledger) > _CLIENTS)
        (disk / "unsynced").write_bytes(_CONTROL)
        crashing.set()
        cut_power(disk)

    push_until(served.port, pushers, cut, ledger, deaf=True)
    crash(served)


def _lose_what_was_not_flushed(image: Path) -> None:
    """Put in the disk's place what it holds, and see that this is less than memory held."""
    copy = image.with_name("copy")
    copy_as_on_disk(image, copy)
    copy.replace(image)
    with mounted(image, image.with_name("mount")) as disk:
        assert (disk / "synced").read_bytes() == _CONTROL
        unsynced = disk / "unsynced"
        # A later fsync may have committed its name; its bytes nobody asked for.
        assert not unsynced.exists() or unsynced.stat().st_size == 0

"""A power cut at a random moment of a push loop: what was acknowledged is on the disk."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from threading import Event

import pytest

from tests.faults.audit import check_acknowledged, check_at_rest, crash, resume, running
from tests.faults.disk import copy_as_on_disk, cut_power, make_image, mounted, write_synced
from tests.faults.ledger import Ledger, Pusher, Upload, push_until
from tests.faults.wire import Connection
from tests.serving import Served

_IMAGE_BYTES = 512 * 1024 * 1024
_CUTS = 3
_CLIENTS = 6
_CONTROL = b"cargo" * 20_000


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_outlives_power_cuts(tmp_path: Path, workers: int) -> None:
    ledger = Ledger()
    pushers = [Pusher(ledger, number, random.getrandbits(32)) for number in range(_CLIENTS)]
    image = tmp_path / "disk-0"
    make_image(image, _IMAGE_BYTES)
    for cut in range(_CUTS):
        after = tmp_path / f"disk-{cut + 1}"
        with (
            mounted(image, tmp_path / "mount") as disk,
            running(Served(disk / "data", workers=workers)) as served,
        ):
            if cut:
                _check_returned(served, ledger)
            write_synced(disk / f"synced-{cut}", _CONTROL)

            def cut_now(crashing: Event, disk: Path = disk, cut: int = cut) -> None:
                time.sleep(random.uniform(0.3, 1.5))
                (disk / f"unsynced-{cut}").write_bytes(_CONTROL)
                crashing.set()
                cut_power(disk)

            # A pusher goes on until it is refused: what a dead disk acknowledged counts too.
            _push_until_dark(served, pushers, cut_now, ledger)
            crash(served)
            copy_as_on_disk(image, after)
        image.unlink()
        image = after
        _check_method(image, tmp_path / "mount", cut)
    with (
        mounted(image, tmp_path / "mount") as disk,
        running(Served(disk / "data", workers=workers)) as served,
    ):
        _check_returned(served, ledger)
        crash(served)
        check_at_rest(served.data)
    assert min(len(ledger.blobs), len(ledger.tags), len(ledger.referrers)) > _CLIENTS

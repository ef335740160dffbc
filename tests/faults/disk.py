"""A disk of its own for a registry, whose power can be cut: ext4 on a loop-mounted image.

The cut has to be one moment, and unflushed pages have to be lost. Device-mapper snapshots are not
in every kernel, and stopping the server first would let every fsync under way end well. So the
file system itself is shut down, by the ioctl that the kernel's own crash tests use
(EXT4_IOC_SHUTDOWN without flushing the log): from that moment it writes nothing, be it data,
metadata or journal; an fsync under way fails. The loop device does direct I/O, so the image holds
what the file system had written by then and nothing of the page cache; it no longer changes, and
is copied with O_DIRECT. Mounting the copy replays the journal, as after a real cut.

Not seen by this: a folder that was not synced. Any later fsync on ext4 commits all metadata.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MIB = 1024 * 1024
_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
_WITHOUT_LOG_FLUSH = struct.pack("I", 2)


def make_image(image: Path, size: int) -> None:
    """Make an empty disk."""
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0", str(image))


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount the image; unmounted and detached at the end, whatever happened to it."""
    folder.mkdir(exist_ok=True)
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(image))
    try:
        direct = Path("/sys/block", Path(device).name, "loop", "dio").read_text()
        assert direct.strip() == "1", "without direct I/O the image may hold unflushed pages"
        _run("mount", "-t", "ext4", "-o", "nodiscard", device, str(folder))
        try:
            yield folder
        finally:
            _unmount(folder)
    finally:
        _run("losetup", "--detach", device)


def cut_power(folder: Path) -> None:
    """End the file system mounted there at this very moment."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_LOG_FLUSH)
    finally:
        os.close(descriptor)


def copy_as_on_disk(image: Path, copy: Path) -> None:
    """Copy what the disk has; pages that wait in memory are not read."""
    _run("dd", f"if={image}", f"of={copy}", "bs=4M", "iflag=direct", "conv=sparse", "status=none")
    os.truncate(copy, image.stat().st_size)


def write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _unmount(folder: Path) -> None:
    # A process that was killed may hold the mount for a moment longer.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (
            subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode
            == 0
        ):
            return
        time.sleep(0.05)
    _run("umount", "--lazy", str(folder))
    raise AssertionError(f"{folder} stayed busy")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()

"""`make soak`: 16 clients push to two replicas on PostgreSQL and S3, collected every second.

None may be refused for a blob that the registry said was there; at the end everything acknowledged
is whole; and once nothing more is due, the bucket holds what the catalog names and nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests import s3
from tests.postgres import PostgresServer
from tests.serving import Served, digest_of
from tests.soak.pushes import Pushed, Told, run_clients

_CLIENTS = 16
_PROCESSES = 2
# What a client was told is there stays for half of it: more than a busy machine makes a push take.
_GRACE = "15s"
_UNTAGGED = "40s"
_DELAY_SECONDS = 5
_PREFIX = "soak"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--pushes", type=int, default=100_000)
    parser.add_argument("--store", choices=s3.KINDS, default="versitygw")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        database = PostgresServer()
        stack.callback(database.remove)
        database.start()
        store = stack.enter_context(s3.running(chosen.store))
        os.environ.update(store.environment)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lading-soak-")))
        catalog, bucket = database.new_database(), store.new_bucket()
        _lading("migrate", "--catalog", catalog)
        stores = ("--catalog", catalog, "--blobs", store.url(bucket, _PREFIX))
        collecting = ("--gc-grace", _GRACE, "--gc-untagged", _UNTAGGED)
        delay = ("--gc-delay", f"{_DELAY_SECONDS}s", "--gc-interval", "1s")
        serving = (*stores, *collecting, *delay, "--sparse", "refuse")
        quiet = ("--access-log", "off", "--log-level", "info")
        replicas = [
            Served(folder / name, options=(*serving, *quiet)).start() for name in ("one", "two")
        ]
        for replica in replicas:
            stack.callback(replica.stop)
        told = _push(chosen.pushes, [replica.port for replica in replicas])
        faults = [fault for each in told for fault in each.refusals]
        faults += _broken(told, replicas[0])
        for replica in replicas:
            faults += _logged(replica)
            replica.stop()
        said = _last_collections(stores)
        blobs, uploads = (
            {f"{_PREFIX}/{row[0]}" for row in database.rows(wanted, catalog.rpartition("/")[2])}
            for wanted in ("SELECT key FROM blob", "SELECT id FROM upload")
        )
        faults += _left_over(said, blobs, uploads, store, bucket)
    for fault in faults[:20]:
        print(f"FAILED: {fault}")
    print(f"soak: {len(faults)} faults")
    return 1 if faults else 0


def _push(pushes: int, ports: list[int]) -> list[Told]:
    began = time.monotonic()
    share = -(-pushes // _CLIENTS)
    shares = [list(range(first, _CLIENTS, _PROCESSES)) for first in range(_PROCESSES)]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, mp_context=spawned) as pool:
        running = [pool.submit(run_clients, numbers, share, ports) for numbers in shares]
        told = [each for one in running for each in one.result()]
    seconds = time.monotonic() - began
    done = sum(each.pushes for each in told)
    skipped = sum(each.skipped_blobs for each in told)
    put_off = sum(each.put_off for each in told)
    print(
        f"soak: {done} manifests acknowledged in {seconds:.0f} s, {done / seconds:.0f}/s; "
        f"{skipped} blobs left out because they were said to be there; {put_off} requests put off",
        flush=True,
    )
    return told


def _alive(told: Told) -> list[Pushed]:
    """What must be there: what is tagged, all that it names, all that refers to what is there."""
    found: dict[tuple[str, str], Pushed] = {}
    waiting = [(repository, digest) for (repository, _), digest in told.tags.items()]
    referrers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key, each in told.pushed.items():
        if each.subject:
            referrers.setdefault((each.repository, each.subject), []).append(key)
    while waiting:
        key = waiting.pop()
        if key in found or key not in told.pushed:
            continue
        each = found[key] = told.pushed[key]
        waiting += [(each.repository, child) for child in each.manifests]
        waiting += referrers.get(key, [])
    return list(found.values())


def _broken(told: list[Told], replica: Served) -> list[str]:
    """Read everything that must be there; return what is not, or is otherwise."""
    wanted = [each for one in told for each in _alive(one)]
    with (
        httpx.Client(base_url=replica.url, timeout=120) as client,
        ThreadPoolExecutor(_CLIENTS) as pool,
    ):

        def look(each: Pushed) -> list[str]:
            answer = client.get(f"/v2/{each.repository}/manifests/{each.digest}")
            faults = [] if answer.content == each.body else [f"{each.digest}: {answer.status_code}"]
            for digest in each.blobs:
                blob = client.get(f"/v2/{each.repository}/blobs/{digest}", follow_redirects=True)
                if blob.status_code != 200 or digest_of(blob.content) != digest:
                    faults.append(f"blob {digest} of {each.digest}: {blob.status_code}")
            return faults

        faults = [fault for some in pool.map(look, wanted) for fault in some]
    blobs = sum(len(each.blobs) for each in wanted)
    print(f"soak: {len(wanted)} manifests and their {blobs} blobs read back", flush=True)
    return faults


def _logged(replica: Served) -> list[str]:
    """Faults that a replica reported of itself, and what its collections took."""
    lines = replica.log.splitlines()
    print(f"soak: {Counter('collected' in line for line in lines)[True]} collections here")
    for line in [line for line in lines if '"status": 503' in line][:5]:
        print(f"soak: put off: {line[:600]}")
    wrong = [line for line in lines if '"level": "error"' in line]
    return [f"{replica.data.name} logged {line[:300]}" for line in wrong[:5]]


def _last_collections(stores: tuple[str, ...]) -> str:
    """Collect all that is not tagged, until nothing is due; return what the last one said."""
    said = ""
    for _ in range(3):
        time.sleep(_DELAY_SECONDS + 1)
        now = ("--gc-grace", "1s", "--gc-untagged", "1s", "--gc-delay", "1s")
        said = _lading("gc", *stores, *now)
        print(f"soak: {said.strip()}", flush=True)
    return said


def _left_over(
    said: str, blobs: set[str], uploads: set[str], store: s3.S3Server, bucket: str
) -> list[str]:
    """Compare the bucket with the catalog.

    An upload that was put off, and begun anew, is kept for as long as it may be resumed.
    """
    there = set(store.sizes(bucket))
    faults = [f"object {key} is named by no row" for key in sorted(there - blobs - uploads)]
    faults += [f"object {key} is gone" for key in sorted(blobs - there)]
    faults += [f"multipart upload of {each.key} is left" for each in store.uploads(bucket)]
    if not said.startswith("dropped 0 manifests, 0 links, 0 blobs"):
        faults.append(f"another collection found something: {said}")
    print(f"soak: {len(there)} objects, {len(blobs)} blobs, {len(uploads)} uploads", flush=True)
    return faults


def _lading(*arguments: str) -> str:
    program = str(Path(sys.executable).with_name("lading"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

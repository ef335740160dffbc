"""`lading gc`: drop what nobody needs any more, directly on catalog and store.

It may run beside replicas that serve. Exit status: 0; 1 where an object could not be deleted (it is
tried again next time); 2 for a wrong setting, a store out of reach, or a collection under way.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from ociserver.collector import Collected, Collector
from ociserver.discards import Discards
from ociserver.errors import LadingError, LeaseTaken
from ociserver.retention import Retention
from ociserver.settings import SettingInvalid, add_options, given
from ociserver.stores import existing_stores

_UNDELETED = 1
_USAGE = 2
_SETTINGS = {"catalog", "blobs", "gc_grace", "gc_untagged", "gc_delay"}


def main(arguments: Sequence[str]) -> int:
    """Collect, or say what a collection would take; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lading gc",
        description="Drop what nobody needs any more. Takes the settings of `serve`.",
        epilog="Exit status: 0; 1 an object could not be deleted; 2 it could not run.",
    )
    add_options(parser, _SETTINGS)
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing; say of each digest why it stays"
    )
    options = parser.parse_args(arguments)
    try:
        settings = given(options, os.environ)

        async def work() -> int:
            async with existing_stores(settings) as stores:
                retention = Retention(
                    grace=settings.gc_grace, delay=settings.gc_delay, untagged=settings.gc_untagged
                )
                collector = Collector(
                    stores.catalog, Discards(stores.catalog, stores.blobs), retention
                )
                return await (_explain if options.dry_run else _collect)(collector)

        return asyncio.run(work())
    except LeaseTaken:
        sys.stderr.write("lading gc: another collection is under way\n")
        return _USAGE
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading gc: {error}\n")
        return _USAGE


async def _explain(collector: Collector) -> int:
    async for verdict in collector.verdicts():
        sys.stdout.write(
            f"{'stays' if verdict.stays else 'goes '} {verdict.kind:8} "
            f"{verdict.repository or '-'} {verdict.digest} {verdict.size} {verdict.why}\n"
        )
    return 0


async def _collect(collector: Collector) -> int:
    done = await collector.run()
    sys.stdout.write(f"{_summary(done)}\n")
    for key in done.swept.failed:
        sys.stderr.write(f"lading gc: object {key} could not be deleted\n")
    return _UNDELETED if done.swept.failed else 0


def _summary(done: Collected) -> str:
    return (
        f"dropped {done.manifests} manifests, {done.links} links, "
        f"{done.blobs} blobs of {done.bytes} bytes; deleted {done.swept.deleted} objects"
    )

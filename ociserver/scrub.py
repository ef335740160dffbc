"""`lading scrub`: what a run found, a line each on standard output, for a person who was woken."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ociserver.errors import LadingError, LeaseTaken
from ociserver.leases import Leases
from ociserver.scrubber import Finding, Plan, Scrubber, Tally
from ociserver.settings import (
    ANY_SECONDS,
    AT_LEAST_A_BYTE,
    SECONDS,
    Form,
    SettingInvalid,
    Settings,
    add_options,
    given,
)
from ociserver.stores import existing_stores
from ociserver.web.observe import configure_logging

_FOUND = 1
_USAGE = 2
_NAMED = 10
_MIB = 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Scrub; return 0 where all is well, 1 where something was found, 2 where it could not run."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        rate=options.rate,
        older_than=options.older_than,
        orphan_age=options.orphan_age,
        repair=options.repair,
    )
    try:
        return asyncio.run(_scrub(given(options, os.environ), plan))
    except asyncio.CancelledError:
        return 0  # told to stop before it began
    except (SettingInvalid, LadingError) as error:
        sys.stderr.write(f"lading scrub: {error}\n")
        return _USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lading scrub",
        description="Hash blobs again, those not checked for longest first, and hold catalog and "
        "blob store against each other. What is damaged is quarantined. Takes the settings of "
        "`serve`, beside which it may run.",
        epilog="Exit status: 0 all is well, 1 something was found, 2 it could not run to its end.",
    )
    add_options(parser, {"catalog", "blobs"})
    for name, form, default, text in (
        ("rate", AT_LEAST_A_BYTE, "50MiB", "most bytes read in a second"),
        ("older-than", ANY_SECONDS, "7d", "leave out what was checked within this time"),
        ("orphan-age", SECONDS, "1d", "objects younger than this are never taken for orphans"),
    ):
        parser.add_argument(
            f"--{name}",
            type=_parsed(form),
            default=default,
            help=f"{text}: {form.name} (default: {default})",
        )
    parser.add_argument("--repair", action="store_true", help="delete the orphans")
    return parser


def _parsed(form: Form) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return form.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {form.name}") from error

    return parse


async def _scrub(settings: Settings, plan: Plan) -> int:
    running = asyncio.current_task()
    assert running is not None  # noqa: S101 - a coroutine that runs is a task's
    for asked in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(asked, running.cancel)
    configure_logging(settings.log_level)
    async with existing_stores(settings) as stores:
        scrubber = Scrubber(
            stores.catalog,
            stores.blobs,
            Leases(stores.catalog),
            plan,
            lambda finding: _say(_line(finding)),
        )
        tally, ended = scrubber.tally, "ended"
        status = None
        try:
            await scrubber.run()
        except asyncio.CancelledError:
            ended = "was told to stop, the next run goes on from here"
        except LeaseTaken:
            ended, status = "did not begin: another one is under way", _USAGE
        except LadingError as error:
            ended, status = f"could not go on: {error}", _USAGE
        for each in tally.left:
            _say(f"scrub: {each}")
        _say(f"scrub {ended}; {_summary(tally)}")
    if status is None:
        return 0 if tally.all_well else _FOUND
    return status


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _line(finding: Finding) -> str:
    what = ", ".join(finding.digests) or finding.name
    if finding.digests:
        named = ", ".join(finding.repositories[:_NAMED]) or "no repository"
        more = len(finding.repositories) - _NAMED
        what += f" (object {finding.name}, in {named}{f' and {more} more' if more > 0 else ''})"
    return f"{finding.kind} {what}: {finding.what}; {finding.done}"


def _summary(tally: Tally) -> str:
    found = [f"{count} {kind}" for kind, count in sorted(tally.found.items())] or ["nothing found"]
    read = f"{tally.blobs} blobs checked, {tally.bytes / _MIB:.1f} MiB read"
    return ", ".join([read, *found])

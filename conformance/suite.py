"""The official suite, run against an address, and its verdict.

The verdict is read from the files it writes, because its exit status is 0 when checks were skipped
and when it could not write a report at all.
"""

from __future__ import annotations

import os
import subprocess
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = Path(__file__).resolve().parent / ".tools" / "bin" / "suite"
LIMIT = 300  # seconds; it takes 1 to 10
SETTINGS = {"OCI_TLS": "disabled", "OCI_VERSION": "dev", "OCI_DATA_SPARSE": "true"}
# The pinned suite has at least this many results with these settings (a few more where a mount
# saves it an upload). A run that broke off has fewer, and none of those need be a failure.
FEWEST_RESULTS = 1_028
SHOWN = 30  # failing checks named on the terminal; a registry without sha512 fails 200
NOT_PASSED = ("failures", "errors", "skipped", "disabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A line with the counts, and a line for each thing that is not a pass."""

    counts: str
    failures: list[str]


def official(address: str, results: Path, settings: Mapping[str, str]) -> Verdict:
    """Run the suite, with settings of its own beside the usual ones; report into the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
    told = {**SETTINGS, **settings, "OCI_REGISTRY": address, "OCI_RESULTS_DIR": str(results)}
    started = time.monotonic()
    try:
        with (results / "suite.log").open("w") as log:
            done = subprocess.run(
                [str(PROGRAM)],
                cwd=results,  # it would read an oci-conformance.yaml where it stands
                env=kept | told,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Verdict(counts="no counts", failures=[f"it was not done after {LIMIT} s"])
    took = time.monotonic() - started
    try:
        counts, failures = _read(results)
    except (OSError, ET.ParseError, yaml.YAMLError, KeyError) as error:
        log_end = (results / "suite.log").read_text()[-2000:]
        words = f"it left no readable results (exit status {done.returncode}, {error!r}):"
        return Verdict(counts="no counts", failures=[f"{words}\n{log_end}"])
    line = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return Verdict(counts=f"{line} in {took:.1f} s", failures=failures)


def _read(results: Path) -> tuple[dict[str, int], list[str]]:
    """Counts from junit.xml and, from both files, a line for each thing that is not a pass."""
    junit = ET.parse(results / "junit.xml").getroot()
    counts = {kind: int(junit.get(kind, "0")) for kind in ("tests", *NOT_PASSED)}
    failures = [f"{counts[kind]} {kind}" for kind in NOT_PASSED if counts[kind]]
    if counts["tests"] < FEWEST_RESULTS:
        failures.append(f"{counts['tests']} results where there are at least {FEWEST_RESULTS}")
    bad = Counter(
        f"{case.get('name')}: {case.get('status')}"
        for case in junit.iter("testcase")
        if case.get("status") != "passed"
    )
    failures += [f"{line} ({times} times)" for line, times in bad.most_common(SHOWN)]
    if len(bad) > SHOWN:
        failures.append(f"{len(bad) - SHOWN} more kinds; each request is in report.html")
    report = yaml.safe_load((results / "results.yaml").read_text())
    failures += [
        f"{group}: {key}: {value}"
        for group in ("apis", "data")
        for key, value in report[group].items()
        if value != "Pass"
    ]
    return counts, failures

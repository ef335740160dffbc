"""What `make conformance` runs: the official suite and unmodified real clients, on real servers.

Black box: a URL in, a verdict out. Each stage starts registries on loopback with fresh data (or the
one at --url is taken as it is); against its one address go the official suite and, where the stage
says so, the client tests of this folder. A line for each stage tells how it went.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from conformance import tools
from conformance.image import ImageError, examine_image
from conformance.metrics import answers, redirects
from conformance.replicas import NEWS_SECONDS
from conformance.servers import ConformanceError, Servers, Stage, free_port, started
from conformance.suite import Verdict, official

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance.access import Access

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
GO_CLIENTS = ("suite", "oras", "crane", "regctl")
GO_CLIENTS_THAT_LOG_IN = ("helm", "cosign")
S3_SERVERS = ("versitygw", "minio")
PACKAGED = {
    "skopeo": "skopeo",
    "podman": "podman",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
PLAN = (
    Stage(catalog="sqlite", blobs="files", workers=(1,), clients="all"),
    Stage(catalog="sqlite", blobs="files", workers=(2,), clients="all"),
    Stage(catalog="sqlite", blobs="files", workers=(2,), access="tokens", clients="all"),
    Stage(catalog="sqlite", blobs="files", workers=(1,), access="tokens of 60 s", clients="all"),
    Stage(catalog="sqlite", blobs="files", workers=(1,), access="Basic"),
    Stage(catalog="postgres", blobs="files", workers=(1, 2)),
    Stage(catalog="sqlite", blobs="versitygw", workers=(1,)),
    Stage(
        catalog="postgres",
        blobs="minio",
        workers=(1,),
        redirects="large blobs redirected",
        clients="all",
    ),
    Stage(
        catalog="postgres",
        blobs="minio",
        workers=(1,),
        redirects="large blobs redirected",
        access="tokens",
        clients="pipeline",
    ),
    Stage(catalog="postgres", blobs="minio", workers=(1, 2)),
    Stage(catalog="postgres", blobs="minio", workers=(1, 2), redirects="every blob redirected"),
)
# The tests of clients that log in are for these registries, and the others for open ones.
LOGIN, EXPIRY = HERE / "login", HERE / "login" / "test_expiry.py"
PIPELINE = HERE / "login" / "test_pipeline.py"
CLIENT_TESTS: dict[Access, tuple[object, ...]] = {
    "open": (HERE, f"--ignore={LOGIN}"),
    "tokens": (LOGIN, f"--ignore={EXPIRY}"),
    "tokens of 60 s": (EXPIRY,),
}
# Whether the suite keeps what it got to log in with. Of how long a token is good it knows nothing.
CACHE_AUTH: dict[Access, tuple[str, ...]] = {
    "tokens": ("true", "false"),
    "tokens of 60 s": (),
    "Basic": ("true", "false"),
}
COUNTED = ("tests", "skipped")
# OCI_VERSION=dev demands Docker-Content-Digest on the answer that brings a blob. After a redirect
# that answer is S3's, which has no such header to give; ours, the redirect itself, has it. The
# suite's blobs are small: only where every blob is redirected does it come to see this.
DIGEST_HEADER_UNCHECKED = {"OCI_API_BLOBS_DIGEST_HEADER": "false"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running registry, such as http://127.0.0.1:5000")
    url = parser.parse_args().url
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    try:
        prepare([*GO_CLIENTS, *((*GO_CLIENTS_THAT_LOG_IN, *S3_SERVERS) if url is None else ())])
        if url is not None:
            failures = run_given(url)
        else:
            failures = [failure for stage in PLAN for failure in run(stage)] + own_image()
    except (ConformanceError, tools.ToolError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    print("\n".join(["", *(f"FAILED: {failure}" for failure in failures)]))
    print("conformance: " + (f"{len(failures)} failures" if failures else "everything passed"))
    return 1 if failures else 0


def prepare(names: list[str]) -> None:
    """Build the Go programs; see that the packaged ones are there."""
    missing = sorted({PACKAGED[name] for name in PACKAGED if shutil.which(name) is None})
    if missing:
        line = f"apt-get install --no-install-recommends {' '.join(missing)}"
        raise ConformanceError(f"these clients are missing: {', '.join(missing)}\n  {line}")
    tools.build(names)


def run_given(url: str) -> list[str]:
    """The suite and the clients against a registry that somebody else has started."""
    parsed = httpx.URL(url)
    if parsed.scheme != "http" or not parsed.host:
        raise ConformanceError(f"--url takes http://HOST:PORT, not {url}")
    address = f"{parsed.host}:{parsed.port or 80}"
    servers = Servers(address=address, replicas=[address], blobs_tap=None, secrets={}, catalog="")
    failures, counts = examine(servers, OUT, {}, tests=CLIENT_TESTS["open"])
    print(f"{address}: {'; '.join(counts)}", flush=True)
    return failures


def run(stage: Stage) -> list[str]:
    """Start the stage's servers and try them; each failure as a line."""
    results = OUT / stage.folder
    results.mkdir()
    settings = DIGEST_HEADER_UNCHECKED if stage.redirects == "every blob redirected" else {}
    with started(stage, results) as servers:
        failures, counts = examine(
            servers, results, settings, stage.access, tests=client_tests(stage)
        )
        failures += where_answered(stage, servers)
        counts += notes(stage, servers)
    print(f"{stage.name}: {'; '.join(counts)}", flush=True)
    return [f"{stage.name}: {failure}" for failure in failures]


def client_tests(stage: Stage) -> tuple[object, ...]:
    """Which client tests the stage has, as pytest takes them."""
    if stage.clients == "all":
        return CLIENT_TESTS[stage.access]
    return (PIPELINE,) if stage.clients == "pipeline" else ()


def examine(
    servers: Servers,
    results: Path,
    settings: Mapping[str, str],
    access: Access = "open",
    *,
    tests: tuple[object, ...],
) -> tuple[list[str], list[str]]:
    """The suite, then the client tests if there are any; the failures, and the counts."""
    if access == "open":
        verdicts = [official(servers.address, results, settings)]
    else:
        caches = CACHE_AUTH[access]
        verdicts = [suite_that_logs_in(servers, results, settings, cache) for cache in caches]
    if tests:
        verdicts.append(real_clients(servers, results, tests))
    failures = [failure for verdict in verdicts for failure in verdict.failures]
    return failures, [verdict.counts for verdict in verdicts]


def suite_that_logs_in(
    servers: Servers, results: Path, settings: Mapping[str, str], cache: str
) -> Verdict:
    """The suite with a robot's key, which keeps what it got to log in with, or asks each time."""
    login = {"OCI_USERNAME": "ci", "OCI_PASSWORD": servers.secrets["ci"]}
    folder = results / f"auth-cache-{cache}"
    folder.mkdir()
    verdict = official(servers.address, folder, {**settings, **login, "OCI_CACHE_AUTH": cache})
    named = f"auth cache {cache}: "
    failures = [f"{named}{failure}" for failure in verdict.failures]
    return Verdict(counts=f"{named}{verdict.counts}", failures=failures)


def where_answered(stage: Stage, servers: Servers) -> list[str]:
    """What shows that the stage was not what its name says."""
    asked = [answers(address) for address in servers.replicas]
    redirected = sum(map(redirects, servers.replicas))
    failures = []
    if min(asked) * 3 * len(asked) < sum(asked) * 2:
        failures.append(f"the replicas did not share the work: {asked} requests")
    if stage.redirects == "no redirects" and redirected:
        failures.append(f"{redirected} downloads were redirected")
    if stage.redirects != "no redirects" and not redirected:
        failures.append("no download was redirected")
    return failures


def notes(stage: Stage, servers: Servers) -> list[str]:
    """What to know about the stage beside its counts."""
    said = []
    if len(servers.replicas) > 1:
        shares = " + ".join(f"{answers(address):,}" for address in servers.replicas)
        wait = f"{NEWS_SECONDS * 1000:.0f} ms"
        said.append(f"{shares} requests by turns, reads {wait} after a deletion")
    if stage.redirects != "no redirects":
        said.append(f"{sum(map(redirects, servers.replicas)):,} downloads redirected")
    if stage.redirects == "every blob redirected":
        said.append("blobs' Docker-Content-Digest NOT checked: S3 cannot send it")
    return said


def real_clients(servers: Servers, results: Path, tests: tuple[object, ...]) -> Verdict:
    """The client tests, by their own runner; a skipped one has failed."""
    report, log = results / "clients.xml", results / "clients.log"
    command = [
        *(sys.executable, "-m", "pytest", *map(str, tests), "--quiet", "--durations=5"),
        f"--junit-xml={report}",
    ]
    environment = os.environ | {
        "CONFORMANCE_REGISTRY": servers.address,
        "CONFORMANCE_SECRETS": json.dumps(dict(servers.secrets)),
        "CONFORMANCE_CATALOG": servers.catalog,
    }
    environment.pop("CONFORMANCE_BLOBS_TAP", None)
    if servers.blobs_tap is not None:
        environment["CONFORMANCE_BLOBS_TAP"] = str(servers.blobs_tap)
    began = time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    took = time.monotonic() - began
    ran = skipped = 0
    if report.is_file():
        runs = list(ET.parse(report).iter("testsuite"))
        ran, skipped = (sum(int(each.get(kind, "0")) for each in runs) for kind in COUNTED)
    failures = []
    if skipped:
        failures.append(f"{skipped} client tests were skipped: a skip is a failure here")
    if done.returncode != 0 or not ran:
        print(log.read_text())
        failures.append("real clients; see above")
    return Verdict(counts=f"{ran} client tests in {took:.0f} s", failures=failures)


def own_image() -> list[str]:
    """The Dockerfile's image, pushed to itself; a failure as a line."""
    try:
        examine_image(free_port(), OUT)
    except ImageError as error:
        return [f"image: {error}"]
    return []


if __name__ == "__main__":
    sys.exit(main())

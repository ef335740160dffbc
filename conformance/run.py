"""What `make conformance` runs: the official suite and unmodified real clients, on real servers.

Black box: a URL in, a verdict out. A registry is started on loopback with fresh data for each
number of workers (or the one at --url is taken as it is); against each go the official suite and
the client tests of this folder. The suite's verdict is read from the files it writes, because its
exit status is 0 when checks were skipped and when it could not write a report at all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import yaml

from conformance.image import ImageError, examine_image
from conformance.replicas import postgres_catalog, round_robin

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
GO_TOOLS = ("suite", "oras", "crane", "regctl")
PACKAGED = {
    "skopeo": "skopeo",
    "podman": "podman",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
WORKERS = (1, 2)
SERVE = (
    "{program} serve --catalog {catalog} --blobs file:///{folder}/blobs"
    " --host 127.0.0.1 --port {port} --workers {workers}"
)
LADING = Path(sys.executable).parent / "lading"
START_LIMIT = 30  # seconds
STOP_LIMIT = 30  # seconds: longer than any drain these tests can leave running
SUITE_LIMIT = 300  # seconds; it takes 1 to 10
SUITE_SETTINGS = {"OCI_TLS": "disabled", "OCI_VERSION": "dev", "OCI_DATA_SPARSE": "true"}
# The pinned suite has at least this many results with these settings (a few more where a mount
# saves it an upload). A run that broke off has fewer, and none of those need be a failure.
FEWEST_RESULTS = 1_028
SHOWN = 30  # failing checks named on the terminal; a registry without sha512 fails 200
NOT_PASSED = ("failures", "errors", "skipped", "disabled")


class ConformanceError(Exception):
    """Nothing could be tested; the message says what is wrong and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running registry, such as http://127.0.0.1:5000")
    url = parser.parse_args().url
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    try:
        prepare()
        failures = [] if url is None else examine(address_of(url), "given")
        for workers in WORKERS if url is None else ():
            with embedded(workers) as address:
                failures += examine(address, f"workers-{workers}")
        if url is None:
            with two_replicas() as address:
                failures += official(address, "replicas-postgres")
            failures += own_image()
    except ConformanceError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    print("\n".join(["", *(f"FAILED: {failure}" for failure in failures)]))
    print("conformance: " + (f"{len(failures)} failures" if failures else "everything passed"))
    return 1 if failures else 0


def prepare() -> None:
    """Build the Go programs; see that the packaged ones are there."""
    missing = sorted({PACKAGED[name] for name in PACKAGED if shutil.which(name) is None})
    if missing:
        line = f"apt-get install --no-install-recommends {' '.join(missing)}"
        raise ConformanceError(f"these clients are missing: {', '.join(missing)}\n  {line}")
    built = subprocess.run([sys.executable, str(HERE / "tools.py"), *GO_TOOLS], check=False)
    if built.returncode != 0:
        raise ConformanceError("the Go clients could not be built; see above")


def address_of(url: str) -> str:
    parsed = httpx.URL(url)
    if parsed.scheme != "http" or not parsed.host:
        raise ConformanceError(f"--url takes http://HOST:PORT, not {url}")
    return f"{parsed.host}:{parsed.port or 80}"


def examine(address: str, name: str) -> list[str]:
    """The suite, then the clients; each failure as a line."""
    failures = official(address, name)
    print(f"\n== {name}: real clients", flush=True)
    if not clients(address, OUT / name):
        failures.append(f"{name}: real clients; see above")
    return failures


def official(address: str, name: str) -> list[str]:
    """The suite; each failure as a line."""
    print(f"\n== {name}: the official suite", flush=True)
    return [f"{name}: suite: {failure}" for failure in suite(address, OUT / name)]


def own_image() -> list[str]:
    """The Dockerfile's image, pushed to itself; a failure as a line."""
    print("\n== image: built, started, pushed to itself", flush=True)
    try:
        examine_image(free_port(), OUT)
    except ImageError as error:
        return [f"image: {error}"]
    return []


def suite(address: str, results: Path) -> list[str]:
    """Run the official suite; everything in its results that is not a pass."""
    results.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
    settings = SUITE_SETTINGS | {"OCI_REGISTRY": address, "OCI_RESULTS_DIR": str(results)}
    started = time.monotonic()
    try:
        with (results / "suite.log").open("w") as log:
            done = subprocess.run(
                [str(HERE / ".tools" / "bin" / "suite")],
                cwd=results,  # it would read an oci-conformance.yaml where it stands
                env=kept | settings,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=SUITE_LIMIT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return [f"it was not done after {SUITE_LIMIT} s"]
    took = time.monotonic() - started
    try:
        counts, failures = verdict(results)
    except (OSError, ET.ParseError, yaml.YAMLError, KeyError) as error:
        log_end = (results / "suite.log").read_text()[-2000:]
        return [
            f"it left no readable results (exit status {done.returncode}, {error!r}):\n{log_end}"
        ]
    print(", ".join(f"{counts[kind]} {kind}" for kind in counts) + f" in {took:.1f} s")
    return failures


def verdict(results: Path) -> tuple[dict[str, int], list[str]]:
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
    for group in ("apis", "data"):
        statuses = report[group]
        failures += [
            f"{group}: {key}: {value}" for key, value in statuses.items() if value != "Pass"
        ]
        print(f"{group}: {dict(Counter(statuses.values()))}")
    return counts, failures


def clients(address: str, results: Path) -> bool:
    """Whether every client test passed; a skipped one did not."""
    report = results / "clients.xml"
    command = [
        *(sys.executable, "-m", "pytest", str(HERE), "--quiet", "--durations=5"),
        f"--junit-xml={report}",
    ]
    environment = os.environ | {"CONFORMANCE_REGISTRY": address}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, check=False)
    if not report.is_file():
        return False
    skipped = sum(int(run.get("skipped", "0")) for run in ET.parse(report).iter("testsuite"))
    if skipped:
        print(f"{skipped} client tests were skipped: a skip is a failure here")
    return done.returncode == 0 and not skipped


@contextlib.contextmanager
def embedded(workers: int) -> Iterator[str]:
    """A registry on its embedded default with fresh data, until the block is left."""
    with (
        tempfile.TemporaryDirectory(prefix="conformance-") as folder,
        server(folder, f"sqlite:///{folder}/catalog.db", workers) as port,
    ):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def two_replicas() -> Iterator[str]:
    """Two registries that share PostgreSQL and a blob folder, behind one address."""
    with (
        tempfile.TemporaryDirectory(prefix="conformance-") as folder,
        postgres_catalog(LADING) as catalog,
        server(folder, catalog, 1) as one,
        server(folder, catalog, 2) as two,
        round_robin([one, two]) as address,
    ):
        yield address


@contextlib.contextmanager
def server(folder: str, catalog: str, workers: int) -> Iterator[int]:
    """A registry on a free loopback port, until the block is left."""
    port = free_port()
    template = os.environ.get("LADING_COMMAND", SERVE)
    command = shlex.split(
        template.format(program=LADING, folder=folder, catalog=catalog, port=port, workers=workers)
    )
    # A machine's own LADING_ settings must not change what is tested.
    plain = {key: value for key, value in os.environ.items() if not key.startswith("LADING_")}
    log = OUT / f"server-{port}.log"
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=plain
            )
        except OSError as error:
            raise ConformanceError(f"{command[0]} cannot be started: {error}") from error
    try:
        wait_until_ready(process, port, log)
        yield port
    finally:
        stop(process)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        # A registry that knows no /readyz is ready when it speaks the protocol.
        state = status(f"http://127.0.0.1:{port}/readyz")
        if state == 404:
            state = status(f"http://127.0.0.1:{port}/v2/")
        if state == 200:
            return
        time.sleep(0.05)
    end = "ended" if process.poll() is not None else f"was not ready in {START_LIMIT} s"
    raise ConformanceError(f"the registry {end}; it said:\n{log.read_text()[-4000:]}")


def status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code
    except httpx.TransportError:
        return None


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"the registry did not stop within {STOP_LIMIT} s of SIGTERM; killed", flush=True)
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

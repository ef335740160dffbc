"""MLflow's own server: pinned, in an environment of its own, filled with the same population.

It is never a dependency of ours: it is installed below `bench/out`. Metrics lie with the runs that
made the versions, where MLflow keeps them and where its search of versions does not look.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.filling import Rows
from bench.load import OUT, LoadError
from bench.peers import Launch, Peer
from bench.population import ALIASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.population import Population, Version

PIN = "mlflow==3.17.2"
_HOME = OUT / "mlflow"
# It tells its makers of its use unless it is told not to, and runs jobs beside the server.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def install() -> Peer:
    """Return the server, installed if it is not there. Raises LoadError."""
    stamp = _HOME / "installed"
    if not stamp.exists() or stamp.read_text() != PIN:
        print(f"bench: installing {PIN}", file=sys.stderr, flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(_HOME)],
            [str(_HOME / "bin" / "pip"), "install", "--quiet", PIN],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LoadError(f"{PIN} cannot be installed:\n{done.stderr[-500:]}")
        stamp.write_text(PIN)
    os.environ.update(QUIET)
    return Peer(
        name="mlflow",
        program=str(_HOME / "bin" / "mlflow"),
        command=_serve,
        version=("--version",),
        durable="SQLite as SQLAlchemy opens it",
        alive="/health",
    )


def _serve(launch: Launch) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(launch.port), "--allowed-hosts", "*"]
    place = ["--backend-store-uri", "sqlite:///data/mlflow.db", "--no-serve-artifacts"]
    workers = ["--workers", str(launch.workers)]
    logs = ["--uvicorn-opts", "--log-level error --no-access-log"]
    return [launch.program, "server", *place, *address, *workers, *logs]


def rows(population: Population) -> Iterator[Rows]:
    """Yield what its database has in it once they are logged, registered and given aliases."""
    for batch in population.batches():
        versions = [list(population.versions(of)) for of in batch]
        every = [version for each in versions for version in each]
        yield from _of_runs(every)
        yield _models([each[0] for each in versions])
        yield from _of_versions(every)
        yield Rows(
            "registered_model_aliases",
            ("name", "alias", "version"),
            [
                (each[0].model, name, each[max(0, len(each) - 1 - behind)].number)
                for each in versions
                for name, behind in ALIASES.items()
            ],
        )


def _of_runs(versions: list[Version]) -> Iterator[Rows]:
    yield Rows(
        "runs",
        ("run_uuid", "name", "source_type", "user_id", "status", "start_time", "end_time",
         "lifecycle_stage", "artifact_uri", "experiment_id"),
        [
            (_run(each), f"run of {each.model}", "JOB", "anyone", "FINISHED", _ms(each), _ms(each),
             "active", f"mlflow-artifacts:/0/{_run(each)}/artifacts", 0)
            for each in versions
        ],
    )  # fmt: skip
    metrics = [
        (key, value, _ms(each), _run(each), 0, 0)
        for each in versions
        for key, value in each.metrics.items()
    ]
    columns = ("key", "value", "timestamp", "run_uuid", "step", "is_nan")
    yield Rows("metrics", columns, metrics)
    yield Rows("latest_metrics", columns, metrics)


def _models(first: list[Version]) -> Rows:
    return Rows(
        "registered_models",
        ("name", "creation_time", "last_updated_time"),
        [(each.model, _ms(each), _ms(each)) for each in first],
    )


def _of_versions(versions: list[Version]) -> Iterator[Rows]:
    yield Rows(
        "model_versions",
        ("name", "version", "creation_time", "last_updated_time", "user_id", "current_stage",
         "source", "run_id", "status"),
        [
            (each.model, each.number, _ms(each), _ms(each), "anyone", "None",
             f"mlflow-artifacts:/0/{_run(each)}/artifacts/model", _run(each), "READY")
            for each in versions
        ],
    )  # fmt: skip
    yield Rows(
        "model_version_tags",
        ("name", "version", "key", "value"),
        [
            (each.model, each.number, key, value)
            for each in versions
            for key, value in each.tags.items()
        ],
    )


def _run(version: Version) -> str:
    return version.digest.partition(":")[2][:32]


def _ms(version: Version) -> int:
    return int(version.at * 1000)

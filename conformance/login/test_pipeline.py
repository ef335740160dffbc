"""A model's way to production, as a pipeline goes it: pushed by oras, approved, promoted, pulled,
rolled back, by robots and people who may each do their part of it and nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx
import pytest

from conformance.login.clients import Oras

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.conftest import Program
    from conformance.login.conftest import MakeClient

LADING = Path(sys.executable).parent / "lading"
COMMIT, IMAGE = "c0ffee" + "0" * 34, "sha256:" + "1" * 64
NOT_COUNTED = "0 of 2"


class MakeLading(Protocol):
    """The command in the hands of one of them."""

    def __call__(self, name: str) -> Program: ...


@pytest.fixture
def lading(make_client: MakeClient, registry: str, known: dict[str, str]) -> MakeLading:
    def make(name: str) -> Program:
        at_home = make_client(Oras, None).oras
        who = {
            "LADING_SERVER": f"http://{registry}",
            "LADING_USER": name,
            "LADING_PASSWORD": known[name],
        }
        return replace(at_home, path=LADING, environment={**at_home.environment, **who})

    return make


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What builds models: it pushes what it trained, with what it knows of that."""

    oras: Program
    remote: str
    folder: Path

    def build(self, tag: str, f1: float, run: str) -> bytes:
        """Push a model that nobody has seen before, and return its weights."""
        weights = secrets.token_bytes(300_000)
        (self.folder / "model.safetensors").write_bytes(weights)
        said = {
            "framework": "pytorch",
            "metrics": json.dumps({"f1": f1}),
            "run.id": run,
            "dataset.version": "claims@2026-11",
            "code.commit": COMMIT,
            "container.image": IMAGE,
        }
        told = [each for key, text in said.items() for each in annotation(key, text)]
        self.oras(
            *("push", "--plain-http", "--artifact-type", "application/vnd.conformance.model"),
            *(*told, f"{self.remote}:{tag}", "model.safetensors"),
            cwd=self.folder,
        )
        return weights


def annotation(key: str, text: str) -> tuple[str, str]:
    return "--annotation", f"io.lading.{key}={text}"


@pytest.fixture
def pipeline(make_client: MakeClient, remote: str, tmp_path: Path) -> Pipeline:
    folder = tmp_path / "built"
    folder.mkdir()
    return Pipeline(oras=make_client(Oras, "ci").oras, remote=remote, folder=folder)


@pytest.fixture
def gate(lading: MakeLading, repository: str) -> None:
    """Set up what a version of the model must pass to be put into production."""
    asked = {
        "model": repository,
        "alias": "prod",
        "rules": ["version.metrics.f1 >= 0.9"],
        "approvals": 2,
        "lineage": True,
    }
    gate_id = repository.replace("/", ".")
    lading("olga")("gate", "put", "-", "--id", gate_id, given=json.dumps(asked).encode())


@pytest.fixture
def pulled(make_client: MakeClient, remote: str, tmp_path: Path) -> Pulls:
    return Pulls(oras=make_client(Oras, "bob").oras, remote=remote, folder=tmp_path)


@pytest.fixture
def export(registry: str, known: dict[str, str]) -> Callable[[], list[bytes]]:
    """The audit's lines, page by page, as who may read it has them from the registry."""

    def lines() -> list[bytes]:
        found: list[bytes] = []
        headers = {"Accept": "application/x-ndjson"}
        auth = httpx.BasicAuth("olga", known["olga"])
        with httpx.Client(base_url=f"http://{registry}", auth=auth, trust_env=False) as client:
            while True:
                asked = {"after": len(found), "limit": 500}
                answer = client.get("/v1/audit", params=asked, headers=headers)
                assert answer.status_code == 200, answer.text
                if not answer.content:
                    return found
                found += answer.content.splitlines(keepends=True)

    return lines


@dataclass(frozen=True, kw_only=True)
class Pulls:
    """bob, who pulls what is in production."""

    oras: Program
    remote: str
    folder: Path

    def __call__(self, tag: str) -> bytes:
        back = self.folder / secrets.token_hex(4)
        self.oras("pull", "--plain-http", "--output", back, f"{self.remote}:{tag}")
        return (back / "model.safetensors").read_bytes()


def finish(ci: Program, run: str) -> None:
    ci("run", "put", run, "--finished", datetime.now(UTC).isoformat())


def approve(lading: MakeLading, repository: str, version: int) -> None:
    for name in ("bob", "carol"):
        lading(name)("approve", repository, str(version), "prod", "--comment", "looks right")


@pytest.mark.usefixtures("gate")
def test_a_model_goes_to_production_and_back(
    lading: MakeLading, pipeline: Pipeline, pulled: Pulls, repository: str
) -> None:
    ci, mia, run = lading("ci"), lading("mia"), f"run-{secrets.token_hex(4)}"
    old = pipeline.build("build-1", 0.91, f"{run}a")
    # It was registered by being pushed.
    first = json.loads(ci("versions", "show", repository, "1", "--json"))
    assert first["created_by"] == "robot:ci"
    assert first["metrics"] == {"f1": 0.91}
    assert pulled("v1") == old
    refused = mia.refused("promote", repository, "1", "prod", "--reason", "first")
    assert NOT_COUNTED in refused
    assert f"run {run}a has not finished" in refused
    finish(ci, f"{run}a")
    approve(lading, repository, 1)
    mia("promote", repository, "1", "prod", "--reason", "first")
    assert pulled("prod") == old

    new = pipeline.build("build-2", 0.5, f"{run}b")
    finish(ci, f"{run}b")
    refused = mia.refused("promote", repository, "2", "prod", "--reason", "better")
    assert "version.metrics.f1 >= 0.9" in refused
    assert NOT_COUNTED in refused
    assert "has not finished" not in refused
    approve(lading, repository, 2)
    refused = mia.refused("promote", repository, "2", "prod", "--check")
    assert "version.metrics.f1 >= 0.9" in refused
    assert NOT_COUNTED not in refused
    assert pulled("prod") == old

    ci("evaluate", repository, "2", "--metric", "f1=0.95", "--dataset", "holdout@3")
    mia("promote", repository, "2", "prod", "--reason", "better", "--expected", "1")
    assert pulled("prod") == new
    assert pulled("v1") == old
    mia("rollback", repository, "prod", "--reason", "bad scores")
    assert pulled("prod") == old
    told = json.loads(mia("alias", "history", repository, "prod", "--json"))["moves"]
    assert [(each["from_version"], each["version"], each["reason"]) for each in told] == [
        (2, 1, "bad scores"),
        (1, 2, "better"),
        (None, 1, "first"),
    ]


@pytest.mark.usefixtures("gate")
def test_no_other_door_leads_to_production(
    lading: MakeLading, pipeline: Pipeline, pulled: Pulls, repository: str, remote: str
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    old = pipeline.build("build-1", 0.95, run)
    finish(lading("ci"), run)
    approve(lading, repository, 1)
    lading("mia")("promote", repository, "1", "prod", "--reason", "first")
    pipeline.build("build-2", 0.99, f"{run}b")
    oras = pipeline.oras
    for way in (
        ("tag", "--plain-http", f"{remote}:build-2", "prod"),
        ("tag", "--plain-http", f"{remote}:build-2", "v1"),
        ("manifest", "delete", "--plain-http", "--force", f"{remote}:prod"),
        ("manifest", "delete", "--plain-http", "--force", f"{remote}:v1"),
    ):
        oras.refused(*way)
    for name in ("ci", "bob", "olga"):
        lading(name).refused("promote", repository, "2", "prod", "--expected", "1")
    # Who makes a version or the move has no say in whether it is good.
    lading("ci").refused("approve", repository, "2", "prod")
    lading("mia").refused("approve", repository, "2", "prod")
    assert pulled("prod") == old
    assert pulled("v1") == old


@pytest.mark.usefixtures("gate")
def test_what_was_done_is_in_an_audit_that_is_whole(
    lading: MakeLading,
    pipeline: Pipeline,
    export: Callable[[], list[bytes]],
    repository: str,
    tmp_path: Path,
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    pipeline.build("build-1", 0.95, run)
    finish(lading("ci"), run)
    approve(lading, repository, 1)
    lading("mia")("promote", repository, "1", "prod", "--reason", "first")
    verify = lading("olga")
    lines = export()
    kept = tmp_path / "audit"
    kept.write_bytes(b"".join(lines))
    whole = verify("audit", "verify", kept)
    assert f"{len(lines):,} events" in whole
    head = whole.split()[-1]
    catalog = os.environ["CONFORMANCE_CATALOG"]
    if catalog:
        printed = verify.raw("audit", "export", "--catalog", catalog)
        assert printed.splitlines(keepends=True)[: len(lines)] == lines
        assert "head" in verify("audit", "verify", given=printed)
    events = [json.loads(line) for line in lines]
    told = [
        (each["action"], each["actor"])
        for each in events
        if each["subject"] == repository and each["outcome"] == "done"
    ]
    assert told == [
        ("register", "robot:ci"),
        ("approve", "user:bob"),
        ("approve", "user:carol"),
        ("promote", "user:mia"),
    ]
    number = next(at for at, each in enumerate(events) if each["action"] == "approve")
    kept.write_bytes(b"".join([*lines[:number], *lines[number + 1 :]]))
    assert "missing" in verify.refused("audit", "verify", kept)
    # Nothing in what is left tells that the end was cut off: only who kept the head sees it.
    kept.write_bytes(b"".join(lines[:-1]))
    assert "ends too soon" in verify.refused("audit", "verify", "--head", head, kept)
    kept.write_bytes(b"".join(lines).replace(b"user:carol", b"user:caroI"))
    assert "was changed" in verify.refused("audit", "verify", kept)

"""The Dockerfile and compose.yaml name what is there: settings, services, volumes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from ociserver.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = {f"LADING_{one.name.upper()}" for one in fields(Settings)}


@pytest.fixture
def services() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    found: dict[str, Any] = loaded["services"]
    return found


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml"])
def test_every_variable_is_a_setting(file: str) -> None:
    named = set(re.findall(r"LADING_[A-Z_]+", (ROOT / file).read_text("utf-8")))
    assert named
    assert named <= VARIABLES


def test_both_replicas_start_after_the_catalog_is_migrated(services: dict[str, Any]) -> None:
    assert services["registry"]["deploy"]["replicas"] == 2
    waits = services["registry"]["depends_on"]
    assert waits["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["command"] == ["migrate"]


def test_what_a_service_waits_for_can_come_to_pass(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                # Lading's own image brings its check.
                assert "build" in services[name] or "test" in services[name]["healthcheck"]
            else:
                assert "restart" not in services[name]


def test_nothing_is_reachable_from_outside_the_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5000:5000"]


def test_every_secret_can_be_given_and_its_default_says_what_it_is() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    secrets = re.findall(r"\$\{(\w+)(.*?)\}", text)
    assert {name for name, _ in secrets} == {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert {default for _, default in secrets} == {":-insecure-default"}

"""A registry with rules: what is in force there, and who logs in, added as an operator does it."""

from __future__ import annotations

import secrets
import subprocess
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Access = Literal["open", "tokens", "tokens of 60 s", "Basic"]

# ann and the robot ci push below conformance/, where bob and carol pull and approve, and mia moves
# aliases. olga sets up gates and reads the audit, and pulls nothing. Nobody else gets in anywhere.
PEOPLE = ("ann", "bob", "carol", "mia", "olga")
RULES = """
[[rule]]
who = ["user:ann", "robot:ci"]
may = ["pull", "push", "delete", "register"]
on = "conformance/**"

[[rule]]
who = ["user:bob", "user:carol"]
may = ["pull", "approve"]
on = "conformance/**"

[[rule]]
who = "user:mia"
may = ["pull", "promote"]
on = "conformance/**"

[[rule]]
who = "user:olga"
may = ["admin", "read-audit"]
on = "**"
"""
SETTINGS: dict[Access, Mapping[str, str]] = {
    "open": {},
    "tokens": {"LADING_CHALLENGE": "bearer"},
    "tokens of 60 s": {"LADING_CHALLENGE": "bearer", "LADING_TOKEN_SECONDS": "60s"},
    "Basic": {"LADING_CHALLENGE": "basic"},
}


def put_in_force(access: Access, folder: Path) -> dict[str, str]:
    """Write the rules; the settings by which a registry obeys them."""
    if access == "open":
        return {}
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    # The clients' tests show wrong passwords more often than one person would from one address.
    patience = {"LADING_LOGIN_FAILURES": "1000"}
    return {**SETTINGS[access], **patience, "LADING_RULES": str(rules)}


def add_everyone(lading: Path, catalog: str) -> dict[str, str]:
    """Add the people and the robot ci; each one's secret."""
    known = {name: secrets.token_urlsafe(12) for name in PEOPLE}
    for name, password in known.items():
        told = ("user", "add", name, "--password-stdin", "--catalog", catalog)
        subprocess.run([lading, *told], input=f"{password}\n", text=True, check=True)
    command = [str(lading), "robot", "add", "ci", "--catalog", catalog]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**known, "ci": shown.stdout.strip()}

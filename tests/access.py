"""A registry with rules, and people and robots that log in to it."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import httpx

from ociserver import people
from tests.serving import Served
from tests.wire.raw import eventually

RULES = """
[[rule]]
who = ["user:ann", "robot:ci"]
may = ["pull", "push", "delete"]
on = "team/**"

[[rule]]
who = "user:bob"
may = "pull"
on = "team/**"

[[rule]]
who = "anyone"
may = "pull"
on = "public/**"

[[rule]]
who = "user:ann"
may = "push"
on = "public/**"
"""


def run(kind: str, *arguments: str, catalog: str, stdin: str | io.StringIO = "") -> str:
    """Run `lading user` or `lading robot` in this process; return what it printed."""
    printed = io.StringIO()
    command = {"user": people.user, "robot": people.robot}[kind]
    typed = io.StringIO(stdin) if isinstance(stdin, str) else stdin
    with patch.object(sys, "stdin", typed), contextlib.redirect_stdout(printed):
        status = command([*arguments, "--catalog", catalog])
    assert status == 0, printed.getvalue()
    return printed.getvalue().strip()


class Guarded(Served):
    """A registry with rules. `secrets` are those of ann, bob and the robot ci."""

    rules_file: Path
    secrets: dict[str, str]

    @property
    def catalog(self) -> str:
        if "--catalog" in self.options:
            return self.options[self.options.index("--catalog") + 1]
        return f"sqlite:///{self.data}/catalog.db"

    def admit(self) -> Guarded:
        """Add everyone, and start."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.secrets = {}
        for name in ("ann", "bob"):
            self.secrets[name] = f"password of {name}"
            run("user", "add", name, "--password-stdin", catalog=self.catalog,
                stdin=f"{self.secrets[name]}\n")  # fmt: skip
        self.secrets["ci"] = run("robot", "add", "ci", catalog=self.catalog)
        return self._begin()

    def join(self, other: Guarded) -> Guarded:
        """Start on the catalog of another, with a rule file of its own."""
        self.secrets = other.secrets
        return self._begin()

    def _begin(self) -> Guarded:
        self.data.mkdir(parents=True, exist_ok=True)
        self.rules_file = self.data / "rules.toml"
        self.rules_file.write_text(RULES)
        self.options = ("--rules", str(self.rules_file), *self.options)
        self.start()
        return self

    def change_rules(self, text: str) -> None:
        """Put other rules in force."""
        said = "new rules are in force"
        before = self.log.count(said)
        self.rules_file.write_text(text)
        eventually(lambda: self.log.count(said) > before)

    def wait_for_news(self) -> None:
        """Let everything that was recorded before come to be known."""
        time.sleep(0.5)

    def events(self) -> list[tuple[str, str, str, str]]:
        """Return actor, action, subject and outcome of everything in the audit."""
        with contextlib.closing(sqlite3.connect(self.data / "catalog.db")) as database:
            found = database.execute("SELECT actor, action, subject, outcome FROM audit_event")
            return found.fetchall()

    def basic(self, name: str) -> httpx.BasicAuth:
        """Return the credentials of one of them."""
        return httpx.BasicAuth(name, self.secrets[name])

    def token(self, name: str | None, *scopes: str, client: httpx.Client | None = None) -> str:
        """Return a token for these scopes, of one of them or of nobody."""
        with contextlib.ExitStack() as stack:
            asking = client or stack.enter_context(self.client())
            answer = asking.get(
                "/token",
                params={"service": "lading", "scope": list(scopes)},
                auth=self.basic(name) if name else None,
            )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def bearer(self, name: str | None, *scopes: str) -> dict[str, str]:
        """Return headers with such a token."""
        return {"Authorization": f"Bearer {self.token(name, *scopes)}"}


@contextlib.contextmanager
def guarded(data: Path, options: Sequence[str] = ()) -> Iterator[Guarded]:
    """Give a registry with rules that runs, and stop it."""
    served = Guarded(data, options=tuple(options))
    try:
        yield served.admit()
    finally:
        served.stop()

"""The rule file as it is now: read again when it changes, the last good one kept on error."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from stat import S_ISREG
from typing import Literal

from ociserver.auth.audit import Audit
from ociserver.auth.records import AuditEvent
from ociserver.auth.rules import Rules, RulesInvalid

log = logging.getLogger("lading.auth")

_Stamp = tuple[int, int, int]


def read_rules(path: Path) -> Rules:
    """Return the rules of the file. Raises RulesInvalid, also where it cannot be read."""
    try:
        # A pipe would be read once, and then waited for by the thread that answers everyone.
        if not S_ISREG(path.stat().st_mode):
            raise RulesInvalid([f"it cannot be read again and again: {path} is no regular file"])
        return Rules.parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RulesInvalid([f"it cannot be read: {error}"]) from error


class RuleBook:
    """The rules in force. `version` grows when they change."""

    def __init__(self, path: Path, audit: Audit) -> None:
        self._path = path
        self._audit = audit
        self._stamp = self._seen = _stamp(path)
        self.rules = read_rules(path)
        self.version = 0

    def in_force(self) -> tuple[Rules, int]:
        """Return the rules and their version."""
        return self.rules, self.version

    def look(self) -> None:
        """Read the file again if it is not the one last read, and nobody is writing to it now.

        Half a file may be a good one, with half of the rules.
        """
        stamp, before = _stamp(self._path), self._seen
        self._seen = stamp
        if stamp == self._stamp or stamp != before:
            return
        self._stamp = stamp
        try:
            rules = read_rules(self._path)
        except RulesInvalid as error:
            log.warning(
                "the rules cannot be used: the last good ones stay in force",
                extra={"fields": {"file": str(self._path), "problems": error.problems}},
            )
            self._note("failed", {"problems": list(error.problems)})
            return
        if rules != self.rules:
            self.rules = rules
            self.version += 1
            log.info("new rules are in force", extra={"fields": {"file": str(self._path)}})
            self._note("done", {"rules": len(rules.rules)})

    def _note(self, outcome: Literal["done", "failed"], detail: dict[str, object]) -> None:
        self._audit.note(
            AuditEvent(
                at=time.time(),
                actor="lading",
                action="change-rules",
                subject=str(self._path),
                outcome=outcome,
                detail=detail,
            )
        )


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

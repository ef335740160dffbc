"""`lading` as a person or a pipeline runs it, in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from ociserver import cli


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Commands:
    """The command beside one registry, in an environment that has nothing else of ours."""

    server: str
    home: str = "/nonexistent"

    def __call__(self, *arguments: object, stdin: str = "", **variables: str) -> Ended:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LADING_")}
        kept.pop("DOCKER_CONFIG", None)
        environment = {**kept, "HOME": self.home, "LADING_SERVER": self.server, **variables}
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with (
            patch.dict(os.environ, environment, clear=True),
            patch.object(sys, "stdin", given),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                status = cli.main([str(each) for each in arguments])
            except SystemExit as ended:  # argparse says so
                status = int(ended.code or 0)
        return Ended(status, out.getvalue(), err.getvalue())

    def done(self, *arguments: object, **given: str) -> str:
        """Run it; return what it printed, once it has done what it was asked."""
        ended = self(*arguments, **given)
        assert ended.status == 0, ended
        return ended.out

    def json(self, *arguments: object, **given: str) -> Any:
        """Do the same with --json; return the document."""
        return json.loads(self.done(*arguments, "--json", **given))


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, split where a row has two blanks."""
    return [line.split("  ") for line in text.splitlines()[1:]]

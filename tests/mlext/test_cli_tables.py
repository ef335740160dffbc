# What people read: it fits, and nothing that somebody wrote does more to a terminal than be read.
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.cli import tables
from mlext.cli.aliases import check_text
from mlext.cli.audit import events_text
from mlext.cli.client import CommandFailed
from mlext.cli.gates import asks
from mlext.cli.lineage import lineage_text
from mlext.cli.models import differing, version_table

DIGEST = "sha256:" + "4bf5122f" * 8
BASE = "sha256:" + "6e340b9c" * 8


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), ("", "-"), ([], "-"), ({}, "-"), (0, "0"), (False, "no"), (True, "yes"),
        (0.1 + 0.2, "0.3"), (1.0, "1"), (1e-9, "1e-09"), (1234567.0, "1.23457e+06"),
        ("2026-11-25T03:00:00.123456Z", "2026-11-25 03:00:00Z"),
        (f"of {DIGEST}", "of sha256:4bf5122f4bf5"),
        ({"f1": 0.9, "loss": 1}, "f1=0.9 loss=1"), (["a", "b"], "a, b"),
        ("\x1b[31mred\nline\u202e", "?[31mred?line?"),
    ],
)  # fmt: skip
def test_a_value_is_shown_short_and_on_one_line(value: object, shown: str) -> None:
    assert tables.plain(value) == shown


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert tables.table(["A", "NAME"], [["x", "模型"], ["longer", "y"]]) == (
        "A       NAME\nx       模型\nlonger  y\n"
    )
    assert tables.table(["A", "B"], []) == "A  B\n"


@given(
    st.lists(st.lists(st.text(max_size=60), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(min_value=30, max_value=200),
)
def test_a_table_fits_the_terminal(rows: list[list[str]], width: int) -> None:
    shown = tables.table(["A", "B", "C"], rows, width)
    lines = shown.removesuffix("\n").split("\n")
    assert len(lines) == len(rows) + 1
    assert all(tables.columns(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


def test_the_widest_column_is_cut_first() -> None:
    shown = tables.table(["A", "B"], [["short", "x" * 50], ["s", "y" * 10]], 30)
    assert shown.splitlines()[1:] == ["short  " + "x" * 20 + "...", "s      yyyyyyyyyy"]
    assert "x" * 50 in tables.table(["A"], [["x" * 50]])


def test_a_document_of_any_shape_is_shown_in_sections() -> None:
    document = {
        "base": 41,
        "target": 42,
        "metadata": [{"field": "framework", "base": "torch", "target": "jax"}],
        "metrics": {
            "f1": {"base": 0.9, "target": 0.93, "delta": 0.03},
            "auc": {"base": None, "target": 0.8, "delta": None},
        },
        "files": {"added": [{"path": "a.bin", "size": 3}], "shared": [], "changed": ["b"]},
        "bytes": {"shared": 10, "total": 13},
        "params": {"added": {"lr": 0.1}, "removed": {"lr": 0.2}, "changed": {}},
        "notes": ["one", "two"],
    }
    assert (
        tables.sections(document)
        == """\
base    41
target  42

metadata:
  field      base   target
  framework  torch  jax

metrics:
       base  target  delta
  f1   0.9   0.93    0.03
  auc  -     0.8     -

files:
  shared  -

  added:
    path   size
    a.bin  3

  changed:
    b

bytes:
  shared  10
  total   13

params:
  changed  -

  added:
    lr  0.1

  removed:
    lr  0.2

notes:
  one
  two
"""
    )


def test_of_a_comparison_only_what_differs_is_shown() -> None:
    found = {
        "model": "team/fraud",
        "run": {"hyperparams": {"added": {}, "removed": {}, "changed": {}}},
        "params": {"added": {}, "removed": {}, "changed": {"lr": {"base": 0.1, "target": 0.2}}},
        "files": {"added": [], "shared": [{"path": "a.bin", "digest": DIGEST, "size": 3}]},
        "bytes_shared": 0,
    }
    assert (
        tables.sections(differing(found))
        == """\
model         team/fraud
bytes shared  0

params:
  changed:
        base  target
    lr  0.1   0.2

files:
  shared:
    path   digest               size
    a.bin  sha256:4bf5122f4bf5  3
"""
    )


def test_a_refused_gate_lists_every_condition() -> None:
    found: dict[str, Any] = {
        "alias": "prod",
        "version": 3,
        "passed": False,
        "may_promote": False,
        "conditions": [
            {"gate": "quality", "kind": "rule", "text": "version.metrics.f1 >= 0.9",
             "passed": True, "reason": "it is true"},
            {"gate": "quality", "kind": "approvals", "text": "2 approve", "passed": False,
             "reason": "only user:ann does"},
        ],
    }  # fmt: skip
    assert (
        check_text(found)
        == """\
version 3 does NOT pass the gate of prod
and you may not move prod: no rule lets you
  passed  version.metrics.f1 >= 0.9: it is true [quality]
  FAILED  2 approve: only user:ann does [quality]
"""
    )


def test_versions_have_columns_for_what_is_said() -> None:
    one = {
        "model": "team/fraud",
        "version": 42,
        "framework": "pytorch",
        "metrics": {"f1": 0.93},
        "created_at": "2026-11-25T03:00:00.000000Z",
        "created_by": "robot:ci",
        "artifact_digest": DIGEST,
    }
    assert version_table([one]) == (
        "VERSION  FRAMEWORK  METRICS  CREATED               BY        DIGEST\n"
        "42       pytorch    f1=0.93  2026-11-25 03:00:00Z  robot:ci  sha256:4bf5122f4bf5\n"
    )
    several = version_table(
        [one, {**one, "model": "team/spam", "aliases": ["prod", "blue"]}], is_of_any=True
    )
    assert several.splitlines()[0].split()[:3] == ["MODEL", "VERSION", "ALIASES"]
    assert "team/spam   42       prod, blue" in several
    assert version_table([]).startswith("VERSION")
    assert version_table([one], is_of_any=True).startswith("MODEL")


FOUND = {
    "node": DIGEST,
    "nodes": [
        {"node": DIGEST, "type": "version", "model": "team/fraud", "version": 42,
         "aliases": ["prod"]},
        {"node": BASE, "type": "version", "model": "team/base", "version": 7, "aliases": []},
        {"node": BASE, "type": "version", "model": "team/copy", "version": 1, "aliases": []},
        {"node": "run:r1", "type": "run"},
    ],
    "edges": [
        {"source": DIGEST, "type": "base-model", "target": BASE},
        {"source": BASE, "type": "dataset", "target": "dataset:d@3"},
        {"source": DIGEST, "type": "run", "target": "run:r1"},
        {"source": "run:r1", "type": "adapter-of", "target": BASE},
        # A cycle.
        {"source": BASE, "type": "derived-from", "target": DIGEST},
    ],
    "dangling": ["dataset:d@3"],
    "truncated": True,
}  # fmt: skip


def test_lineage_is_a_tree_in_which_each_node_is_opened_once() -> None:
    assert (
        lineage_text(FOUND, DIGEST, "upstream")
        == """\
team/fraud v42 (prod) sha256:4bf5122f4bf5
|- base-model: team/base v7, team/copy v1 sha256:6e340b9c6e34
|  |- dataset: dataset:d@3
|  `- derived-from: team/fraud v42 (prod) sha256:4bf5122f4bf5  (above)
`- run: run:r1
   `- adapter-of: team/base v7, team/copy v1 sha256:6e340b9c6e34  (above)
nothing is known of dataset:d@3
there is more: it was cut off here
"""
    )


def test_lineage_goes_the_other_way_too() -> None:
    found = {"nodes": [], "edges": FOUND["edges"], "dangling": [], "truncated": False}
    assert lineage_text(found, "dataset:d@3", "downstream").splitlines()[:2] == [
        "dataset:d@3",
        "`- dataset: sha256:6e340b9c6e34",
    ]
    assert "nothing came from it" in lineage_text(found, "commit:x", "downstream")


def test_events_of_the_audit_are_a_table() -> None:
    event: dict[str, Any] = {
        "number": 7, "at": "2026-11-25T03:00:00.000000Z", "actor": "user:ann",
        "action": "promote", "subject": "team/fraud", "outcome": "done",
        "detail": {"request_id": "r-1", "alias": "prod", "reason": "bad scores",
                   "from": {"version": 42, "digest": "sha256:ab"}, "to": {"version": 41},
                   "verdict": {"passed": True, "conditions": []}},
    }  # fmt: skip
    assert events_text([event]) == (
        "AT                    BY        ACTION   SUBJECT     DETAIL"
        "                                    NUMBER\n"
        "2026-11-25 03:00:00Z  user:ann  promote  team/fraud  "
        "prod: 42 -> 41 bad scores request_id=r-1  7\n"
    )
    # On a terminal what only programs look for goes first, and a time or a name last.
    narrow = events_text([event], 80).splitlines()
    assert narrow[1] == (
        "2026-11-25 03:00:00Z  user:ann  promote  team/fraud  prod: 42 -> 41 bad score..."
    )
    # What was asked for is not said again.
    assert events_text([event], 80, {"subject", "actor"}).splitlines() == [
        "AT                    ACTION   DETAIL                                    NUMBER",
        "2026-11-25 03:00:00Z  promote  prod: 42 -> 41 bad scores request_id=r-1  7",
    ]
    detail = {"address": "::1", "reason": "no", "repeated": 2, "since": 1795575600.0}
    refused = events_text([{**event, "outcome": "denied", "detail": detail}])
    assert "  denied: no repeated=2 since=2026-11-25 03:00:00Z address=::1  7\n" in refused
    assert events_text([]).split() == ["AT", "BY", "ACTION", "SUBJECT", "DETAIL", "NUMBER"]


def test_a_terminal_does_without_some_columns_before_others_say_nothing() -> None:
    version = {
        "model": "team/base-models/bert-large-uncased", "version": 41, "aliases": ["prod"],
        "framework": "pytorch", "metrics": {"f1": 0.91, "loss": 0.25},
        "created_at": "2026-11-25T03:00:00Z", "created_by": "robot:ci",
        "artifact_digest": "sha256:" + "a" * 64,
    }  # fmt: skip
    assert version_table([version], 80).splitlines() == [
        "VERSION  ALIASES  FRAMEWORK  METRICS            CREATED               BY",
        "41       prod     pytorch    f1=0.91 loss=0.25  2026-11-25 03:00:00Z  robot:ci",
    ]
    of_any = version_table([version], 100, is_of_any=True)
    assert of_any.splitlines()[1] == (
        "team/base-models/bert-large-uncased  41       prod     f1=0.91 loss=0.25"
        "  2026-11-25 03:00:00Z"
    )
    assert "sha256:aaaaaaaaaaaa" in version_table([version], is_of_any=True)
    # Names are cut after all else.
    assert version_table([version], 80, is_of_any=True).splitlines()[1] == (
        "team/base-models/bert-large...  41       prod     f1=0....  2026-11-25 03:00:00Z"
    )


def test_what_a_gate_asks_is_said_in_a_line() -> None:
    gate = {
        "id": "prod", "name": "quality", "model": "team/**", "alias": "prod", "approvals": 2,
        "lineage": True, "rules": [{"expression": "true"}],
        "soak": {"alias": "staging", "seconds": 60},
    }  # fmt: skip
    assert asks(gate) == "2 approvals, lineage, 1 rule, soak (alias=staging seconds=60)"


def test_a_failure_knows_what_the_registry_said() -> None:
    assert CommandFailed("no").code == ""
    assert CommandFailed("no", problem={"code": "x", "data": [1]}).data == {}

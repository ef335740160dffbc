# The commands on a registry that lets everybody do everything.
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mlext.commands import Commands
from tests.mlext.models import Modelling
from tests.mlext.models import lading as annotated


@pytest.fixture
def lading(models: Modelling) -> Commands:
    return Commands(str(models.client.base_url))


@pytest.fixture
def model(models: Modelling) -> str:
    """A model of three versions."""
    name = models.name()
    for _ in range(3):
        models.register(name)
    return name


def test_from_a_push_to_a_rollback_with_an_oci_client_and_this_alone(
    models: Modelling, lading: Commands
) -> None:
    model = models.name()
    first = models.artifact(model, "one", **annotated(metrics={"f1": 0.9}, run_id="r1"))
    second = models.artifact(model, "two", **annotated(metrics={"f1": 0.95}))
    assert "version 1 passes the gate of prod" in lading.done(
        "promote", model, 1, "prod", "--check"
    )
    assert lading.done("promote", model, 1, "prod") == f"prod: nowhere -> 1  {first[:19]}\n"
    lading.done("evaluate", model, 2, "--metric", "f1=0.97", "--dataset", "holdout@3")
    lading.done("approve", model, 2, "prod", "--comment", "looked at it")
    shown = lading.json("versions", "show", model, "v2")
    assert shown["metrics"] == {"f1": 0.95}
    assert shown["known_metrics"] == {"f1": 0.97}
    assert [each["comment"] for each in shown["approvals"]] == ["looked at it"]
    moved = lading.done("promote", model, "2", "prod", "--reason", "f1 is better")
    assert moved == f"prod: 1 -> 2  {second[:19]}\n"
    assert models.digest_at(model, "prod") == second
    back = lading.done("rollback", model, "prod", "--reason", "bad scores")
    assert back == f"prod: 2 -> 1  {first[:19]}\n"
    assert models.digest_at(model, "prod") == first
    history = lading.done("alias", "history", model, "prod").splitlines()
    assert history[0].split() == ["AT", "FROM", "TO", "BY", "REASON", "DIGEST"]
    assert [line.split()[2:4] for line in history[1:]] == [["2", "1"], ["1", "2"], ["-", "1"]]
    assert "bad scores" in history[1]


def test_what_was_pushed_is_registered_by_tag_or_digest(
    models: Modelling, lading: Commands
) -> None:
    model = models.name()
    digest = models.artifact(model, "nightly")
    said = (
        *("--framework", "pytorch", "--run-id", "run-7", "--description", "a test"),
        *("--metric", "f1=0.91", "--metric", "loss=1e-3", "--tag", "team=fraud"),
        *("--param", "lr=0.1", "--param", "layers=12", "--param", "amp=true"),
        *("--param", "opt=adam", "--param", "note={}", "--param", "limit=NaN"),
        *("--from", "base-model=sha256:" + "2" * 64),
    )
    made = lading.json("register", model, "nightly", *said)
    assert (made["version"], made["status"]) == (1, "registered")
    shown = lading.json("versions", "show", model, 1)
    assert shown["artifact_digest"] == digest
    assert shown["metrics"] == {"f1": 0.91, "loss": 0.001}
    assert shown["params"] == {
        "lr": 0.1, "layers": 12, "amp": True, "opt": "adam", "note": "{}", "limit": "NaN",
    }  # fmt: skip
    assert (shown["tags"], shown["run_id"]) == ({"team": "fraud"}, "run-7")
    assert shown["lineage"] == [{"type": "base-model", "target": "sha256:" + "2" * 64}]
    # A pipeline that runs again goes on.
    twice = lading("register", model, digest, "--metric", "f1=1", "--metric", "f1=2")
    assert (twice.status, "'f1' is said twice" in twice.err) == (2, True)
    again = lading("register", model, digest)
    assert again.status == 0
    assert again.out == f"{model} version 1  {digest}\n"
    assert "registered before" in again.err
    assert lading.json("register", model, digest)["status"] == "exists"
    absent = lading("register", model, "no-such")
    assert absent.status == 1
    assert "no-such" in absent.err


def test_models_are_listed_shown_and_described(lading: Commands, model: str) -> None:
    said = lading.done("models", "describe", model, "--owner", "ann", "--task", "ranking")
    assert "ranking" in said
    shown = lading.json("models", "show", model)
    assert (shown["owner"], shown["task"], shown["latest_version"]) == ("ann", "ranking", 3)
    lading.done("promote", model, 3, "prod")
    assert "  prod  3\n" in lading.done("models", "show", model)
    lines = {
        line.split()[0]: line.split()[1:]
        for line in lading.done("models", "list", "--all").splitlines()
    }
    assert lines["MODEL"] == ["LATEST", "OWNER", "TASK", "UPDATED"]
    assert lines[model][:3] == ["3", "ann", "ranking"]
    assert model in [each["model"] for each in lading.json("models", "--all")["models"]]
    assert lading("models", "describe", model).status == 2


def test_pages_are_followed_where_all_is_asked_for(models: Modelling, lading: Commands) -> None:
    model = models.name()
    for _ in range(2):
        models.register(model)
    for step in range(51):
        models.promote(model, "prod", step % 2 + 1)
    first = lading("alias", "history", model, "prod")
    assert len(first.out.splitlines()) == 51
    assert first.err == "lading alias: there are more: --all\n"
    every = lading.json("alias", "history", model, "prod", "--all")
    assert [each["move"] for each in every["moves"]] == list(range(51, 0, -1))
    assert every["next_cursor"] is None


def test_an_alias_that_moved_meanwhile_is_a_conflict(
    models: Modelling, lading: Commands, model: str
) -> None:
    models.promote(model, "prod", 2)
    late = lading("promote", model, 3, "prod", "--expected", "1")
    assert (late.status, late.out) == (3, "")
    assert late.err == "lading promote: prod stands on version 2, and version 1 was expected\n"
    as_json = lading("promote", model, 3, "prod", "--expected", 0, "--json")
    assert (as_json.status, as_json.out) == (3, "")
    assert '"code": "alias_elsewhere"' in as_json.err
    assert lading.json("promote", model, 3, "prod", "--expected", "2")["version"] == 3


def test_a_promotion_that_was_made_is_made_once(lading: Commands, model: str) -> None:
    lading.done("promote", model, 2, "prod")
    again = lading("promote", model, 2, "prod")
    assert again.status == 0
    assert again.out.startswith("prod: stays on 2  sha256:")
    assert "nothing was moved" in again.err
    assert len(lading.json("alias", "history", model, "prod")["moves"]) == 1
    key = ("--expected", 2, "--idempotency-key", model)
    lading.done("promote", model, 3, "prod", *key)
    assert lading.json("promote", model, 3, "prod", *key)["version"] == 3
    assert len(lading.json("alias", "history", model, "prod")["moves"]) == 2
    # With the key alone, it would be another request the second time.
    assert lading("promote", model, 1, "prod", "--idempotency-key", "x").status == 2


def test_several_aliases_move_together(lading: Commands, model: str) -> None:
    moved = lading.done("promote", model, 2, "prod", "--also", "shadow=1", "--also", "canary=3")
    assert [line.split("  ")[0] for line in moved.splitlines()] == [
        "prod: nowhere -> 2", "shadow: nowhere -> 1", "canary: nowhere -> 3",
    ]  # fmt: skip
    half = lading("promote", model, 3, "prod", "--also", "shadow=9")
    assert half.status == 1
    assert "no version 9" in half.err
    listed = lading.json("alias", "list", model)["aliases"]
    assert {each["alias"]: each["version"] for each in listed} == {
        "prod": 2, "shadow": 1, "canary": 3,
    }  # fmt: skip
    assert lading("promote", model, 3, "prod", "--also", "prod=2").status == 2


def test_a_second_rollback_does_not_bring_back_what_was_bad(lading: Commands, model: str) -> None:
    for version in (1, 2, 3):
        lading.done("promote", model, version, "prod")
    lading.done("rollback", model, "prod")
    again = lading("rollback", model, "prod")
    assert again.status == 1
    assert "moved back already, from 3 to 2, by anyone at 20" in again.err
    assert "--to 3 undoes that" in again.err
    assert lading.json("rollback", model, "prod", "--to", 1)["version"] == 1
    lading.done("promote", model, 1, "fresh")
    first = lading("rollback", model, "fresh")
    assert (first.status, first.err) == (
        1, "lading rollback: fresh stands on its first version, 1\n",
    )  # fmt: skip
    assert lading("rollback", model, "none").status == 1


def test_an_alias_is_shown_as_of_a_moment(lading: Commands, model: str) -> None:
    lading.done("promote", model, 1, "prod")
    at = lading.json("alias", "show", model, "prod")["updated_at"]
    lading.done("promote", model, 2, "prod")
    assert lading.json("alias", "show", model, "prod", "--at", at)["version"] == 1
    assert "version          2\n" in lading.done("alias", "show", model, "prod")
    # A date is its beginning, and what is before the alias is told so.
    assert lading.json("alias", "show", model, "prod", "--at", "9999-01-01")["version"] == 2
    assert lading.json("alias", "show", model, "prod", "--at", "0s")["version"] == 2
    for early in (at[:10], "1h"):
        gone = lading("alias", "show", model, "prod", "--at", early)
        assert (gone.status, gone.out) == (1, "")
        assert f"{model} had no alias prod at 20" in gone.err
    for text in ("yesterday", "2h30m", "2026-11-25T03:00:00", "999999999d"):
        bad = lading("alias", "show", model, "prod", "--at", text)
        assert bad.status == 2
        assert text in bad.err
        assert "RFC 3339" in bad.err or "before all times" in bad.err


def test_a_gate_is_put_from_a_file_and_back(lading: Commands, tmp_path: Path) -> None:
    file = tmp_path / "never-used.toml"
    file.write_text('model = "never/used"\nalias = "prod"\napprovals = 2\n')
    assert lading.json("gate", "put", file)["id"] == "never-used"
    assert "never-used" in lading.done("gate", "list")
    shown = lading.done("gate", "show", "never-used", "--json")
    # Its id is in what was shown.
    assert lading.json("gate", "put", "-", stdin=shown)["id"] == "never-used"
    assert lading.done("gate", "drop", "never-used") == "never-used is no gate any more\n"
    gone = lading("gate", "show", "never-used")
    assert (gone.status, gone.err) == (1, "lading gate: there is no gate never-used\n")


TOML = '# a gate\nmodel = "never/piped"\nalias = "prod"\napprovals = 2\n'
JSON = ' {"model": "never/piped", "alias": "prod", "approvals": 2}'


@pytest.mark.parametrize("body", [TOML, f"\ufeff{TOML}", JSON])
def test_a_gate_is_told_by_what_it_says_and_not_by_its_file(
    lading: Commands, tmp_path: Path, body: str
) -> None:
    file = tmp_path / "never-piped.txt"
    file.write_text(body)
    assert lading.json("gate", "put", file)["id"] == "never-piped"
    assert lading.json("gate", "put", "-", "--id", "never-piped", stdin=body)["approvals"] == 2
    lading.done("gate", "drop", "never-piped")


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
def test_a_gate_comes_through_a_pipe_and_has_no_name_there(
    lading: Commands, tmp_path: Path, name: str
) -> None:
    command = str(Path(sys.executable).with_name("lading"))

    def put(body: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, "gate", "put", name, "--json", "--server", lading.server, *options],
            input=body,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert '"id": "never-piped"' in put(TOML, "--id", "never-piped").stdout
    assert '"id": "never-piped"' in put(f'id = "never-piped"\n{TOML}').stdout
    nameless = put(TOML)
    assert (nameless.returncode, nameless.stderr) == (
        2, "lading gate: what comes from a pipe has no name: say the gate's --id\n",
    )  # fmt: skip
    assert "/dev/stdin" not in lading.done("gate", "list")
    lading.done("gate", "drop", "never-piped")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("approvals =", "is no gate"),
        ("at = 2026-11-25", "is no gate"),
        ('{"model": ', "is no gate"),
        (" \n", "it is empty"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_gate_is_named(
    lading: Commands, tmp_path: Path, body: str | None, said: str
) -> None:
    file = tmp_path / "prod.toml"
    if body is not None:
        file.write_text(body)
    ended = lading("gate", "put", file)
    assert ended.status == 2
    assert said in ended.err
    assert str(file) in ended.err


def test_a_run_is_put_in_parts(models: Modelling, lading: Commands) -> None:
    run = models.name()
    lading.done("run", "put", run, "--code", "a" * 40, "--param", "lr=0.1")
    lading.done("run", "put", run, "--started", "2026-11-24")
    lading.done("run", "put", run, "--dataset", "data@3", "--finished", "2026-11-25T03:00:00Z")
    shown = lading.json("run", "show", run)
    assert shown["started_at"] == "2026-11-24T00:00:00.000000Z"
    assert (shown["code_commit"], shown["dataset_version"]) == ("a" * 40, "data@3")
    assert shown["hyperparams"] == {"lr": 0.1}
    late = lading("run", "put", run, "--dataset", "data@4")
    assert late.status == 1
    assert "is frozen" in late.err
    assert lading("run", "put", models.name(), "--code", "main").status == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "team/fraud", "latest", "prod"),
        ("promote", "team/fraud", "0", "prod"),
        ("promote", "team/fraud", "9" * 5000, "prod"),
        ("promote", "team/fraud", "1", "-x y"),
        ("promote", "Team", "1", "prod"),
        ("evaluate", "team/fraud", "1", "--metric", "f1=nan"),
        ("evaluate", "team/fraud", "1", "--metric", "f1"),
        ("evaluate", "team/fraud", "1"),
        ("lineage", "team/fraud"),
        ("models", "--timeout", "0"),
        ("models", "--server", "ftp://x"),
        ("models", "--server", "http://ann:secret@127.0.0.1"),
        ("models", "--server", "http://127.0.0.1:99999"),
        ("models", "--ca-file", "/nonexistent", "--server", "https://127.0.0.1"),
        ("models", "--password-stdin"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is(
    lading: Commands, arguments: tuple[str, ...]
) -> None:
    ended = lading(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert f"lading {arguments[0]}" in ended.err
    assert "secret" not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("alias", "lading alias history team/fraud prod"),
        ("rollback", 'lading rollback team/fraud prod --reason "bad scores"'),
        ("promote", "lading promote team/fraud 42 prod --check"),
        ("audit list", "lading audit list --model team/fraud --since 2h"),
        ("versions", "lading versions team/fraud --stage staging"),
        ("gate", "lading gate put prod.toml"),
    ],
)
def test_help_has_examples_and_says_how_it_ends(
    lading: Commands, command: str, example: str
) -> None:
    said = lading.done(*command.split(), "--help")
    assert example in said
    assert "3 the alias stands elsewhere" in said


HELPED = """models; models list; models show; models describe; versions; versions list;
versions show; register; evaluate; compare; alias; alias list; alias show; alias history; promote;
rollback; approve; gate; gate put; lineage; run; run put; audit; audit list; audit state"""


@pytest.mark.parametrize("command", HELPED.split(";"))
def test_help_fits_a_terminal_and_an_error_shows_what_is_the_command_s_own(
    lading: Commands, command: str
) -> None:
    said = lading.done(*command.split(), "--help", COLUMNS="80")
    assert max(map(len, said.splitlines())) <= 80
    assert "--server" not in said.partition("\n\n")[0]
    wrong = lading(*command.split(), "--no-such", COLUMNS="80")
    assert wrong.status == 2
    assert len(wrong.err.splitlines()) < 7


def test_a_reader_that_has_enough_is_no_failure(models: Modelling, model: str) -> None:
    command = Path(sys.executable).with_name("lading")
    asked = [str(command), "versions", "show", model, "1", "--server", str(models.client.base_url)]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == 0


def test_on_a_terminal_a_table_is_as_wide_as_that(
    models: Modelling, lading: Commands, model: str
) -> None:
    lading.done("promote", model, 1, "prod", "--reason", "because " * 20)
    command = Path(sys.executable).with_name("lading")
    asked = [str(command), "alias", "list", model, "--server", str(models.client.base_url)]
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            asked, stdout=theirs, env={**os.environ, "COLUMNS": "80"}, timeout=30, check=False
        )
        said = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    # What somebody wrote is cut, and no time and no digest.
    assert "because be...  sha256:" in said
    assert {len(line) for line in said.splitlines()[1:]} == {80}
    assert "\x1b" not in said
    assert "because " * 19 in lading.done("alias", "list", model)

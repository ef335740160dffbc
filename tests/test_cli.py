"""`lading` as a stranger meets it: help that helps, and one clear line when it cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ociserver import __version__
from ociserver.settings import SWITCH, Settings


def lading(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own; a registry that starts after all is ended by the limit."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("LADING_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("lading")), *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=cwd,
        env={**clean, "COLUMNS": "100", **variables},
    )


def refusal(*arguments: str, cwd: Path, **variables: str) -> str:
    """Return the one line it says when it does not start."""
    ended = lading("serve", *arguments, cwd=cwd, **variables)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("lading serve: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_help_names_every_command() -> None:
    ended = lading("--help")
    assert ended.returncode == 0
    assert "serve" in ended.stdout
    assert "run the registry" in ended.stdout
    assert ended.stderr == ""


def test_help_of_serve_names_every_setting_its_form_and_its_default() -> None:
    ended = lading("serve", "--help")
    assert ended.returncode == 0
    said = " ".join(ended.stdout.split())
    for one in fields(Settings):
        value = one.name.upper() if one.metadata["form"] is not SWITCH else "[OPEN]"
        assert f"--{one.name.replace('_', '-')} {value}" in said
        assert f"(default: {one.metadata['form'].shown(one.default)})" in said
    assert "a whole number from 0 to 65535" in said
    assert "LADING_PORT" in said
    assert "--config" in said


def test_the_version_is_the_package_s() -> None:
    ended = lading("--version")
    assert (ended.returncode, ended.stdout) == (0, f"lading {__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("sail",), ("--sail",), ("serve", "--sail", "1")])
def test_an_unknown_command_or_option_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    ended = lading(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: lading")
    assert "Traceback" not in ended.stderr


def test_a_bad_value_is_named_with_the_accepted_form(tmp_path: Path) -> None:
    said = refusal("--port", "many", cwd=tmp_path)
    assert said == "lading serve: --port='many' is not a whole number from 0 to 65535\n"
    assert not list(tmp_path.iterdir())


def test_an_empty_value_is_a_bad_value(tmp_path: Path) -> None:
    assert "--port=''" in refusal("--port", "", "--host", "nowhere.invalid", cwd=tmp_path)


def test_a_bad_variable_is_named_as_it_was_set(tmp_path: Path) -> None:
    assert "LADING_WORKERS='0' is not" in refusal(cwd=tmp_path, LADING_WORKERS="0")


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "absent.toml" in refusal(cwd=tmp_path, LADING_CONFIG="absent.toml")


def test_an_unknown_key_of_the_config_file_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text("prot = 1\n")
    assert "lading.toml: prot is no setting" in refusal("--config", "lading.toml", cwd=tmp_path)


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("--port", str(port), cwd=tmp_path)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert not list(tmp_path.iterdir())


def test_a_host_that_is_not_ours_is_named(tmp_path: Path) -> None:
    assert "192.0.2.1:" in refusal("--host", "192.0.2.1", "--port", "0", "--open", cwd=tmp_path)


def test_open_to_others_is_only_who_is_told_to_be(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "registry.example"):
        said = refusal("--host", host, "--port", "0", cwd=tmp_path)
        assert f"without rules anyone who reaches {host} could do anything" in said
        assert "--open" in said
        assert not list(tmp_path.iterdir())


def test_rules_that_cannot_be_used_are_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[[rule]]\nwho = 'bob'\nmay = 'fly'\non = '*'\n")
    said = refusal("--rules", "rules.toml", cwd=tmp_path)
    assert "rule 1, line 1: 'bob' in 'who'" in said
    assert "rule 1, line 1: 'fly' in 'may'" in said
    assert "cannot be read" in refusal("--rules", "none.toml", cwd=tmp_path)


@pytest.mark.parametrize("where", ["a-file/catalog.db", "a-folder", "text", "/proc/lading/c.db"])
def test_a_catalog_that_cannot_be_made_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").write_text("in the way")
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "text").write_text("no database, and longer than the header of one" * 100)
    said = refusal("--port", "0", "--catalog", f"sqlite:///{where}", cwd=tmp_path)
    assert "catalog" in said


@pytest.mark.parametrize("where", ["a-file", "/proc/lading"])
def test_a_blob_folder_that_cannot_be_made_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").write_text("in the way")
    said = refusal("--port", "0", "--blobs", f"file:///{where}", cwd=tmp_path)
    assert where in said

# The commands on a registry with rules: who one is, by which of the ways to say so.
from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.mlext.commands import Commands, Ended
from tests.mlext.models import Modelling

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "register", "approve", "promote", "admin"]
on = "team/**"

[[rule]]
who = "robot:ci"
may = ["pull", "promote"]
on = "team/**"
aliases = ["staging"]

[[rule]]
who = "user:bob"
may = "pull"
on = "team/**"
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("access")) as served:
        served.change_rules(RULES)
        yield served


@pytest.fixture
def model(registry: Guarded) -> str:
    """A model of two versions, prod on the first."""
    with registry.client() as client:
        client.auth = registry.basic("ann")
        models = Modelling(client)
        name = models.name()
        for _ in range(2):
            models.register(name)
        assert models.promote(name, "prod", 1).status_code == 200
    return name


@pytest.fixture
def lading(registry: Guarded, tmp_path: Path) -> Commands:
    return Commands(registry.url, home=str(tmp_path))


def log_in(registry: Guarded, home: Path, name: str, secret: str, host: str | None = None) -> None:
    """Have docker's file say so, as `oras login` writes it."""
    (home / ".docker").mkdir(exist_ok=True)
    entry = {"auth": base64.b64encode(f"{name}:{secret}".encode()).decode()}
    kept = {"auths": {host or registry.host: entry}}
    (home / ".docker" / "config.json").write_text(json.dumps(kept))


def who(lading: Commands, model: str, *options: str, stdin: str = "", **variables: str) -> str:
    """Return who the registry takes the command for."""
    ended = lading("promote", model, 2, "nobody-may", *options, stdin=stdin, **variables)
    if ended.status == 0:
        return str(lading.json("alias", "show", model, "nobody-may", *options,
                               stdin=stdin, **variables)["updated_by"])  # fmt: skip
    if "no rule lets" in ended.err:
        return ended.err.split("no rule lets ")[1].split()[0]
    return ended.err


def test_who_one_is_may_be_said_in_every_documented_way(
    registry: Guarded, lading: Commands, model: str, tmp_path: Path
) -> None:
    secrets = registry.secrets
    ci = {"LADING_USER": "ci", "LADING_PASSWORD": secrets["ci"]}
    log_in(registry, tmp_path, "bob", secrets["bob"])
    assert who(lading, model) == "user:bob"
    assert who(lading, model, **ci) == "robot:ci"
    token = registry.token("bob", f"repository:{model}:pull,push")
    assert who(lading, model, LADING_TOKEN=f"{token}\n", **ci) == "user:bob"
    stdin = f"{secrets['ci']}\n"
    said = ("--user", "ci", "--password-stdin")
    assert who(lading, model, *said, stdin=stdin, LADING_TOKEN=token) == "robot:ci"
    password = {"LADING_PASSWORD": secrets["bob"]}
    assert who(lading, model, "--user", "bob", **password, LADING_TOKEN="x") == "user:bob"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log_in(registry, elsewhere, "ci", secrets["ci"])
    assert who(lading, model, DOCKER_CONFIG=str(elsewhere / ".docker")) == "robot:ci"


def test_a_login_elsewhere_is_sent_nowhere_else(
    registry: Guarded, lading: Commands, model: str, tmp_path: Path
) -> None:
    log_in(registry, tmp_path, "ann", registry.secrets["ann"], host="registry.example.com")
    ended = lading("models", "show", model)
    assert ended.status == 1
    assert ended.err == (
        "lading models: say who you are by --user, LADING_USER, LADING_TOKEN or `docker login`\n"
    )
    log_in(registry, tmp_path, "ann", registry.secrets["ann"], host=f"https://{registry.host}/v1/")
    assert lading("models", "show", model).status == 0
    (tmp_path / ".docker" / "config.json").write_text("[no json")
    assert lading("models", "show", model).status == 1


def test_no_secret_is_ever_said(registry: Guarded, lading: Commands, model: str) -> None:
    wrong: list[Ended] = [
        lading("models", "show", model, LADING_USER="ann", LADING_PASSWORD="hush-hush"),
        lading("models", "show", model, LADING_TOKEN="hush-hush"),
        lading("models", "show", model, LADING_TOKEN="hush-hush\nX: y"),
        lading("models", LADING_TOKEN="hush-hush", LADING_SERVER="127.0.0.1:1"),
    ]
    assert [each.status for each in wrong] == [1, 1, 2, 4]
    for each in wrong:
        assert "hush-hush" not in each.err + each.out
        assert each.err.count("\n") == 1
    assert "hush-hush" not in registry.log


def test_a_password_that_nobody_gives_is_asked_for_in_words(lading: Commands) -> None:
    ended = lading("models", "--user", "ann")
    assert ended.status == 2
    assert ended.err == (
        "lading models: no password for ann: set LADING_PASSWORD, or --password-stdin\n"
    )


def test_a_right_that_is_missing_is_named(registry: Guarded, lading: Commands, model: str) -> None:
    ci = {"LADING_USER": "ci", "LADING_PASSWORD": registry.secrets["ci"]}
    assert lading.json("promote", model, 2, "staging", **ci)["updated_by"] == "robot:ci"
    refused = lading("promote", model, 2, "prod", **ci)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (f"lading promote: no rule lets robot:ci promote prod in {model}\n")
    checked = lading("promote", model, 2, "prod", "--check", **ci)
    assert checked.status == 1
    assert "you may not move prod" in checked.out
    back = lading("rollback", model, "prod", "--to", 2, **ci)
    assert back.status == 1
    bob = {"LADING_USER": "bob", "LADING_PASSWORD": registry.secrets["bob"]}
    assert lading("approve", model, 2, "prod", **bob).status == 1
    assert model in lading.done("models", **bob)
    denied = lading("gate", "list", "--json", **bob)
    assert denied.status == 1
    assert "user:bob" in json.loads(denied.err)["detail"]


def test_a_tag_is_looked_up_as_the_one_who_asks(
    registry: Guarded, lading: Commands, model: str
) -> None:
    ann = {"LADING_USER": "ann", "LADING_PASSWORD": registry.secrets["ann"]}
    with httpx.Client(base_url=registry.url, auth=registry.basic("ann")) as client:
        digest = Modelling(client).artifact(model, "nightly")
    assert lading("register", model, "nightly").status == 1
    assert digest in lading.done("register", model, "nightly", **ann)

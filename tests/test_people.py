"""`lading user`, `robot`, `rules` and `key`, as an operator runs them beside a registry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import bcrypt
import httpx
import pytest

from ociserver.auth.passwords import password_hash
from tests.access import RULES, guarded, run


def lading(*arguments: str, catalog: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key[:7] != "LADING_"}
    return subprocess.run(
        [str(Path(sys.executable).with_name("lading")), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
        start_new_session=True,  # no terminal to ask on
        env={**environment, "LADING_CATALOG": f"sqlite:///{catalog}"},
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


def events(catalog: Path) -> list[tuple[str, str, str]]:
    with sqlite3.connect(catalog) as database:
        found = database.execute("SELECT action, subject, outcome FROM audit_event").fetchall()
    database.close()
    return found


def test_a_person_and_a_robot_from_first_to_last(catalog: Path) -> None:
    added = lading("user", "add", "ann", "--password-stdin", "--group", "ml",
                   catalog=catalog, stdin="correct horse\n")  # fmt: skip
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "")
    made = lading("robot", "add", "ci", catalog=catalog)
    assert made.returncode == 0
    assert made.stdout.startswith("lading_")
    assert "not shown again" in made.stderr
    where = f"sqlite:///{catalog}"
    run("user", "groups", "ann", "ops", "ml", catalog=where)
    run("robot", "disable", "ci", catalog=where)
    assert run("user", "list", catalog=where) == "ann  enabled  ml,ops"
    assert run("robot", "list", catalog=where) == "ci  disabled  -"
    run("robot", "enable", "ci", catalog=where)
    assert run("robot", "rotate", "ci", catalog=where) != made.stdout.strip()
    assert run("robot", "list", catalog=where) == "ci  enabled  -"
    assert events(catalog) == [
        ("add-user", "user:ann", "done"),
        ("add-robot", "robot:ci", "done"),
        ("change-groups", "user:ann", "done"),
        ("disable", "robot:ci", "done"),
        ("enable", "robot:ci", "done"),
        ("rotate-secret", "robot:ci", "done"),
    ]
    whole = b"".join(path.read_bytes() for path in catalog.parent.glob("catalog.db*"))
    assert b"correct horse" not in whole
    assert made.stdout.strip().encode() not in whole


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "said"),
    [
        (("user", "add", "Ann", "--password-stdin"), "x\n", 2, "'Ann' is no name"),
        (("user", "add", "a:b", "--password-stdin"), "x\n", 2, "'a:b' is no name"),
        (("user", "add", "bob", "--password-stdin"), "\n", 2, "a password has 1 to"),
        (("user", "add", "bob", "--password-stdin"), "x" * 2000, 2, "a password has 1 to"),
        (("user", "add", "bob", "--password-stdin"), "\udcff\n", 2, "a password is UTF-8"),
        (("user", "add", "bob"), "", 2, "--password-stdin reads the password"),
        (("user", "add", "bob", "--password-stdin", "--group", "M L"), "x\n", 2, "'M L' is no"),
        (("user", "add", "ann", "--password-stdin"), "x\n", 1, "the name ann is taken"),
        (("robot", "add", "ann"), "", 1, "the name ann is taken"),
        (("robot", "rotate", "ann"), "", 1, "there is no robot ann"),
        (("user", "disable", "nobody"), "", 1, "there is no user nobody"),
        (("user", "rotate", "ann", "--password-stdin", "--keep", "soon"), "x\n", 2, "--keep="),
        (("user", "import", "/nowhere"), "", 2, "/nowhere"),
        (("user", "list", "--catalog", "postgresql://u@127.0.0.1:1/x"), "", 2, "out of reach"),
        (("user", "list", "--catalog", "nonsense"), "", 2, "--catalog="),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    catalog: Path, arguments: tuple[str, ...], stdin: str, status: int, said: str
) -> None:
    run("user", "add", "ann", "--password-stdin", catalog=f"sqlite:///{catalog}", stdin="x\n")
    ended = lading(*arguments, catalog=catalog, stdin=stdin)
    assert ended.returncode == status
    assert ended.stderr.startswith(f"lading {arguments[0]}: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_whoever_is_disabled_while_their_secret_is_replaced_stays_so(catalog: Path) -> None:
    where = f"sqlite:///{catalog}"
    run("user", "add", "ann", "--password-stdin", catalog=where, stdin="x\n")

    class Prompt(io.StringIO):
        """Where somebody takes their time."""

        def readline(self, size: int = -1, /) -> str:  # type: ignore[override] # as StringIO has it
            ended = lading("user", "disable", "ann", catalog=catalog)
            assert ended.returncode == 0
            return super().readline(size)

    run("user", "rotate", "ann", "--password-stdin", catalog=where, stdin=Prompt("y\n"))
    assert run("user", "list", catalog=where) == "ann  disabled  -"


def test_an_htpasswd_file_is_taken_over(tmp_path: Path) -> None:
    # As `htpasswd -B` writes it.
    hashed = bcrypt.hashpw(b"of ann", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    lines = f"\ufeff# people\neve:{hashed}\n\nkim:{password_hash('of kim')}\nbob:{hashed}\n"
    (tmp_path / "htpasswd").write_text(lines)
    with guarded(tmp_path) as served:
        path = str(tmp_path / "htpasswd")
        taken = lading("user", "import", path, catalog=served.data / "catalog.db")
        assert taken.returncode == 1
        assert taken.stdout == "added 2 users\n"
        assert "left as they are: bob" in taken.stderr
        with served.client() as client:
            for name, secret, status in (
                ("eve", "of ann", 200),
                ("eve", "of kim", 401),
                ("kim", "of kim", 200),
                ("bob", "of ann", 401),
                ("bob", served.secrets["bob"], 200),
                ("eve", "of ann" + "x" * 100, 401),
            ):
                answer = client.get("/token", auth=httpx.BasicAuth(name, secret))
                assert answer.status_code == status, (name, secret)


@pytest.mark.parametrize(
    "stored",
    [
        "$apr1$salt$hash",
        "$2y$05$tooshort",
        "$2y$31$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
        "$argon2id$garbage",
        "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65536,t=900,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
    ],
)
def test_a_hash_that_no_login_could_be_held_against_is_not_taken(
    catalog: Path, tmp_path: Path, stored: str
) -> None:
    (tmp_path / "bad").write_text(f"ann:{password_hash('x')}\neve:{stored}\n")
    where = f"sqlite:///{catalog}"
    refused = lading("user", "import", str(tmp_path / "bad"), catalog=catalog)
    assert refused.returncode == 2
    assert "the hash of eve is neither bcrypt nor argon2" in refused.stderr
    assert run("user", "list", catalog=where) == ""


def test_a_stored_hash_that_is_broken_is_nobody_s_and_no_fault(tmp_path: Path) -> None:
    with guarded(tmp_path) as served, served.client() as client:
        for stored in ("$2y$05$tooshort", "$argon2id$garbage", ""):
            with contextlib.closing(sqlite3.connect(tmp_path / "catalog.db")) as database:
                database.execute("UPDATE credential SET hash = ?", (stored,))
                database.commit()
            assert client.get("/token", auth=("ann", "x")).status_code == 401


def test_a_rule_file_is_checked_and_asked(tmp_path: Path, catalog: Path) -> None:
    good, bad = tmp_path / "rules.toml", tmp_path / "bad.toml"
    good.write_text(RULES + '[[rule]]\nname = "ml"\nwho = "group:ml"\nmay = "push"\non = "x/*"\n')
    bad.write_text("[[rule]]\nwho = 'bob'\n")
    where = f"sqlite:///{catalog}"
    run("user", "add", "ann", "--password-stdin", "--group", "ml", catalog=where, stdin="x\n")

    checked = lading("rules", "check", str(good), catalog=catalog)
    assert (checked.returncode, checked.stdout) == (0, "5 rules, 0 issuers\n")
    refused = lading("rules", "check", str(bad), catalog=catalog)
    assert refused.returncode == 1
    assert refused.stderr.count("lading rules: rule 1, line 1: ") == 3

    def explained(*asked: str) -> tuple[int, str]:
        ended = lading("rules", "explain", *asked, "--rules", str(good), catalog=catalog)
        assert ended.stderr == "" or ended.returncode == 2
        return ended.returncode, ended.stdout or ended.stderr

    assert explained("user:ann", "push", "team/a") == (
        0,
        "yes: rule 1, line 2 lets user:ann push in team/a\n",
    )
    assert explained("user:ann", "push", "x/y")[1].startswith("yes: rule 5, line 21 (ml) lets")
    assert explained("user:ann", "push", "y") == (1, "no: no rule lets user:ann push in y\n")
    assert explained("anyone", "pull", "public/a")[0] == 0
    assert explained("robot:new", "push", "x/y", "--group", "ml")[0] == 0
    assert explained("user:nobody", "pull", "team/a") == (
        2,
        "lading rules: the catalog has no user:nobody\n",
    )
    assert explained("bob", "pull", "team/a")[0] == 2
    status, said = explained("anyone", "pull", "Team/a")
    assert (status, "'Team/a' is not a repository name" in said) == (2, True)
    assert "(choose from 'pull', 'push'," in explained("anyone", "fly", "team/a")[1]
    good.write_text(
        '[[rule]]\nwho = "robot:ci"\nmay = "promote"\non = "x/*"\naliases = ["staging", "qa-*"]\n'
    )
    asked, options = ("robot:ci", "promote", "x/y"), ("--group", "x")
    assert explained(*asked, *options)[1].endswith("promote in x/y, to staging, qa-* alone\n")
    assert explained(*asked, "qa-7", *options)[1].endswith("promote in x/y, alias qa-7\n")


def test_a_key_that_is_replaced_ends_tokens_only_where_that_is_asked(tmp_path: Path) -> None:
    with guarded(tmp_path) as served, served.client() as client:
        path, catalog = "/v2/team/a/tags/list", served.data / "catalog.db"
        old = served.bearer("ann", "repository:team/a:pull")

        def keys() -> list[str]:
            return [
                each["kid"]
                for each in json.loads(client.get("/.well-known/jwks.json").text)["keys"]
            ]

        [first] = keys()
        assert lading("key", "rotate", catalog=catalog).returncode == 0
        # A token of the new key is good at once, though this worker has not heard of it yet.
        new = served.bearer("ann", "repository:team/a:pull")
        assert client.get(path, headers=new).status_code == 404
        assert client.get(path, headers=old).status_code == 404
        assert keys()[-1] == first
        assert lading("key", "rotate", "--revoke", catalog=catalog).returncode == 0
        newest = served.bearer("ann", "repository:team/a:pull")
        served.wait_for_news()
        for headers, status in ((old, 401), (new, 401), (newest, 404)):
            assert client.get(path, headers=headers).status_code == status
        assert len(keys()) == 1
        done = [(action, subject) for action, subject, _ in events(catalog)]
        assert [action for action, _ in done].count("rotate-key") == 3
        assert ("revoke-key", first) in done

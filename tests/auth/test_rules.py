"""Rules as a value: what a file says, and all that is wrong with one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociserver.auth.globs import anchored
from ociserver.auth.principals import ANYONE, Principal
from ociserver.auth.rules import OPEN, Action, Rules, RulesInvalid

ANN = Principal("user:ann", frozenset({"ml"}))
CI = Principal("robot:ci")


def rule(who: str = '"anyone"', may: str = '"pull"', on: str = '"**"', more: str = "") -> str:
    return f"[[rule]]\nwho = {who}\nmay = {may}\non = {on}\n{more}\n"


def allows(text: str, principal: Principal, action: Action, repository: str) -> bool:
    return Rules.parse(text).of(principal).allow(action, repository)


@pytest.mark.parametrize(
    ("glob", "repository", "matches"),
    [
        ("team/**", "team/fraud", True),
        ("team/**", "team/fraud/v2", True),
        ("team/**", "team", False),
        ("team/**", "other/team/fraud", False),
        ("team/**", "teams/fraud", False),
        ("team/*", "team/fraud", True),
        ("team/*", "team/fraud/v2", False),
        ("team/*/model", "team/fraud/model", True),
        ("team", "team", True),
        ("team", "team/fraud", False),
        ("team.x/*", "teamyx/a", False),
        ("**", "anything/at/all", True),
        ("fraud-*", "fraud-2", True),
        ("fraud-*", "my-fraud-2", False),
    ],
)
def test_a_glob_is_anchored_and_a_star_stays_in_its_component(
    glob: str, repository: str, matches: bool
) -> None:
    text = rule(on=f'"{glob}"')
    assert allows(text, ANYONE, Action.PULL, repository) is matches


@pytest.mark.parametrize(
    "glob",
    ["*-*-*-*-*-*-*-model", "**a" * 100 + "**x", "**-*-*-*-x**-*-*-*-y**-*-z", "*-" * 60 + "x"],
)
@pytest.mark.parametrize("name", ["-" * 255, "a" * 255, "-a" * 127, "-a/" * 85])
def test_no_name_is_slow_to_match(glob: str, name: str) -> None:
    began = time.perf_counter()
    assert not allows(rule(on=f'"{glob}"'), ANYONE, Action.PULL, name)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "glob", ["/team/**", "team/", "team//x", "**/", "-x", "team/*.", "team/.*", "a._*", "*/-/*"]
)
def test_a_glob_that_no_repository_can_match_is_refused(glob: str) -> None:
    with pytest.raises(RulesInvalid, match="no repository"):
        Rules.parse(rule(on=f'"{glob}"'))


@given(st.from_regex(r"[a-z0-9]+([._/-][a-z0-9]+)*", fullmatch=True), st.data())
def test_a_glob_made_of_a_repository_is_taken(name: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(name)))
    end = data.draw(st.integers(begin, len(name)))
    glob = name[:begin] + data.draw(st.sampled_from(["*", "**"])) + name[end:]
    assert allows(rule(on=f'"{glob}"'), ANYONE, Action.PULL, name) is plainly(glob, name)


@pytest.mark.parametrize("where", ["on", "aliases", "claim"])
def test_three_stars_are_no_glob(where: str) -> None:
    issuer = '[[issuer]]\nname = "a"\nurl = "https://a.example"\naudience = "l"\n'
    texts = {
        "on": rule(on='"a/***"'),
        "aliases": rule(may='"promote"', more='aliases = "a***"'),
        "claim": issuer + rule(who='"workload:a sub=x***"'),
    }
    with pytest.raises(RulesInvalid):
        Rules.parse(texts[where])


def test_what_no_rule_grants_is_refused() -> None:
    assert not Rules().of(ANN).allow(Action.PULL, "x")
    text = rule(who='["user:ann"]', may='["pull", "push"]', on='["team/**", "demo"]')
    for repository in ("team/a", "demo"):
        assert allows(text, ANN, Action.PUSH, repository)
        assert not allows(text, ANN, Action.DELETE, repository)
        assert not allows(text, CI, Action.PULL, repository)
        assert not allows(text, ANYONE, Action.PULL, repository)
    assert not allows(text, ANN, Action.PULL, "demo2")


@pytest.mark.parametrize(
    ("who", "granted"),
    [
        ("anyone", {"user:ann", "robot:ci", "anyone", "workload:github:s"}),
        ("user:ann", {"user:ann"}),
        ("robot:ci", {"robot:ci"}),
        ("user:ci", set()),
        ("group:ml", {"user:ann"}),
        ("workload:github repository=acme/* ref=refs/heads/main", {"workload:github:s"}),
        ("workload:github repository=acme/*", {"workload:github:s"}),
        ("workload:github repository=acme", set()),
        ("workload:github repository=acme/* ref=refs/heads/dev", set()),
        ("workload:github nothing=*", set()),
        ("workload:gitlab repository=acme/*", set()),
    ],
)
def test_who_a_rule_is_for(who: str, granted: set[str]) -> None:
    issuers = "".join(
        f'[[issuer]]\nname = "{name}"\nurl = "https://{name}.example"\naudience = "lading"\n'
        for name in ("github", "gitlab")
    )
    claims = {"repository": "acme/train", "ref": "refs/heads/main", "nothing": ""}
    claims.pop("nothing")
    workload = Principal("workload:github:s", claims=claims)
    text = issuers + rule(who=f'"{who}"')
    found = {
        each.name for each in (ANN, CI, ANYONE, workload) if allows(text, each, Action.PULL, "x")
    }
    assert found == granted


def test_claims_of_a_person_do_not_make_a_workload() -> None:
    text = '[[issuer]]\nname = "a"\nurl = "https://a.example"\naudience = "l"\n' + rule(
        who='"workload:a sub=*"'
    )
    assert not allows(text, Principal("user:workload", claims={"sub": "x"}), Action.PULL, "x")
    assert not allows(text, Principal("workload:ab:x", claims={"sub": "x"}), Action.PULL, "x")
    assert allows(text, Principal("workload:a:x", claims={"sub": "x"}), Action.PULL, "x")


def test_aliases_narrow_a_rule_and_the_first_that_grants_is_named() -> None:
    text = rule(may='"promote"', on='"team/**"', more='aliases = ["staging", "canary-*"]') + rule(
        who='"group:ml"', may='"promote"', on='"team/**"', more='name = "ml moves all"'
    )
    rules = Rules.parse(text)
    nobody, ann = rules.of(ANYONE), rules.of(ANN)
    assert nobody.allow(Action.PROMOTE, "team/a", "staging")
    assert nobody.allow(Action.PROMOTE, "team/a", "canary-7")
    assert not nobody.allow(Action.PROMOTE, "team/a", "prod")
    assert not nobody.allow(Action.PROMOTE, "team/a", "staging2")
    found = ann.rule(Action.PROMOTE, "team/a", "prod")
    assert found is not None
    assert found.place == "rule 2, line 6 (ml moves all)"
    first = ann.rule(Action.PROMOTE, "team/a", "staging")
    assert first is not None
    assert first.place == "rule 1, line 1"


def test_everything_that_is_wrong_is_named_at_once() -> None:
    text = (
        'color = "red"\n'
        + rule(who='["bob", "user:Ann", "workload:nowhere x=y"]', may='["fly"]', on='["Team/*"]')
        + rule(more='whom = "x"\naliases = ["pr od"]')
        + '[[rule]]\nmay = []\n[[issuer]]\nname = "x"\nurl = "http://far.example"\naudience = "a"\n'
    )
    with pytest.raises(RulesInvalid) as raised:
        Rules.parse(text)
    found = "\n".join(raised.value.problems)
    for said in (
        "'color' is no part of it",
        "rule 1, line 2: 'bob' in 'who'",
        "'user:Ann' in 'who'",
        "'workload:nowhere x=y' in 'who' names no [[issuer]]",
        "'fly' in 'may' is unknown; known are: pull, push",
        "'Team/*' in 'on' is no repository glob",
        "rule 2, line 7: 'whom' is no key",
        "'pr od' in 'aliases' is no alias glob",
        "rule 3, line 13: 'who' is a text",
        "rule 3, line 13: 'may' is a text",
        "rule 3, line 13: 'on' is a text",
        "issuer 1: url 'http://far.example' is no https address",
    ):
        assert said in found
    for broken in (
        "",
        "# nothing",
        "x = ",
        "rule = 1",
        "[rule]\nwho = 1",
        "[[rule]]\nwho = [1]",
        "x = " + "[" * 9000,
    ):
        with pytest.raises(RulesInvalid):
            Rules.parse(broken)


@pytest.mark.parametrize("url", ["https://[x", "https://a.example:port", "https://", "ftp://a", ""])
def test_an_issuer_whose_address_is_none_is_told(url: str) -> None:
    issuer = f'[[issuer]]\nname = "a"\nurl = "{url}"\naudience = "l"\n'
    with pytest.raises(RulesInvalid, match="issuer 1: "):
        Rules.parse(issuer + rule())


def test_a_workload_without_a_claim_would_be_anybody_and_is_refused() -> None:
    issuer = '[[issuer]]\nname = "a"\nurl = "https://a.example"\naudience = "l"\n'
    for who in ("workload:a", "workload:a sub=", "workload:a sub", "workload:a x=1 x=2"):
        with pytest.raises(RulesInvalid):
            Rules.parse(issuer + rule(who=f'"{who}"'))


def test_the_open_mode_grants_everything_to_everyone() -> None:
    rights = OPEN.of(ANYONE)
    assert all(rights.allow(action, "any/thing at all\n") for action in Action)


@given(st.text(alphabet="ab/", max_size=12), st.text(alphabet="ab/*", min_size=1, max_size=8))
def test_globs_mean_what_a_plain_matcher_says(name: str, glob: str) -> None:
    if "***" in glob:
        return
    assert (anchored([glob]).fullmatch(name) is not None) is plainly(glob, name)


def plainly(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob.startswith("**"):
        return any(plainly(glob[2:], name[at:]) for at in range(len(name) + 1))
    if glob[0] == "*":
        ends = name.split("/", maxsplit=1)[0]
        return any(plainly(glob[1:], name[at:]) for at in range(len(ends) + 1))
    return name[:1] == glob[0] and plainly(glob[1:], name[1:])


@pytest.mark.parametrize(
    ("may", "aliases", "named"),
    [
        ("promote", '"prod"', {"prod"}),
        ("approve", '"prod"', {"prod"}),
        ("promote", '["*", "canary-*"]', {"canary-1"}),
        ("promote", '["*", "**", "prod"]', {"prod"}),
        ("promote", '["*"]', set()),
        ("promote", '["**"]', set()),
        ("promote", None, set()),
        # That a rule has the key says nothing where it grants nothing of aliases.
        ("push", '"prod"', set()),
    ],
)
def test_an_alias_is_named_by_more_than_stars(
    may: str, aliases: str | None, named: set[str]
) -> None:
    more = f"aliases = {aliases}" if aliases else ""
    text = rule(who='"robot:ci"', may=f'"{may}"', on='"team/**"', more=more)
    rules = Rules.parse(rule() + text)
    assert {each for each in ("prod", "canary-1") if rules.names_alias("team/a", each)} == named
    assert not rules.names_alias("other/a", "prod")
    assert not OPEN.names_alias("team/a", "prod")

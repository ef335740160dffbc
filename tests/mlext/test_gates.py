"""Gates as values: what a document says, and what a verdict lists."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.gates import (
    Condition,
    Facts,
    Finding,
    Gate,
    GateInvalid,
    Kind,
    Verdict,
    judge,
    parse_gate,
)
from mlext.records import Approval
from ociserver.refs import Tag

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
FACTS = Facts(
    model="team/fraud",
    alias="prod",
    version={"version": 42, "metrics": {"f1": 0.95}, "tags": {}},
    author="robot:ci",
    mover="user:mia",
    now=AT,
)
WHOLE: dict[str, Any] = {
    "name": "production",
    "model": "team/**",
    "alias": "prod",
    "rules": [
        "version.metrics.f1 >= 0.9",
        {"expression": "alias == 'prod'", "name": "only prod", "message": "of prod alone"},
    ],
    "approvals": 2,
    "soak": {"alias": "staging", "seconds": 90_000},
    "lineage": True,
    "signature": {"issuer": "https://issuer.example", "identity": "release@example.com"},
    "attestations": [{"predicate": "https://slsa.dev/provenance/v1"}],
}


def gate(**asked: Any) -> Gate:
    return parse_gate({"name": "g", "model": "**", "alias": "*", **asked})


def approval(by: str, at: datetime = AT, comment: str = "") -> Approval:
    return Approval(number=42, alias=Tag("prod"), by=by, at=at.timestamp(), comment=comment)


def approved(*names: str) -> Facts:
    return replace(FACTS, approvals=[approval(each) for each in names])


def only(verdict: Verdict) -> Condition:
    (condition,) = verdict.conditions
    assert verdict.passed is condition.passed
    return condition


def test_a_gate_says_all_that_its_document_does() -> None:
    whole = parse_gate(WHOLE)
    assert [each.expression.text for each in whole.rules] == [
        "version.metrics.f1 >= 0.9",
        "alias == 'prod'",
    ]
    assert (whole.name, whole.approvals, whole.lineage) == ("production", 2, True)
    assert whole.soak is not None
    assert (whole.soak.alias, whole.soak.seconds) == ("staging", 90_000)
    assert [each.kind for each in whole.requirements] == [Kind.SIGNATURE, Kind.ATTESTATION]
    assert parse_gate(whole.to_json()) == whole
    assert json.loads(json.dumps(whole.to_json())) == {
        **WHOLE,
        "rules": [{"expression": "version.metrics.f1 >= 0.9"}, WHOLE["rules"][1]],
    }


def test_a_gate_without_a_name_is_called_by_what_it_is_for() -> None:
    assert parse_gate({"model": "team/**", "alias": "prod", "lineage": True}).name == (
        "prod of team/**"
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"approval": 1}, "the gate: 'approval' is no key; known are: alias, approvals"),
        ({1: 1}, "the gate: '1' is no key"),
        ({"model": None}, "'model' is one glob"),
        ({"model": "Team/**"}, "'model' is one glob"),
        ({"model": "a" * 256}, "'model' is one glob"),
        ({"model": "**a**a**a**"}, "'model' has stars in more than 3 places"),
        ({"alias": ["prod"]}, "'alias' is one glob"),
        ({"alias": ""}, "'alias' is one glob"),
        ({"name": ""}, "the gate: 'name' is one line"),
        ({"name": "a\nb"}, "the gate: 'name' is one line"),
        ({"name": "\ud800"}, "the gate: 'name' is one line"),
        ({"rules": "true"}, "'rules' is a list of at most 32"),
        ({"rules": ["true"] * 33}, "'rules' is a list of at most 32"),
        ({"rules": ["true", 1]}, "rule 2 is an expression"),
        ({"rules": [{"name": "x"}]}, "rule 1 is an expression"),
        ({"rules": [{"expression": "true", "nam": "x"}]}, "rule 1: 'nam' is no key"),
        ({"rules": [{"expression": "true", "message": 1}]}, "rule 1: 'message' is one line"),
        ({"rules": ["true", "foo"]}, "rule 2: line 1, column 1: undeclared reference to 'foo'"),
        ({"approvals": -1}, "'approvals' is a whole number from 0 to 100"),
        ({"approvals": True}, "'approvals' is a whole number"),
        ({"approvals": 1.5}, "'approvals' is a whole number"),
        ({"soak": 3600}, "'soak' is a table of 'alias' and 'seconds'"),
        ({"soak": {"alias": "staging"}}, "soak: 'seconds' is a whole number"),
        ({"soak": {"alias": "st*", "seconds": 1}}, "soak: 'alias' is the name of one alias"),
        ({"soak": {"seconds": 1}}, "soak: 'alias' is the name of one alias"),
        ({"soak": {"alias": "a", "seconds": 1, "x": 1}}, "soak: 'x' is no key"),
        ({"lineage": "yes"}, "'lineage' is true or false"),
        ({"signature": {}}, "what signature is asked for is a table, and not empty"),
        ({"signature": True}, "what signature is asked for is a table"),
        ({"signature": {"a": object()}}, "what signature is asked for has values that JSON"),
        ({"signature": {"a": float("nan")}}, "what signature is asked for has values that JSON"),
        ({"signature": {"a": "\ud800"}}, "what signature is asked for has values that JSON"),
        ({"signature": {"a": "x" * 5_000}}, "what signature is asked for is over 4096"),
        ({"attestations": {}}, "'attestations' is a list of at most 16 tables"),
        ({"attestations": ["slsa"]}, "what attestation is asked for is a table"),
        ({}, "it asks for nothing"),
    ],
)
def test_what_is_no_gate_is_refused(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(GateInvalid) as caught:
        gate() if not document else parse_gate({"model": "**", "alias": "prod", **document})
    assert any(each.startswith(problem) for each in caught.value.problems), caught.value.problems


def test_every_problem_of_a_document_is_named() -> None:
    with pytest.raises(GateInvalid) as caught:
        parse_gate({"rules": ["foo", "1 +"], "approvals": "2", "lineag": True})
    assert len(caught.value.problems) == 6
    assert caught.value.detail == {"problems": list(caught.value.problems)}


def test_a_document_that_is_no_table_is_refused() -> None:
    with pytest.raises(GateInvalid, match="a gate is a table"):
        parse_gate([WHOLE])


@pytest.mark.parametrize(
    ("model", "alias", "matches"),
    [
        ("team/**", "prod", True),
        ("team/fraud", "pro*", True),
        ("team/*", "*", True),
        ("team", "prod", False),
        ("other/**", "prod", False),
        ("team/**", "staging", False),
        ("team/**", "pro", False),
    ],
)
def test_a_gate_is_for_the_models_and_aliases_of_its_globs(
    model: str, alias: str, matches: bool
) -> None:
    refusing = parse_gate({"model": model, "alias": alias, "rules": ["false"]})
    verdict = judge([refusing], FACTS)
    assert verdict.passed is not matches
    assert len(verdict.conditions) == matches


def test_where_no_gate_is_for_the_move_it_passes_with_no_conditions() -> None:
    assert judge([], FACTS) == Verdict()
    assert Verdict().to_json() == {"passed": True, "conditions": []}


def test_all_conditions_of_all_gates_are_listed_in_order() -> None:
    first, second = parse_gate(WHOLE), gate(approvals=1)
    verdict = judge([first, second], FACTS)
    assert [(each.gate, each.kind.value, each.passed) for each in verdict.conditions] == [
        ("production", "rule", True),
        ("production", "rule", True),
        ("production", "approvals", False),
        ("production", "soak", False),
        ("production", "lineage", True),
        ("production", "signature", False),
        ("production", "attestation", False),
        ("g", "approvals", False),
    ]
    assert not verdict.passed
    shown = json.loads(json.dumps(verdict.to_json()))
    assert shown["passed"] is False
    assert shown["conditions"][0] == {
        "gate": "production",
        "kind": "rule",
        "text": "version.metrics.f1 >= 0.9",
        "passed": True,
        "reason": "it is true",
    }


def test_all_that_a_gate_asks_can_be_given() -> None:
    whole = parse_gate(WHOLE)
    facts = replace(
        approved("user:ann", "user:bob"),
        soak={"staging": 90_000.0},
        findings={each: Finding(passed=True, reason="found") for each in whole.requirements},
    )
    assert judge([whole], facts).passed


def test_a_rule_that_is_false_says_its_message() -> None:
    rule = {"expression": "version.metrics.f1 > 1.0", "name": "f1", "message": "F1 is too low"}
    condition = only(judge([gate(rules=[rule])], FACTS))
    assert condition.text == "f1: version.metrics.f1 > 1.0"
    assert (condition.passed, condition.reason) == (False, "F1 is too low")
    assert only(judge([gate(rules=["false"])], FACTS)).reason == "it is false"


def test_a_rule_that_cannot_be_evaluated_fails_and_says_why() -> None:
    rule = {"expression": "version.metrics.recall > 0.5", "message": "recall is too low"}
    condition = only(judge([gate(rules=[rule])], FACTS))
    assert not condition.passed
    assert condition.reason == 'it cannot be evaluated: Key not found in map : "recall"'


def test_rules_beyond_one_amount_of_work_fail_and_the_others_stand() -> None:
    facts = replace(FACTS, evaluations=[{"metrics": {"f1": 0.9}}] * 1_000)
    dear = "evaluations.all(e, e.metrics.f1 > 0.5)"
    verdict = judge([gate(rules=["true"] + [dear] * 31)], facts)
    assert verdict.conditions[1].passed
    assert not verdict.conditions[-1].passed
    assert "more work" in verdict.conditions[-1].reason
    assert not verdict.passed


def test_rules_see_facts_of_the_move() -> None:
    rules = [
        "evaluations.exists(e, e.dataset == 'sha256:aa' && e.metrics.f1 > 0.9)",
        "run.code_commit == 'c0ffee'",
        "model == 'team/fraud' && alias == 'prod'",
        "now - timestamp(approvals[0].at) == duration('60s') && approvals[0].comment == 'ok'",
    ]
    facts = replace(
        FACTS,
        evaluations=[{"dataset": "sha256:aa", "metrics": {"f1": 0.95}}],
        run={"code_commit": "c0ffee"},
        approvals=[approval("user:ann", AT - timedelta(minutes=1), "ok")],
    )
    assert judge([gate(rules=rules)], facts).passed
    assert not any(each.passed for each in judge([gate(rules=rules[:2])], FACTS).conditions)


def test_a_version_that_was_there_before_need_not_soak_again() -> None:
    asked = gate(soak={"alias": "staging", "seconds": 90_000})
    condition = only(judge([asked], replace(FACTS, returns=True)))
    assert condition.passed
    assert condition.reason == "it was 'prod' before"


@pytest.mark.parametrize(
    ("names", "passed", "reason"),
    [
        ((), False, "0 of 2: none"),
        (("user:ann",), False, "1 of 2: user:ann"),
        (("user:ann", "user:ann"), False, "1 of 2: user:ann"),
        (("user:ann", "user:bob"), True, "2 of 2: user:ann, user:bob"),
        (
            ("user:ann", "robot:ci", "user:mia", "anyone"),
            False,
            (
                "1 of 2: user:ann; not counted: robot:ci (registered the version), user:mia (makes "
                "this move), anyone (did not say who they are)"
            ),
        ),
    ],
)
def test_approvals_are_of_distinct_others(
    names: tuple[str, ...], passed: bool, reason: str
) -> None:
    condition = only(judge([gate(approvals=2)], approved(*names)))
    assert (condition.passed, condition.reason) == (passed, reason)


@pytest.mark.parametrize(
    ("stood", "passed", "reason"),
    [
        (None, False, "it is not 'staging'"),
        (0.0, False, "it has been 'staging' for 0 s"),
        (3_599.9, False, "it has been 'staging' for 59 min 59 s"),
        (90_000.0, True, "it has been 'staging' for 1 d 1 h"),
        (100_000.0, True, "it has been 'staging' for 1 d 3 h"),
    ],
)
def test_a_version_must_have_stood_on_the_other_alias(
    stood: float | None, passed: bool, reason: str
) -> None:
    asked = gate(soak={"alias": "staging", "seconds": 90_000})
    condition = only(judge([asked], replace(FACTS, soak={"staging": stood, "canary": 1e9})))
    assert condition.text == "the version has been 'staging' for 1 d 1 h"
    assert (condition.passed, condition.reason) == (passed, reason)
    assert not judge([asked], FACTS).passed


def test_lineage_that_is_not_complete_is_told() -> None:
    asked = gate(lineage=True)
    assert only(judge([asked], FACTS)).reason == "nothing is missing"
    facts = replace(FACTS, lineage_problems=["no run is named", "the dataset is unknown"])
    condition = only(judge([asked], facts))
    assert not condition.passed
    assert condition.reason == "no run is named; the dataset is unknown"


@pytest.mark.parametrize(
    "asked",
    [{"signature": {"issuer": "i"}}, {"attestations": [{"predicate": "p"}]}],
)
def test_what_nobody_verified_refuses(asked: dict[str, Any]) -> None:
    asking = gate(**asked)
    (requirement,) = asking.requirements
    condition = only(judge([asking], FACTS))
    assert not condition.passed
    assert condition.reason == f"nothing can verify the {requirement.kind} yet"
    for passed in (True, False):
        found = {requirement: Finding(passed=passed, reason="looked for")}
        condition = only(judge([asking], replace(FACTS, findings=found)))
        assert (condition.passed, condition.reason) == (passed, "looked for")


RULES = st.sampled_from(
    [
        "true",
        "false",
        "version.nothing",
        "version.metrics.f1 > 0.9",
        "run == null",
        "size(approvals) >= 1",
        "approvals.exists(a, a.by == 'robot:ci' || a.by == 'user:mia')",
    ]
)
GATES = st.fixed_dictionaries(
    {"model": st.sampled_from(["**", "team/*", "other"]), "alias": st.sampled_from(["*", "dev"])},
    optional={
        "rules": st.lists(RULES, min_size=1, max_size=3),
        "approvals": st.integers(1, 3),
        "soak": st.just({"alias": "staging", "seconds": 60}),
        "lineage": st.just(True),
        "signature": st.just({"issuer": "i"}),
        "attestations": st.just([{"predicate": "p"}]),
    },
).filter(lambda document: len(document) > 2)
NAMES = st.sampled_from(["user:ann", "user:bob", "user:eve", "robot:ci", "user:mia", "anyone"])
WORLDS = st.builds(
    lambda names, stood, problems: replace(
        approved(*names), soak={"staging": stood}, lineage_problems=problems
    ),
    st.lists(NAMES, max_size=5),
    st.none() | st.floats(0, 120),
    st.lists(st.just("no run is named"), max_size=1),
)


@given(st.lists(GATES, max_size=4), WORLDS, st.lists(st.sampled_from(["robot:ci", "user:mia"])))
def test_approvals_of_author_and_mover_change_no_verdict(
    documents: list[dict[str, Any]], facts: Facts, more: list[str]
) -> None:
    gates = [parse_gate(each) for each in documents]
    with_more = replace(facts, approvals=[*facts.approvals, *approved(*more).approvals])
    before, after = judge(gates, facts), judge(gates, with_more)
    assert before.passed is after.passed
    assert [each.passed for each in before.conditions] == [each.passed for each in after.conditions]


@given(st.lists(GATES, max_size=4), WORLDS)
def test_a_failed_condition_anywhere_is_a_move_that_is_not_made(
    documents: list[dict[str, Any]], facts: Facts
) -> None:
    gates = [parse_gate(each) for each in documents]
    verdict = judge(gates, facts)
    assert verdict.passed is all(each.passed for each in verdict.conditions)
    # A gate fails alone exactly where it fails among others, whatever their order.
    assert verdict.passed is all(judge([each], facts).passed for each in gates)
    assert verdict.passed is judge(gates[::-1], facts).passed
    assert all(each.text and each.reason for each in verdict.conditions)


@given(GATES)
def test_a_gate_is_what_its_json_says(document: dict[str, Any]) -> None:
    parsed = parse_gate(document)
    assert parse_gate(json.loads(json.dumps(parsed.to_json()))) == parsed

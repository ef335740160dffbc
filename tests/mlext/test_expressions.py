"""Rules in CEL: what they mean, what is refused, and that nothing holds the process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlext.expressions import (
    FACTS,
    TEXT_MAX,
    ExpressionFailed,
    ExpressionInvalid,
    Sheet,
    compile_expression,
)

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
VERSION = {
    "version": 42,
    "framework": "torch",
    "metrics": {"f1": 1, "auc": 0.93},
    "params": {"optimizer": "adam", "layers": 12},
    "tags": {"team": "fraud"},
    "run_id": None,
    "created_at": "2026-11-20T12:00:00Z",
}
EVALUATIONS = [
    {"dataset": "sha256:aa", "metrics": {"f1": 0.95}, "by": "user:ann"},
    {"dataset": "sha256:bb", "metrics": {}, "by": "robot:ci"},
]
KNOWN: dict[str, object] = {
    "version": VERSION,
    "evaluations": EVALUATIONS,
    "approvals": [{"by": "user:bob", "at": "2026-11-24T12:00:00Z", "comment": ""}],
    "run": {"code_commit": "c0ffee"},
    "model": "team/fraud",
    "alias": "prod",
    "now": AT,
}


def evaluated(text: str, **facts: Any) -> bool:
    return compile_expression(text).evaluate({**KNOWN, **facts})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("version.metrics.f1 >= 0.9", True),  # an int, and a double
        ("version.metrics.f1 == 1.0", True),
        ("version.metrics.auc >= 1", False),
        ("version.version > 41.5", True),
        ("version.metrics.auc + version.metrics.auc > 1.8", True),
        ("has(version.metrics.f1)", True),
        ("has(version.metrics.recall)", False),
        ("'team' in version.tags", True),
        ("version.framework in ['torch', 'jax']", True),
        ("version.params['optimizer'] == 'adam'", True),
        ("version.run_id == null", True),
        ("model.startsWith('team/') && alias == 'prod'", True),
        ("model.matches('^team/[a-z]+$')", True),
        ("model.contains('frau') && model.endsWith('d') && model.size() == 10", True),
        ("version.metrics.all(name, version.metrics[name] > 0.9)", True),
        ("evaluations.exists(e, e.dataset == 'sha256:aa' && e.metrics.f1 > 0.9)", True),
        ("evaluations.exists(e, e.dataset == 'sha256:bb' && e.metrics.f1 > 0.9)", None),
        ("evaluations.all(e, has(e.metrics.f1))", False),
        ("evaluations.filter(e, has(e.metrics.f1)).map(e, e.metrics.f1) == [0.95]", True),
        ("evaluations.exists_one(e, e.by == 'user:ann')", True),
        ("evaluations.all(e, e.by in approvals.map(a, a.by))", False),
        ("evaluations.all(e, evaluations.exists(f, f.dataset == e.dataset))", True),
        ("approvals.all(a, timestamp(a.at) <= now)", True),
        ("now - timestamp(version.created_at) >= duration('120h')", True),
        ("now.getHours() == 12", True),
        ("run != null && run.code_commit == 'c0ffee'", True),
        ("version.metrics.f1 > 0.5 || version.nothing", True),  # either side decides (cel-spec)
        ("size(evaluations) == 2 ? true : version.nothing", True),
        ("type(model) == string && string(12) == '12' && bytes('a') == b'a'", True),
        ("{'a': 1}['a'] == 1 && dyn(1) == 1.0 && !false && -1 < 0", True),
    ],
)
def test_an_expression_is_true_or_false_of_facts(text: str, holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(ExpressionFailed, match='Key not found in map : "f1"'):
            evaluated(text)
    else:
        assert evaluated(text) is holds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version.metrics.recall > 0.5", 'Key not found in map : "recall"'),
        ("version.framework > 3", "No matching overloads"),
        ("version.metrics.f1", "it is of type INT, neither true nor false"),
        ("version.metrics.f1 / 0 == 1", "divide by zero"),
        ("evaluations[7].by == 'x'", "index=7 size=2"),
        ("timestamp(version.framework) < now", "timestamp|Timestamp"),
        ("9223372036854775807 + version.version > 0", "overflow"),
    ],
)
def test_an_expression_that_does_not_fit_the_facts_fails_and_says_why(
    text: str, reason: str
) -> None:
    with pytest.raises(ExpressionFailed, match=reason):
        evaluated(text)


def test_a_run_that_is_not_there_is_null() -> None:
    assert evaluated("run == null", run=None)
    assert not evaluated("run != null && run.code_commit == 'c0ffee'", run=None)
    with pytest.raises(ExpressionFailed):
        evaluated("run.code_commit == 'c0ffee'", run=None)


def test_a_fact_that_is_missing_fails_only_what_names_it() -> None:
    assert compile_expression("alias == 'prod'").evaluate({"alias": "prod"})
    with pytest.raises(ExpressionFailed, match="there is no 'model'"):
        compile_expression("model == 'a' || alias == 'prod'").evaluate({"alias": "prod"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**30, "version.x > 1e29"),
        (-(2**63), "version.x == -9223372036854775808"),
        (2**63, "version.x > 9.2e18"),
        (10**400, "version.x > 1e308"),
        (-(10**400), "version.x < -1e308"),
        (float("nan"), "!(version.x >= 0.0)"),
        (True, "version.x"),
        ((1, 2), "version.x == [1, 2]"),
        ({}, "version.x == {}"),
        ("é😀", "version.x == 'é😀' && version.x.size() == 2"),
    ],
)
def test_values_of_json_are_taken_as_they_are(value: object, text: str) -> None:
    assert evaluated(text, version={"x": value})


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "a fact is a object"),
        (b"x", "a fact is a bytes"),
        (datetime(2026, 1, 1), "a fact is a datetime"),  # noqa: DTZ001 - that is the point
        ("\ud800", "no character of a text"),
        ({"\ud800": 1}, "no character of a text"),
        ("a\0b", "no character of a text"),  # else it would be equal to 'a'
        ({"a\0b": 1}, "no character of a text"),
        (AT, "a fact is a datetime"),
        (nested(100_000), "nested deeper"),
        ("x" * 2_000_000, "more than rules may handle"),
        ([0] * 100_000, "more than rules may handle"),
        ({str(each): 0 for each in range(100_000)}, "more than rules may handle"),
    ],
)
def test_facts_that_are_no_json_or_too_large_fail_it(value: object, reason: str) -> None:
    with pytest.raises(ExpressionFailed, match=reason):
        evaluated("has(version.x)", version={"x": value})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1, column 1: Syntax error"),
        ("version.", "line 1, column 9: Syntax error"),
        ("evaluations.exists(e,\n e.foo = 1)", "line 2, column 8: Syntax error"),
        (
            "versoin.version > 1",
            "line 1, column 8: undeclared reference to 'versoin.version'; facts are: ",
        ),
        ("e.f1 > 1 && evaluations.all(e, true)", "undeclared reference to 'e.f1'"),
        ("[1].all(x, __result__)", "undeclared reference to '__result__'"),
        ("alias == 1", "line 1, column 7: found no matching overload"),
        ("1 + 1", "it is of type INT"),
        ("version", "it is of type MAP"),
        ("'x' == '\ud800'", "no character of a text"),
        ("true\0 && false", "no character of a text"),
        ("//" + "x" * TEXT_MAX, f"longer than {TEXT_MAX} characters"),
        ("(" * 100 + "true" + ")" * 100, "nested too deep"),
        ("1" + " + 1" * 100 + " == 1", "nested too deep"),
        ("version" + ".a" * 100, "nested too deep"),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "macros are nested deeper than 2"),
        ("{1: [{2: [1].all(a, [1].all(b, [1].all(c, true)))}]} == {}", "nested deeper than 2"),
        ("now.getHours('Europe/Berlin') > 1", "takes no time zone"),
        ("now.getHours('/dev/zero') > 1", "takes no time zone"),
        ("google.protobuf.Struct{} == version", "no message is offered"),
        ("model.matches(alias)", "is a text, written out"),
        ("model.matches('(((a{9}){9}){9}){9}')", "too long, once its repetitions"),
        ("model.matches('a{1000}')", "too long, once its repetitions"),
        ("model.matches('" + "9" * 3_000 + "{" + "9" * 500 + "}')", "too long, once"),
        ("model.matches('\\\\pL')", "too long, once its repetitions"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(text)
    assert reason in caught.value.message
    assert caught.value.detail == {"line": caught.value.line, "column": caught.value.column}


def test_a_pattern_that_re2_refuses_fails() -> None:
    with pytest.raises(ExpressionFailed, match="invalid regular expression"):
        evaluated("model.matches('(a')")


def test_two_of_one_text_are_equal() -> None:
    assert compile_expression("true") == compile_expression("true")
    assert compile_expression("true") != compile_expression("false")
    assert "mlext" not in repr(compile_expression("true"))


def test_a_sheet_is_one_amount_of_work_for_all_its_rules() -> None:
    rule = compile_expression("evaluations.all(e, e.metrics.f1 > 0.5)")
    facts = {"evaluations": [{"metrics": {"f1": 0.9}}] * 1_000}
    assert all(rule.evaluate(facts) for _ in range(30))
    sheet = Sheet(facts)
    passed = 0
    with pytest.raises(ExpressionFailed, match="more work on these facts"):  # noqa: PT012
        for _ in range(100):
            rule.evaluate(sheet)
            passed += 1
    assert 0 < passed < 30


def listed(count: int, each: str = "1") -> str:
    return "[" + ",".join([each] * count) + "]"


LARGE: dict[str, Any] = {
    "evaluations": [
        {"dataset": "d" * 71, "metrics": {f"m{n}": 0.5 for n in range(8)}} for _ in range(1_000)
    ],
    "version": {
        "text": "a" * 60_000,
        "params": {f"p{n}": "v" * 60 for n in range(500)},
        "lists": [[[1] * 10] * 10] * 60,
    },
    "model": "a" * 255,
    "alias": "prod",
}
HOSTILE = [
    "(" * 2_000 + "true" + ")" * 2_000,
    "[" * 2_000 + "]" * 2_000,
    "{1:" * 1_000,
    "!" * 4_000 + "true",
    "-" * 4_001 + "1 == 1",
    "true" + "?true:true" * 400,
    "true&&" * 600 + "true",
    "version" + "[0]" * 1_300 + "==1",
    "9" * 4_000 + "==1",
    "r'" + "\\" * 4_000,
    "1e999999 > 0.0",
    # Loops within loops.
    f"{listed(900)}.all(x, {listed(900)}.all(y, true))",
    f"{listed(300)}.all(x, {'true&&' * 500}true)",
    f"{listed(60)}.all(x, {listed(60)}.all(y, {'x==y&&' * 200}true))",
    "evaluations.all(e, evaluations.all(f, e == f))",
    "evaluations.map(e, evaluations) == evaluations.map(e, evaluations)",
    "evaluations.map(e, evaluations.map(f, [e, f])).size() > 1",
    "version.params.all(a, version.params.all(b, version.params == version.params))",
    f"{listed(500)}.all(x, version.lists == version.lists)",
    # What doubles with each call: text, lists, and lists of lists that are one in memory.
    "['x']" + ".map(a,a+a)" * 27 + ".size()==1",
    f"['{'x' * 3_000}']" + ".map(a,a+a)" * 20 + ".size()==1",
    "[[1,1]]" + ".map(a,a+a)" * 27 + ".size()==1",
    "[version.text]" + ".map(a,a+a+a+a+a+a)" * 15 + ".size()==1",
    "[[1]]" + ".map(a,[a,a,a,a,a,a,a,a])" * 20 + " == []",
    "[[1]].map(x, [x]" + ".map(a,[a,a])" * 28 + " == [x]" + ".map(a,[a,a])" * 28 + ")[0]",
    "[dyn(1)].exists(x, [" + "dyn([x,x])," * 200 + "x].exists(y, y == x))",
    "[{'k':[version.text]}].map(m,{'k':m.k+m.k})" + ".map(m,{'k':m.k+m.k})" * 20 + "==[]",
    "[version.text+version.text].exists(b, (" + "+".join(["b"] * 29) + ") == '')",
    "string(" * 15 + "version.text" + ")" * 15 + " == ''",
    # Text against text.
    "version.text.matches('(a*)*b')",
    "version.text.matches('(x+x+)+y|(a|aa)+$|(a?){9}a{9}')",
    "version.text.contains(version.text + 'b')",
    f"version.text.contains('{'a' * 3_000}b')",
    f"{listed(300)}.all(x, version.text.contains('{'a' * 300}b'))",
    f"{listed(300)}.all(x, model.matches('([ab]|[cd]){{5}}a$'))",
    "version.params.all(k, version.text.matches('a$'))",
]


def test_hostile_expressions_end_in_bounded_memory() -> None:
    # In a process of its own, since what these would break is the process.
    script = """if True:
        import json, sys
        from mlext.expressions import ExpressionFailed, ExpressionInvalid, compile_expression
        hostile, facts = json.load(sys.stdin)
        for text in hostile:
            try:
                said = compile_expression(text).evaluate(facts)
            except (ExpressionInvalid, ExpressionFailed) as error:
                said = type(error).__name__
            print(said)
    """
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([HOSTILE, LARGE]),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.split()) == len(HOSTILE)
    assert set(run.stdout.split()) == {"True", "False", "ExpressionInvalid", "ExpressionFailed"}


WORDS = st.one_of(
    st.sampled_from([*FACTS, "metrics", "f1", "x", "all", "map", "exists", "filter", "has"]),
    st.sampled_from([*".()[]{},:?+-<!\\é\n\0", "&&", "||", "==", "size", "matches", "in"]),
    st.sampled_from(["1", "0.5", "'a'", "b'a'", "null", "true", "[1, 2]"]),
)


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=30).map(" ".join)))
def test_any_text_is_an_expression_that_ends_or_is_refused(text: str) -> None:
    with suppress(ExpressionInvalid, ExpressionFailed):
        assert compile_expression(text).evaluate(KNOWN) in (True, False)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
)


@given(st.dictionaries(TEXTS, JSON, max_size=5))
def test_any_json_is_a_fact(version: dict[str, object]) -> None:
    texts = ["version.size() >= 0", "version.all(k, k in version)", "!has(version.a) || true"]
    for text in texts:
        assert compile_expression(text).evaluate({"version": version})

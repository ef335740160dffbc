"""Gates: what must hold before an alias moves to a version. Pure; a gate and a verdict are values.

A verdict lists every condition of every gate that is for the move, and fails closed: what cannot be
evaluated, verified or found is a condition that failed, with the reason. `docs/gates.md` is the
manual of the document that `parse_gate` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlext.expressions import Expression, ExpressionFailed, ExpressionInvalid, Sheet
from mlext.expressions import compile_expression as compiled
from mlext.records import Approval, rfc3339
from ociserver.auth.globs import anchored
from ociserver.auth.principals import ANYONE
from ociserver.auth.rules import ALIAS_GLOB, REPOSITORY_GLOB
from ociserver.errors import RequestInvalid
from ociserver.refs import NAME_MAX

# Of all models together: each push of a tag looks through them.
GATES_MAX = 1_000
# Enough for any policy that a person reads; a verdict is kept with each move.
_RULES_MAX = 32
_ATTESTATIONS_MAX = 16
_APPROVALS_MAX = 100
_SOAK_MAX = 10 * 365 * 86_400
_TERMS_MAX = 4_096
# A glob becomes a pattern whose match takes the length of the name to the power of its stars.
_STARS_MAX = 3

_KEYS = frozenset(
    {"name", "model", "alias", "rules", "approvals", "soak", "lineage", "signature", "attestations"}
)
_RULE_KEYS = frozenset({"name", "expression", "message"})
_SOAK_KEYS = frozenset({"alias", "seconds"})


class GateInvalid(RequestInvalid):
    """The document is no gate; `problems` are all that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems), detail={"problems": list(problems)})
        self.problems = tuple(problems)


class Kind(StrEnum):
    """What a condition is about."""

    RULE = "rule"
    APPROVALS = "approvals"
    SOAK = "soak"
    LINEAGE = "lineage"
    SIGNATURE = "signature"
    ATTESTATION = "attestation"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """An expression that must be true; `message` is what to say to a person where it is not."""

    expression: Expression
    name: str | None = None
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in the document of a gate."""
        named = {"name": self.name, "message": self.message}
        return {
            "expression": self.expression.text,
            **{key: value for key, value in named.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """How long the version must have stood on another alias without a break."""

    alias: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A signature or attestation that is asked for; `terms` are its table, as canonical JSON."""

    kind: Kind
    terms: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of looking for what a requirement asks."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What is asked of a version before one of these aliases of one of these models may name it."""

    name: str
    model: str
    alias: str
    rules: tuple[GateRule, ...] = ()
    approvals: int = 0
    soak: Soak | None = None
    lineage: bool = False
    signature: Requirement | None = None
    attestations: tuple[Requirement, ...] = ()
    _model: re.Pattern[str] = field(repr=False, compare=False)
    _alias: re.Pattern[str] = field(repr=False, compare=False)

    def is_for(self, model: str, alias: str) -> bool:
        """Tell whether moving this alias of this model must pass it."""
        return bool(self._model.fullmatch(model) and self._alias.fullmatch(alias))

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What somebody must have looked for before the gate can be passed."""
        return (*([self.signature] if self.signature else []), *self.attestations)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `parse_gate` makes this gate of."""
        asked: dict[str, Any] = {
            "rules": [each.to_json() for each in self.rules],
            "approvals": self.approvals,
            "soak": self.soak and {"alias": self.soak.alias, "seconds": self.soak.seconds},
            "lineage": self.lineage,
            "signature": self.signature and json.loads(self.signature.terms),
            "attestations": [json.loads(each.terms) for each in self.attestations],
        }
        return {
            "name": self.name,
            "model": self.model,
            "alias": self.alias,
            **{key: value for key, value in asked.items() if value},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of a version and of the move that would make an alias name it.

    `version` and `evaluations` are as the API shows them, but for `version["metrics"]`: these are
    the effective ones, the latest of registration and evaluations. `author` registered the version,
    `mover` asks for the move; both are names of principals. `lineage_problems` are sentences, none
    where the lineage is complete. `soak` is for how many seconds the version has stood on each
    alias until now without a break; an alias that it does not stand on is None, or missing.
    `returns` is whether the version stood on the very alias before: a roll-back need not soak
    again.
    `findings` are of the requirements that were looked for: verifying takes I/O, so it goes before
    judging, and a requirement without a finding is not met.
    """

    model: str
    alias: str
    version: Mapping[str, object]
    author: str
    mover: str
    now: datetime
    evaluations: Sequence[Mapping[str, object]] = ()
    run: Mapping[str, object] | None = None
    lineage_problems: Sequence[str] = ()
    approvals: Sequence[Approval] = ()
    soak: Mapping[str, float | None] = field(default_factory=dict)
    returns: bool = False
    findings: Mapping[Requirement, Finding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that one gate asks: in words, whether it holds, and why or why not."""

    gate: str
    kind: Kind
    text: str
    passed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as the API and the audit show it."""
        return {
            "gate": self.gate,
            "kind": self.kind.value,
            "text": self.text,
            "passed": self.passed,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All conditions of a move, in the order of gates and of what each asks."""

    conditions: tuple[Condition, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether each condition holds; where no gate is for the move, there is none."""
        return all(each.passed for each in self.conditions)

    def to_json(self) -> dict[str, Any]:
        """Return it as the API and the audit show it."""
        return {
            "passed": self.passed,
            "conditions": [each.to_json() for each in self.conditions],
        }


def judge(gates: Sequence[Gate], facts: Facts) -> Verdict:
    """Return whether the move may be made, with every condition of every gate that is for it.

    Rules of all gates together are one bounded amount of work, about 50 ms at most; those beyond
    it fail.
    """
    counted, refused = _approvers(facts)
    sheet = Sheet(
        {
            "version": facts.version,
            "evaluations": facts.evaluations,
            "approvals": [
                {"by": each.by, "at": rfc3339(each.at), "comment": each.comment} for each in counted
            ],
            "run": facts.run,
            "model": facts.model,
            "alias": facts.alias,
            "now": facts.now,
        }
    )
    conditions: list[Condition] = []
    for gate in gates:
        if not gate.is_for(facts.model, facts.alias):
            continue
        conditions += (_ruled(gate, rule, sheet) for rule in gate.rules)
        if gate.approvals:
            conditions.append(_approved(gate, counted, refused))
        if gate.soak:
            conditions.append(_soaked(gate, gate.soak, facts))
        if gate.lineage:
            conditions.append(_traced(gate, facts))
        conditions += (_verified(gate, each, facts) for each in gate.requirements)
    return Verdict(tuple(conditions))


def _ruled(gate: Gate, rule: GateRule, sheet: Sheet) -> Condition:
    try:
        passed = rule.expression.evaluate(sheet)
        reason = "it is true" if passed else rule.message or "it is false"
    except ExpressionFailed as error:
        passed, reason = False, f"it cannot be evaluated: {error.message}"
    text = rule.expression.text if rule.name is None else f"{rule.name}: {rule.expression.text}"
    return Condition(gate=gate.name, kind=Kind.RULE, text=text, passed=passed, reason=reason)


def _approvers(facts: Facts) -> tuple[list[Approval], dict[str, str]]:
    """Return the approvals that count, and of the others who gave them and why they do not."""
    counted: dict[str, Approval] = {}
    refused: dict[str, str] = {}
    for each in facts.approvals:
        if each.by == facts.author:
            refused[each.by] = "registered the version"
        elif each.by == facts.mover:
            refused[each.by] = "makes this move"
        elif each.by == ANYONE.name:
            refused[each.by] = "did not say who they are"
        else:
            counted.setdefault(each.by, each)
    return list(counted.values()), refused


def _approved(gate: Gate, counted: Sequence[Approval], refused: Mapping[str, str]) -> Condition:
    names = ", ".join(each.by for each in counted) or "none"
    reason = f"{len(counted)} of {gate.approvals}: {names}"
    if refused:
        reason += "; not counted: " + ", ".join(f"{by} ({why})" for by, why in refused.items())
    return Condition(
        gate=gate.name,
        kind=Kind.APPROVALS,
        text=f"{gate.approvals} approved, none of whom registered the version or moves the alias",
        passed=len(counted) >= gate.approvals,
        reason=reason,
    )


def _soaked(gate: Gate, soak: Soak, facts: Facts) -> Condition:
    stood = facts.soak.get(soak.alias)
    reason = (
        f"it is not {soak.alias!r}"
        if stood is None
        else f"it has been {soak.alias!r} for {_period(stood)}"
    )
    if facts.returns:
        reason = f"it was {facts.alias!r} before"
    return Condition(
        gate=gate.name,
        kind=Kind.SOAK,
        text=f"the version has been {soak.alias!r} for {_period(soak.seconds)}",
        passed=facts.returns or (stood is not None and stood >= soak.seconds),
        reason=reason,
    )


def _traced(gate: Gate, facts: Facts) -> Condition:
    return Condition(
        gate=gate.name,
        kind=Kind.LINEAGE,
        text="the lineage is complete",
        passed=not facts.lineage_problems,
        reason="; ".join(facts.lineage_problems) or "nothing is missing",
    )


def _verified(gate: Gate, requirement: Requirement, facts: Facts) -> Condition:
    kind = requirement.kind
    finding = facts.findings.get(requirement)
    if finding is None:
        finding = Finding(passed=False, reason=f"nothing can verify the {kind} yet")
    return Condition(
        gate=gate.name,
        kind=kind,
        text=f"{kind}: {requirement.terms}",
        passed=finding.passed,
        reason=finding.reason,
    )


def _period(seconds: float) -> str:
    """Return it in its two largest units, rounded down."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def parse_gate(document: object) -> Gate:
    """Return the gate that a JSON or TOML table holds. Raises GateInvalid, naming all problems."""
    if not isinstance(document, Mapping):
        raise GateInvalid(["a gate is a table"])
    reading = _Reading()
    reading.refuse_unknown("the gate", document, _KEYS)
    model = reading.glob(document, "model", REPOSITORY_GLOB)
    alias = reading.glob(document, "alias", ALIAS_GLOB)
    name = reading.text("the gate", document, "name") or f"{alias} of {model}"
    rules = tuple(reading.rules(document.get("rules", [])))
    approvals = reading.number("'approvals'", document.get("approvals", 0), _APPROVALS_MAX)
    soak = reading.soak(document.get("soak"))
    lineage = document.get("lineage", False)
    if not isinstance(lineage, bool):
        reading.problems.append("'lineage' is true or false")
    signature = document.get("signature")
    signed = reading.requirement(Kind.SIGNATURE, signature) if signature is not None else None
    attestations = tuple(reading.attestations(document.get("attestations", [])))
    if not reading.problems and not any((rules, approvals, soak, lineage, signed, attestations)):
        # More likely one that is being written than one that lets everything through on purpose.
        reading.problems.append("it asks for nothing")
    if reading.problems:
        raise GateInvalid(reading.problems)
    return Gate(
        name=name,
        model=model,
        alias=alias,
        rules=rules,
        approvals=approvals,
        soak=soak,
        lineage=lineage,
        signature=signed,
        attestations=attestations,
        _model=anchored((model,)),
        _alias=anchored((alias,)),
    )


class _Reading:
    """One document being read, and what is wrong with it so far."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def refuse_unknown(self, place: str, table: Mapping[str, Any], known: frozenset[str]) -> None:
        self.problems += [
            f"{place}: {key!r} is no key; known are: {', '.join(sorted(known))}"
            for key in sorted(map(str, table.keys() - known))
        ]

    def glob(self, table: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str:
        found = table.get(key)
        if not isinstance(found, str) or not form.fullmatch(found) or len(found) > NAME_MAX:
            self.problems.append(f"{key!r} is one glob, such as team/** of models, prod of aliases")
            return ""
        if len(re.findall(r"\*+", found)) > _STARS_MAX:
            self.problems.append(f"{key!r} has stars in more than {_STARS_MAX} places")
        return found

    def text(self, place: str, table: Mapping[str, Any], key: str) -> str | None:
        found = table.get(key)
        if found is None:
            return None
        if isinstance(found, str) and 0 < len(found) <= NAME_MAX and found.isprintable():
            return found
        self.problems.append(f"{place}: {key!r} is one line of 1 to {NAME_MAX} characters")
        return None

    def number(self, place: str, found: object, most: int) -> int:
        if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most:
            return found
        self.problems.append(f"{place} is a whole number from 0 to {most:,}")
        return 0

    def rules(self, found: object) -> Iterator[GateRule]:
        if not isinstance(found, (list, tuple)) or len(found) > _RULES_MAX:
            self.problems.append(f"'rules' is a list of at most {_RULES_MAX}")
            return
        for number, each in enumerate(found, 1):
            place = f"rule {number}"
            table = {"expression": each} if isinstance(each, str) else each
            if not isinstance(table, Mapping) or not isinstance(table.get("expression"), str):
                self.problems.append(f"{place} is an expression, or a table with an 'expression'")
                continue
            self.refuse_unknown(place, table, _RULE_KEYS)
            name, message = (self.text(place, table, key) for key in ("name", "message"))
            try:
                expression = compiled(table["expression"])
            except ExpressionInvalid as error:
                self.problems.append(f"{place}: {error.message}")
            else:
                yield GateRule(expression=expression, name=name, message=message)

    def soak(self, found: object) -> Soak | None:
        if found is None:
            return None
        if not isinstance(found, Mapping):
            self.problems.append("'soak' is a table of 'alias' and 'seconds'")
            return None
        self.refuse_unknown("soak", found, _SOAK_KEYS)
        alias = found.get("alias")
        if not isinstance(alias, str) or not ALIAS_GLOB.fullmatch(alias) or "*" in alias:
            self.problems.append("soak: 'alias' is the name of one alias")
            alias = ""
        seconds = self.number("soak: 'seconds'", found.get("seconds"), _SOAK_MAX)
        return Soak(alias=alias, seconds=seconds)

    def attestations(self, found: object) -> Iterator[Requirement]:
        if not isinstance(found, (list, tuple)) or len(found) > _ATTESTATIONS_MAX:
            self.problems.append(f"'attestations' is a list of at most {_ATTESTATIONS_MAX} tables")
            return
        for each in found:
            requirement = self.requirement(Kind.ATTESTATION, each)
            if requirement is not None:
                yield requirement

    def requirement(self, kind: Kind, found: object) -> Requirement | None:
        if not isinstance(found, Mapping) or not found:
            self.problems.append(f"what {kind} is asked for is a table, and not empty")
            return None
        try:
            terms = json.dumps(found, sort_keys=True, allow_nan=False, ensure_ascii=False)
            terms.encode()  # refuses half a surrogate pair
        except (TypeError, ValueError, RecursionError):
            self.problems.append(f"what {kind} is asked for has values that JSON has not")
            return None
        if len(terms) > _TERMS_MAX:
            self.problems.append(f"what {kind} is asked for is over {_TERMS_MAX} characters")
            return None
        return Requirement(kind=kind, terms=terms)

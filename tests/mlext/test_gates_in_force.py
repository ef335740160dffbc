# Gates at the aliases of a real registry: what a move needs, by whatever door it comes.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.mlext.models import Modelling
from tests.wire.raw import eventually

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "delete", "register", "approve", "promote"]
on = "team/**"

[[rule]]
who = "user:bob"
may = ["pull", "approve"]
on = "team/**"

[[rule]]
who = "robot:ci"
may = ["pull", "push", "promote"]
on = "team/**"
aliases = ["prod"]

[[rule]]
who = "user:ann"
may = ["admin", "read-audit"]
on = "**"
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("gated")) as served:
        served.change_rules(RULES)
        yield served


def of(registry: Guarded, who: str) -> Modelling:
    """Return the registry as one of them sees it."""
    return Modelling(httpx.Client(base_url=registry.url, timeout=60, auth=registry.basic(who)))


@pytest.fixture
def ann(registry: Guarded) -> Iterator[Modelling]:
    seen = of(registry, "ann")
    with seen.client:
        yield seen


@pytest.fixture
def bob(registry: Guarded) -> Iterator[Modelling]:
    seen = of(registry, "bob")
    with seen.client:
        yield seen


@pytest.fixture
def ci(registry: Guarded) -> Iterator[Modelling]:
    seen = of(registry, "ci")
    with seen.client:
        yield seen


@pytest.fixture
def model(ann: Modelling) -> str:
    """A model of two versions."""
    name = ann.name()
    for _ in range(2):
        ann.register(name)
    return name


def put_gate(ann: Modelling, model: str, **asked: Any) -> None:
    gate = {"name": "production", "model": model, "alias": "prod", **asked}
    put = ann.client.put(f"/v1/gates/{model}", json=gate)
    assert put.status_code == 200, put.text


def approve(by: Modelling, model: str, number: int) -> None:
    place = f"/v1/models/{model}/versions/{number}/approvals"
    given = by.client.post(place, json={"alias": "prod"})
    assert given.status_code == 201, given.text


def test_a_gate_refuses_with_reasons_until_what_it_asks_is_given(
    ann: Modelling, bob: Modelling, ci: Modelling, model: str
) -> None:
    put_gate(ann, model, rules=["version.metrics.f1 >= 0.9"], approvals=1)
    approve(ann, model, 1)
    approve(bob, model, 2)
    refused = ci.promote(model, "prod", 1)
    assert refused.status_code == 403
    assert refused.json()["code"] == "gate_unsatisfied"
    conditions = refused.json()["data"]["conditions"]
    assert [(each["kind"], each["passed"]) for each in conditions] == [
        ("rule", False), ("approvals", False),
    ]  # fmt: skip
    place = f"/v1/models/{model}/versions/1/evaluations"
    measured = {"metrics": {"f1": 0.95}, "dataset": "holdout@3"}
    assert ann.client.post(place, json=measured).status_code == 201
    approve(bob, model, 1)
    check = ci.client.get(f"/v1/models/{model}/aliases/prod/check", params={"version": 1})
    assert check.json()["passed"], check.text
    assert ci.promote(model, "prod", 1).status_code == 200


def test_a_version_soaks_on_another_alias_first(ann: Modelling, model: str) -> None:
    put_gate(ann, model, soak={"alias": "staging", "seconds": 3600})
    never = ann.promote(model, "prod", 1)
    assert never.status_code == 403
    assert ann.promote(model, "staging", 1).status_code == 200
    early = ann.promote(model, "prod", 1)
    assert early.status_code == 403
    assert early.json()["detail"] != never.json()["detail"]
    put_gate(ann, model, soak={"alias": "staging", "seconds": 0})
    assert ann.promote(model, "prod", 1).status_code == 200
    # Who was there before need not soak again: a rollback does not wait.
    assert ann.promote(model, "staging", 2).status_code == 200
    assert ann.promote(model, "prod", 2).status_code == 200
    put_gate(ann, model, soak={"alias": "staging", "seconds": 3600})
    assert ann.promote(model, "prod", 1).status_code == 200


def test_what_stands_behind_a_gate_stays_whatever_the_gate_asks_now(
    ann: Modelling, ci: Modelling, model: str
) -> None:
    assert ann.promote(model, "prod", 1).status_code == 200
    put_gate(ann, model, approvals=1)
    stays = ci.promote(model, "prod", 1)
    assert (stays.status_code, stays.json()["updated_by"]) == (200, "user:ann")
    # The right is asked all the same.
    assert ann.promote(model, "staging", 1).status_code == 200
    assert ci.promote(model, "staging", 1).status_code == 403


def test_a_push_onto_a_gated_alias_passes_its_gate(
    ann: Modelling, bob: Modelling, ci: Modelling, model: str
) -> None:
    put_gate(ann, model, approvals=1)
    bytes_of = ann.client.get(f"/v2/{model}/manifests/v1")
    form = {"Content-Type": bytes_of.headers["content-type"]}
    digest = bytes_of.headers["docker-content-digest"]
    doors = (f"/v2/{model}/manifests/prod", f"/v2/{model}/manifests/{digest}?tag=prod")
    for door in doors:
        refused = ci.client.put(door, content=bytes_of.content, headers=form)
        assert refused.status_code == 403
        assert refused.json()["errors"][0]["detail"]["conditions"]
    assert ann.digest_at(model, "prod") is None
    approve(bob, model, 1)
    for door in doors:
        assert ci.client.put(door, content=bytes_of.content, headers=form).status_code == 201
    assert ann.digest_at(model, "prod") == digest


def test_a_move_that_was_refused_is_in_the_audit(ann: Modelling, ci: Modelling, model: str) -> None:
    put_gate(ann, model, approvals=1)
    assert ci.promote(model, "staging", 1).status_code == 403
    assert ann.promote(model, "prod", 1).status_code == 403
    pushed = ann.client.get(f"/v2/{model}/manifests/v1")
    form = {"Content-Type": pushed.headers["content-type"]}
    raw = ann.client.put(f"/v2/{model}/manifests/prod", content=pushed.content, headers=form)
    assert raw.status_code == 403

    def refused() -> dict[tuple[str, str], dict[str, Any]]:
        listed = ann.client.get("/v1/audit", params={"limit": 1000}).json()["events"]
        return {
            (each["actor"], each["action"]): each["detail"]
            for each in listed
            if each["subject"] == model and each["outcome"] == "denied"
        }

    eventually(lambda: len(refused()) == 3)
    found = refused()
    assert "promote staging" in found["robot:ci", "promote"]["reason"]
    for door in ("promote", "push"):
        verdict = found["user:ann", door]["verdict"]
        assert [each["kind"] for each in verdict["conditions"]] == ["approvals"]


def test_a_token_to_push_moves_what_its_principal_may_move(
    registry: Guarded, ann: Modelling, model: str
) -> None:
    def shown(who: str, actions: str) -> Modelling:
        bearer = registry.bearer(who, f"repository:{model}:{actions}")
        return Modelling(httpx.Client(base_url=registry.url, timeout=60, headers=bearer))

    assert ann.promote(model, "prod", 1).status_code == 200
    pushes, moves = shown("ann", "pull,push"), shown("ann", "pull,promote")
    with pushes.client, moves.client:
        # Clients of docker ask for no more than this.
        pushed = pushes.push(model, "prod", **{"io.lading.framework": "pytorch"})
        assert pushed.status_code == 201, pushed.text
        assert ann.client.get(f"/v1/models/{model}/aliases/prod").json()["version"] == 3
        refused = pushes.promote(model, "prod", 1)
        assert refused.status_code == 401
        assert "insufficient_scope" in refused.headers["www-authenticate"]
        assert moves.promote(model, "prod", 1).status_code == 200
        assert moves.client.post(f"/v2/{model}/blobs/uploads/").status_code == 401

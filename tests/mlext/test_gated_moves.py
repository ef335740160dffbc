# Moves of aliases that have a gate, asked for over HTTP: refused with every reason, then let pass.
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.mlext.models import Modelling
from tests.wire.raw import eventually


@pytest.fixture
def model(models: Modelling) -> Iterator[str]:
    """A model of two versions whose way to prod leads over staging."""
    name = models.name()
    gate = f"/v1/gates/{name.replace('/', '.')}"
    asked = {
        "model": name,
        "alias": "prod",
        "rules": ["version.metrics.f1 >= 0.9"],
        "soak": {"alias": "staging", "seconds": 1},
    }
    assert models.client.put(gate, json=asked).status_code == 200
    for _ in range(2):
        models.register(name, metrics={"f1": 0.5})
    yield name
    models.client.delete(gate)


def failed(document: dict[str, Any]) -> list[str]:
    return [each["kind"] for each in document["conditions"] if not each["passed"]]


def evaluate(models: Modelling, model: str, number: int) -> None:
    place = f"/v1/models/{model}/versions/{number}/evaluations"
    assert models.client.post(place, json={"metrics": {"f1": 0.95}}).status_code == 201


def test_a_move_that_is_refused_says_every_condition(models: Modelling, model: str) -> None:
    refused = models.promote(model, "prod", 1)
    assert refused.status_code == 403, refused.text
    assert refused.json()["code"] == "gate_unsatisfied"
    assert failed(refused.json()["data"]) == ["rule", "soak"]
    place = f"/v1/models/{model}/aliases/prod"
    checked = models.client.get(f"{place}/check", params={"version": 1}).json()
    assert (checked["passed"], checked["may_promote"]) == (False, True)
    assert failed(checked) == ["rule", "soak"]
    assert models.client.get(place).status_code == 404
    assert models.digest_at(model, "prod") is None


def test_what_was_asked_for_lets_it_pass(models: Modelling, model: str) -> None:
    evaluate(models, model, 1)
    assert models.promote(model, "staging", 1).status_code == 200
    assert failed(models.promote(model, "prod", 1).json()["data"]) == ["soak"]
    eventually(lambda: models.promote(model, "prod", 1).status_code == 200, 5)
    assert models.digest_at(model, "prod") == models.digest_at(model, "v1")


def test_time_on_the_other_alias_counts_from_its_last_return(models: Modelling, model: str) -> None:
    evaluate(models, model, 1)
    models.promote(model, "staging", 1)
    eventually(lambda: models.promote(model, "prod", 1).status_code == 200, 5)
    evaluate(models, model, 2)
    for number in (2, 1, 2):
        models.promote(model, "staging", number)
    assert failed(models.promote(model, "prod", 2).json()["data"]) == ["soak"]
    # The same once more is no break.
    models.promote(model, "staging", 2)
    eventually(lambda: models.promote(model, "prod", 2).status_code == 200, 5)
    # A version that was in production before need not stand anywhere to go back.
    assert models.promote(model, "prod", 1).status_code == 200


def test_a_push_onto_a_gated_alias_passes_the_gate_or_is_refused(
    models: Modelling, model: str
) -> None:
    said = {"io.lading.metrics": '{"f1": 0.99}'}
    refused = models.push(model, "prod", **said)
    assert refused.status_code == 403, refused.text
    error = refused.json()["errors"][0]
    assert error["code"] == "DENIED"
    assert failed(error["detail"]) == ["soak"]
    # Nothing of it is there, not even the version that it would have been.
    assert models.client.get(f"/v1/models/{model}/versions/3").status_code == 404
    assert models.digest_at(model, "prod") is None


def test_a_gate_for_every_alias_keeps_no_version_from_deletion(
    models: Modelling, model: str
) -> None:
    gate = f"/v1/gates/{model.replace('/', '.')}.every"
    asked = {"model": model, "alias": "*", "approvals": 1}
    assert models.client.put(gate, json=asked).status_code == 200
    try:
        digest = models.digest_at(model, "v2")
        deleted = models.client.delete(f"/v2/{model}/manifests/{digest}")
        assert deleted.status_code == 202, deleted.text
    finally:
        models.client.delete(gate)


def test_a_tag_from_before_its_gate_is_not_taken_away(models: Modelling, model: str) -> None:
    gate = f"/v1/gates/{model.replace('/', '.')}.later"
    digest = models.artifact(model, "later")
    asked = {"model": model, "alias": "later", "approvals": 1}
    assert models.client.put(gate, json=asked).status_code == 200
    try:
        for reference in ("later", digest):
            refused = models.client.delete(f"/v2/{model}/manifests/{reference}")
            assert refused.status_code == 409, refused.text
        assert models.digest_at(model, "later") == digest
        # Of a tag that is not there nothing is said but that.
        assert models.client.delete(f"/v2/{model}/manifests/prod").status_code == 404
    finally:
        models.client.delete(gate)
    assert models.client.delete(f"/v2/{model}/manifests/later").status_code == 202

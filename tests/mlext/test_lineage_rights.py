# Lineage with rules in force: what one may not pull from is not there, by name, node or number.
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from ociserver.storage.postgres import migrate
from tests.access import Guarded
from tests.mlext.models import Modelling, lading
from tests.serving import push_blob
from tests.wire.build import OCI_MANIFEST

RULES = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "register", "promote"]
on = ["secret/**", "team/**"]

[[rule]]
who = "user:bob"
may = ["pull", "push", "register", "promote"]
on = "team/**"

[[rule]]
who = "robot:ci"
may = "pull"
on = "team/**"

[[rule]]
who = "user:ann"
may = "admin"
on = "**"
"""
WHOLE = {
    "dataset_version": "clicks@1",
    "code_commit": "a" * 40,
    "container_image": "sha256:" + "1" * 64,
    "finished_at": "2026-11-25T04:00:00Z",
}
ABSENT = "sha256:" + "e" * 64


@dataclass
class House:
    """What each of them sees of one registry."""

    ann: Modelling
    bob: Modelling
    ci: Modelling
    stranger: Modelling

    def secret(self) -> str:
        """Return the name of a model that only ann may know of."""
        return self.ann.name().replace("team/", "secret/")


class OnPostgres(Guarded):
    """The same registry on another database."""

    url_of_catalog = ""

    @property
    def catalog(self) -> str:
        return self.url_of_catalog


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    data = tmp_path_factory.mktemp("lineage")
    served = Guarded(data)
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
        asyncio.run(migrate(url))
        served = OnPostgres(data, options=("--catalog", url))
        served.url_of_catalog = url
    try:
        served.admit().change_rules(RULES)
        with ExitStack() as stack:
            clients = [stack.enter_context(served.client()) for _ in range(4)]
            for client, name in zip(clients, ("ann", "bob", "ci"), strict=False):
                client.auth = served.basic(name)
            yield House(*map(Modelling, clients))
    finally:
        served.stop()


def asked(models: Modelling, place: str, **query: Any) -> dict[str, Any]:
    answer = models.client.get(place, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of_node(models: Modelling, node: str, **query: Any) -> dict[str, Any]:
    return asked(models, "/v1/lineage", node=node, **query)


def of_version(models: Modelling, model: str, **query: Any) -> dict[str, Any]:
    return asked(models, f"/v1/models/{model}/versions/1/lineage", **query)


def ends(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["source"], each["target"]) for each in found["edges"]]


def put_run(models: Modelling, dataset: str) -> str:
    run = models.name()
    put = models.client.put(f"/v1/runs/{run}", json={"dataset_version": dataset})
    assert put.status_code == 200, put.text
    return run


def copy(models: Modelling, digest: str, source: str, target: str) -> None:
    """Push an artifact of one model to another."""
    found = models.client.get(f"/v2/{source}/manifests/{digest}")
    for each in (found.json()["config"], *found.json()["layers"]):
        bytes_ = models.client.get(f"/v2/{source}/blobs/{each['digest']}").content
        push_blob(models.client, target, bytes_)
    put = models.client.put(
        f"/v2/{target}/manifests/{digest}",
        content=found.content,
        headers={"Content-Type": OCI_MANIFEST},
    )
    assert put.status_code == 201, put.text


def test_a_hidden_model_is_in_no_answer_about_a_dataset_that_it_shares(house: House) -> None:
    dataset = f"{house.bob.name()}@1"
    ours, theirs = house.bob.name(), house.secret()
    digest = house.bob.artifact(ours)
    run = put_run(house.bob, dataset)
    house.bob.register(ours, digest, run_id=run)
    seen = of_node(house.bob, f"dataset:{dataset}")
    hidden = house.ann.artifact(theirs)
    house.ann.register(theirs, hidden, run_id=put_run(house.ann, dataset))
    direct = [{"type": "dataset", "target": dataset}]
    house.ann.register(theirs, lineage=direct)
    house.ann.promote(theirs, "prod", 1)
    # Byte for byte what it was before the hidden one came to be.
    assert of_node(house.bob, f"dataset:{dataset}") == seen
    assert ends(seen) == [(f"run:{run}", f"dataset:{dataset}"), (digest, f"run:{run}")]
    assert of_node(house.bob, f"dataset:{dataset}", alias="prod")["edges"] == []
    whole = of_node(house.ann, f"dataset:{dataset}")
    assert {each.get("model") for each in whole["nodes"]} == {None, ours, theirs}
    assert len(whole["edges"]) == 5


def test_a_hidden_base_dangles_as_if_it_did_not_exist(house: House) -> None:
    theirs, ours, other = house.secret(), house.bob.name(), house.bob.name()
    hidden = house.ann.artifact(theirs)
    data = f"{house.ann.name()}@secret"
    house.ann.register(theirs, hidden, run_id=put_run(house.ann, data))
    house.ann.promote(theirs, "prod", 1)

    def declared(model: str, base: str) -> dict[str, Any]:
        digest = house.bob.artifact(model)
        house.bob.register(model, digest, lineage=[{"type": "base-model", "target": base}])
        found = of_version(house.bob, model)
        assert ends(found) == [(digest, base)]
        assert [each["node"] for each in found["nodes"]] == [digest]
        assert found["dangling"] == [base]
        return found

    found, absent = declared(ours, hidden), declared(other, ABSENT)
    assert found.keys() == absent.keys()
    assert data not in str(found)
    # Asked for itself, it is known as far as they themselves said.
    assert ends(of_node(house.bob, hidden)) == ends(found)
    assert of_node(house.bob, hidden, direction="upstream")["edges"] == []
    assert of_node(house.bob, hidden)["dangling"] == [hidden]
    assert of_node(house.bob, hidden)["nodes"] == found["nodes"]
    # And who may see both sees through it.
    assert f"dataset:{data}" in str(of_version(house.ann, ours))


def test_what_a_hidden_model_says_of_a_shared_artifact_is_not_told(house: House) -> None:
    ours, theirs = house.bob.name(), house.secret()
    digest = house.bob.artifact(ours)
    house.bob.register(ours, digest)
    before = of_version(house.bob, ours)
    copy(house.ann, digest, ours, theirs)
    entries = [{"type": "dataset", "target": "customers@2026"}]
    house.ann.register(theirs, digest, run_id=put_run(house.ann, "x@1"), lineage=entries)
    house.ann.promote(theirs, "prod", 1)
    assert of_version(house.bob, ours) == before
    assert len(of_version(house.ann, ours)["edges"]) == 3
    assert of_node(house.bob, "dataset:customers@2026")["edges"] == []


def test_a_hidden_run_dangles_as_if_it_was_never_put(house: House) -> None:
    run = put_run(house.ann, "data@1")
    found = of_node(house.bob, f"run:{run}")
    assert (found["nodes"], found["edges"]) == ([], [])
    assert found["dangling"] == [f"run:{run}"]
    never = of_node(house.bob, "run:never")
    assert {**found, "node": "", "dangling": []} == {**never, "node": "", "dangling": []}
    # A version that they may pull makes it known.
    house.ann.register(house.ann.name(), run_id=run)
    known = of_node(house.ci, f"run:{run}")
    assert known["dangling"] == []
    assert [each["type"] for each in known["nodes"]] == ["run", "dataset", "version"]


def test_who_put_a_run_knows_it(house: House) -> None:
    run = put_run(house.bob, "mine@1")
    assert ends(of_node(house.bob, f"run:{run}")) == [(f"run:{run}", "dataset:mine@1")]


@pytest.mark.parametrize("said", [{}, {"dataset_version": "secret@1"}, {"dataset_version": "b@2"}])
def test_who_did_not_put_a_run_neither_changes_nor_learns_it(
    house: House, said: dict[str, str]
) -> None:
    run = put_run(house.ann, "secret@1")
    refused = house.bob.client.put(f"/v1/runs/{run}", json=said)
    assert refused.status_code == 403, refused.text
    assert "secret@1" not in refused.text
    assert "ann" not in refused.text
    assert house.ann.client.get(f"/v1/runs/{run}").json()["dataset_version"] == "secret@1"


def test_hidden_edges_do_not_crowd_out_those_that_are_seen(house: House) -> None:
    dataset, theirs, ours = f"{house.bob.name()}@1", house.secret(), house.bob.name()
    shared = [{"type": "dataset", "target": dataset}]
    digest = house.bob.artifact(ours)
    house.bob.register(ours, digest, lineage=shared)
    many = [{"type": "dataset", "target": f"d{number}@1"} for number in range(1_000)]
    hidden = house.ann.artifact(theirs)
    copy(house.ann, digest, ours, theirs)
    house.ann.register(theirs, hidden, lineage=shared)
    house.ann.register(theirs, digest, lineage=many)
    found = of_node(house.bob, f"dataset:{dataset}")
    assert ends(found) == [(digest, f"dataset:{dataset}")]
    assert found["truncated"] is False
    assert of_version(house.ann, ours)["truncated"] is True
    assert of_version(house.bob, ours)["truncated"] is False


@pytest.mark.parametrize(
    "place", ["/v1/models/{}/versions/1/lineage", "/v2/{}/_lading/versions/1/lineage"]
)
def test_a_hidden_version_and_none_at_all_are_the_same(house: House, place: str) -> None:
    theirs = house.secret()
    house.ann.register(theirs)
    for method in ("GET", "POST"):
        for name in (theirs, house.secret()):
            answer = house.bob.client.request(method, place.format(name))
            assert answer.status_code == 404
            assert f"no repository {name} that" in answer.text


def test_who_may_not_register_adds_no_edge(house: House) -> None:
    ours = house.bob.name()
    house.bob.register(ours)
    place = f"/v1/models/{ours}/versions/1/lineage"
    edge = {"type": "derived-from", "target": ABSENT}
    assert house.ci.client.post(place, json=edge).status_code == 403
    assert house.bob.client.post(place, json=edge).status_code == 201
    assert ends(of_version(house.ci, ours))[0][1] == ABSENT


def test_a_stranger_is_asked_who_they_are(house: House) -> None:
    for place in ("/v1/lineage?node=run:x", "/v1/models/team/x/versions/1/lineage"):
        answer: httpx.Response = house.stranger.client.get(place)
        assert answer.status_code == 401


def finish(models: Modelling, run: str, **said: str) -> None:
    """Put a run of which nothing is missing."""
    put = models.client.put(f"/v1/runs/{run}", json={**WHOLE, **said})
    assert put.status_code == 200, put.text


def names_it(models: Modelling, model: str, run: str, by: str) -> httpx.Response:
    """Have a version name the run, registered or pushed."""
    if by == "push":
        return models.push(model, "x", **lading(run_id=run, framework="pytorch"))
    document = {"artifact_digest": models.artifact(model), "run_id": run}
    return models.client.post(f"/v1/models/{model}/versions", json=document)


def is_traced(house: House, model: str, number: int = 1) -> bool:
    """Tell whether a gate that asks for complete lineage would let the version pass."""
    gate = f"/v1/gates/{model}"
    document = {"model": model, "alias": "prod", "lineage": True, "rules": ["run != null"]}
    assert house.ann.client.put(gate, json=document).status_code == 200
    place = f"/v1/models/{model}/aliases/prod/check"
    found = asked(house.ci, place, version=number)
    assert {each["passed"] for each in found["conditions"]} == {found["passed"]}
    assert house.ann.client.delete(gate).status_code == 204
    return bool(found["passed"])


@pytest.mark.parametrize("by", ["registration", "push"])
def test_a_run_that_one_may_not_know_is_not_named(house: House, by: str) -> None:
    run, ours = house.ann.name(), house.bob.name()
    finish(house.ann, run)
    refused = names_it(house.bob, ours, run, by)
    assert refused.status_code == 403, refused.text
    # It says what a PUT of the run does, and no more.
    put = house.bob.client.put(f"/v1/runs/{run}", json={})
    assert put.json()["detail"] in refused.text
    assert put.json()["detail"] == f"run {run} was put by somebody else"
    assert house.bob.client.get(f"/v1/models/{ours}/versions/1").status_code == 404
    assert house.bob.client.get(f"/v1/runs/{run}").status_code == 404


@pytest.mark.parametrize("by", ["registration", "push"])
def test_who_may_pull_a_version_of_a_run_names_it_too(house: House, by: str) -> None:
    run, theirs, ours = house.ann.name(), house.ann.name(), house.bob.name()
    finish(house.ann, run)
    house.ann.register(theirs, run_id=run)
    packed = names_it(house.bob, ours, run, by)
    assert packed.status_code == 201, packed.text
    assert is_traced(house, ours)
    assert house.ci.client.get(f"/v1/runs/{run}").status_code == 200


def test_a_run_that_was_named_too_early_is_not_told(house: House) -> None:
    run, ours, dataset = house.ann.name(), house.bob.name(), f"{house.ann.name()}@1"
    house.bob.register(ours, run_id=run)
    house.bob.register(ours)
    before = of_version(house.bob, ours)
    assert before["dangling"] == [f"run:{run}"]
    finish(house.ann, run, dataset_version=dataset)
    assert house.bob.client.get(f"/v1/runs/{run}").status_code == 404
    assert of_version(house.bob, ours) == before
    assert of_node(house.bob, f"dataset:{dataset}")["edges"] == []
    # Searched by what narrows, and by what each is held against.
    for sought in (f"lineage.dataset = '{dataset}'", "lineage.dataset is not null"):
        place = f"/v1/models/{ours}/versions"
        assert asked(house.bob, place, filter=sought)["versions"] == []
    compared = asked(house.bob, f"/v1/models/{ours}/compare", base=1, target=2)
    assert dataset not in str(compared)
    assert not is_traced(house, ours)
    # Nor may it be named now.
    assert names_it(house.bob, ours, run, "registration").status_code == 403
    # Whoever put it sees that it was named, and its own versions are of it.
    house.ann.register(ours, run_id=run)
    assert is_traced(house, ours, 3)
    assert not is_traced(house, ours, 1)


def test_who_names_a_run_may_put_it_later(house: House) -> None:
    run, ours = house.bob.name(), house.bob.name()
    house.bob.register(ours, run_id=run)
    assert not is_traced(house, ours)
    finish(house.bob, run)
    assert is_traced(house, ours)
    assert house.ci.client.get(f"/v1/runs/{run}").json()["dataset_version"] == "clicks@1"
    place = f"/v1/models/{ours}/versions"
    sought = asked(house.ci, place, filter="lineage.dataset = 'clicks@1'")
    assert [each["version"] for each in sought["versions"]] == [1]

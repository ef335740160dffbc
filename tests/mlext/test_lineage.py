# Lineage: what a version came from, what came of a dataset, and how that is added to.
from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.mlext.models import Modelling
from tests.serving import Served, digest_of, push_blob

ABSENT = "sha256:" + "e" * 64


def lineage(models: Modelling, model: str, number: int = 1, **query: Any) -> dict[str, Any]:
    answer = models.client.get(f"/v1/models/{model}/versions/{number}/lineage", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of_node(models: Modelling, node: str, **query: Any) -> dict[str, Any]:
    answer = models.client.get("/v1/lineage", params={"node": node, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def edges(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["source"], each["type"], each["target"]) for each in found["edges"]}


def types(found: dict[str, Any]) -> dict[str, str]:
    return {each["node"]: each["type"] for each in found["nodes"]}


def run_on(models: Modelling, dataset: str, **said: str) -> str:
    """Put a run on the dataset; return its id."""
    run = models.name()
    put = models.client.put(f"/v1/runs/{run}", json={"dataset_version": dataset, **said})
    assert put.status_code == 200, put.text
    return run


def test_a_version_is_followed_to_its_data_code_image_and_base(models: Modelling) -> None:
    base, model = models.name(), models.name()
    base_digest = models.artifact(base)
    models.register(base, base_digest)
    image = models.artifact(models.name())
    dataset = f"{models.name()}@3"
    run = run_on(models, dataset, code_commit="a" * 40, container_image=image)
    entries = [
        {"type": "base-model", "target": base_digest},
        {"type": "derived-from", "target": ABSENT},
    ]
    digest = models.artifact(model)
    models.register(model, digest, run_id=run, lineage=entries)

    found = lineage(models, model, direction="upstream")
    assert (found["node"], found["direction"], found["depth"]) == (digest, "upstream", 10)
    assert edges(found) == {
        (digest, "run", f"run:{run}"),
        (digest, "base-model", base_digest),
        (digest, "derived-from", ABSENT),
        (f"run:{run}", "dataset", f"dataset:{dataset}"),
        (f"run:{run}", "code", "commit:" + "a" * 40),
        (f"run:{run}", "image", image),
    }
    assert types(found) == {
        digest: "version",
        base_digest: "version",
        f"run:{run}": "run",
        f"dataset:{dataset}": "dataset",
        "commit:" + "a" * 40: "commit",
        image: "image",
    }
    assert found["dangling"] == [ABSENT]
    assert found["truncated"] is False
    near = lineage(models, model, direction="upstream", depth=1)
    assert f"dataset:{dataset}" not in types(near)
    assert lineage(models, model, direction="downstream")["edges"] == []


def test_the_production_models_of_a_dataset_are_found(models: Modelling) -> None:
    dataset, other = f"{models.name()}@1", f"{models.name()}@1"
    base, tuned, idle = models.name(), models.name(), models.name()
    base_digest = models.artifact(base)
    models.register(base, base_digest, run_id=run_on(models, dataset))
    tuned_digest = models.artifact(tuned)
    models.register(tuned, tuned_digest, lineage=[{"type": "adapter-of", "target": base_digest}])
    models.register(idle, run_id=run_on(models, dataset))
    models.register(tuned, run_id=run_on(models, other))
    models.promote(tuned, "prod", 1)
    models.promote(tuned, "canary", 1)
    models.promote(idle, "staging", 1)

    whole = of_node(models, f"dataset:{dataset}", direction="downstream")
    versions = [each for each in whole["nodes"] if each["type"] == "version"]
    assert {(each["model"], each["version"]) for each in versions} == {
        (base, 1), (tuned, 1), (idle, 1),
    }  # fmt: skip
    # As runs name it, too.
    assert of_node(models, dataset, direction="downstream") == whole

    found = of_node(models, dataset, direction="downstream", alias="prod")
    (version,) = [each for each in found["nodes"] if each["type"] == "version"]
    assert (version["model"], version["version"]) == (tuned, 1)
    assert version["aliases"] == ["canary", "prod"]
    assert version["node"] == tuned_digest
    # And how it came from there.
    assert [(each["type"], each["target"]) for each in found["edges"]][::2] == [
        ("dataset", f"dataset:{dataset}"),
        ("adapter-of", base_digest),
    ]
    assert of_node(models, dataset, alias="absent")["edges"] == []


def test_a_cycle_is_gone_round_once(models: Modelling) -> None:
    names = [models.name() for _ in range(3)]
    digests = [models.artifact(name) for name in names]
    for name, digest, target in zip(names, digests, digests[1:] + digests[:1], strict=True):
        models.register(name, digest, lineage=[{"type": "derived-from", "target": target}])
    for direction in ("upstream", "downstream", "both"):
        found = lineage(models, names[0], direction=direction, depth=50)
        assert len(found["edges"]) == 3
        assert sorted(each["node"] for each in found["nodes"]) == sorted(digests)


def test_the_same_artifact_is_a_version_of_each_of_its_models(models: Modelling) -> None:
    first, second = sorted((models.name(), models.name()))
    digest = models.artifact(first)
    models.register(first, digest)
    push_blob(models.client, second, b"{}")
    body = models.client.get(f"/v2/{first}/manifests/{digest}")
    layer = body.json()["layers"][0]["digest"]
    models.client.post(f"/v2/{second}/blobs/uploads/", params={"mount": layer, "from": first})
    kind = {"Content-Type": body.headers["content-type"]}
    models.client.put(f"/v2/{second}/manifests/x", content=body.content, headers=kind)
    models.register(second, digest)
    found = lineage(models, second)
    assert [(each["node"], each["model"]) for each in found["nodes"]] == [
        (digest, first), (digest, second),
    ]  # fmt: skip


def test_an_edge_is_added_later_and_changes_no_version(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    models.register(model, digest)
    place = f"/v1/models/{model}/versions/1"
    before = models.client.get(place)
    dataset = f"{models.name()}@7"
    edge = {"type": "dataset", "target": dataset}
    added = models.client.post(f"{place}/lineage", json=edge)
    assert added.status_code == 201, added.text
    assert added.json() == {"source": digest, "type": "dataset", "target": f"dataset:{dataset}"}
    again = models.client.post(f"/v2/{model}/_lading/versions/1/lineage", json=edge)
    assert (again.status_code, again.json()) == (200, added.json())
    assert edges(lineage(models, model)) == {(digest, "dataset", f"dataset:{dataset}")}
    after = models.client.get(place)
    assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"type": "made-by", "target": "x"}, "unknown"),
        ({"type": "run", "target": "run:x"}, "unknown"),
        ({"type": "image", "target": "repo:latest"}, "digest"),
        ({"type": "dataset", "target": "data@latest"}, "stays"),
        ({"type": "code", "target": "main"}, "commit"),
        ({"target": ABSENT}, "unknown"),
        ({"type": "derived-from", "target": ABSENT, "x": 1}, "unknown"),
    ],
)
def test_a_bad_edge_is_told_what_is_bad(
    models: Modelling, document: dict[str, object], reason: str
) -> None:
    model = models.name()
    models.register(model)
    answer = models.client.post(f"/v1/models/{model}/versions/1/lineage", json=document)
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["detail"]


def test_a_version_does_not_come_from_itself(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    models.register(model, digest)
    edge = {"type": "derived-from", "target": digest}
    answer = models.client.post(f"/v1/models/{model}/versions/1/lineage", json=edge)
    assert answer.status_code == 400
    assert "itself" in answer.json()["detail"]


def test_an_edge_of_no_version_is_404(models: Modelling) -> None:
    edge = {"type": "derived-from", "target": ABSENT}
    for place in ("/v1/models/no/such/versions/1", "/v1/models/no/such/versions/x"):
        assert models.client.post(f"{place}/lineage", json=edge).status_code == 404
        assert models.client.get(f"{place}/lineage").status_code == 404


def test_what_nothing_is_known_of_dangles(models: Modelling) -> None:
    for node in (digest_of(models.name().encode()), "run:never-put"):
        found = of_node(models, node)
        assert (found["nodes"], found["edges"], found["dangling"]) == ([], [], [node])
    model = models.name()
    models.register(model, run_id="named-and-never-put")
    found = lineage(models, model)
    assert found["dangling"] == ["run:named-and-never-put"]
    assert len(found["edges"]) == 1
    # Of what is outside, nobody knows more than its name.
    commit = "commit:" + "d" * 40
    assert types(of_node(models, "d" * 40)) == {commit: "commit"}


def test_bytes_that_a_repository_holds_are_an_artifact_or_a_dataset(models: Modelling) -> None:
    model, body = models.name(), models.name().encode()
    held = push_blob(models.client, models.name(), body)
    assert held == digest_of(body)
    manifest = models.artifact(models.name())
    entries = [
        {"type": "dataset", "target": f"somewhere@{held}"},
        {"type": "derived-from", "target": manifest},
    ]
    digest = models.artifact(model)
    models.register(model, digest, lineage=entries)
    found = lineage(models, model)
    assert types(found) == {digest: "version", held: "dataset", manifest: "artifact"}
    assert found["dangling"] == []


def test_many_nodes_are_cut_off_and_said_to_be(models: Modelling) -> None:
    model = models.name()
    targets = [{"type": "dataset", "target": f"d{number}@1"} for number in range(1_000)]
    digest = models.artifact(model)
    models.register(model, digest, lineage=targets)
    found = lineage(models, model)
    assert found["truncated"] is True
    assert len(found["nodes"]) == 1_000
    assert len(found["edges"]) == 999


@pytest.mark.parametrize(
    "query",
    [
        {"depth": "0"},
        {"depth": "51"},
        {"depth": "-1"},
        {"depth": "٣"},
        {"depth": "9" * 5000},
        {"direction": "sideways"},
        {"alias": "v7"},
        {"alias": "-"},
    ],
)
def test_a_bad_query_is_told_what_is_bad(models: Modelling, query: dict[str, str]) -> None:
    for place in ("/v1/lineage", "/v1/models/no/such/versions/1/lineage"):
        answer = models.client.get(place, params={"node": ABSENT, **query})
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "node", ["", "x", "run:\0", "repo:latest", "data@latest", "run:" + "x" * 900]
)
def test_a_node_that_is_none_is_400(models: Modelling, node: str) -> None:
    answer = models.client.get("/v1/lineage", params={"node": node})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "document_invalid"


def test_an_added_edge_is_an_event_of_the_audit_once(tmp_path: Path) -> None:
    served = Served(tmp_path).start()
    try:
        with served.client() as client:
            models = Modelling(client)
            model = models.name()
            digest = models.artifact(model)
            models.register(model, digest)
            edge = {"type": "derived-from", "target": ABSENT}
            place = f"/v1/models/{model}/versions/1/lineage"
            answers = [client.post(place, json=edge) for _ in range(2)]
    finally:
        served.stop()
    assert [each.status_code for each in answers] == [201, 200]
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as db:
        rows = db.execute("SELECT subject, detail FROM audit_event WHERE action = 'edge'")
        ((subject, detail),) = rows.fetchall()
    assert subject == model
    assert json.loads(detail) == {
        "version": 1,
        "digest": digest,
        **edge,
        "request_id": answers[0].headers["x-request-id"],
    }


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("git@github.com:acme/train@", 200),
        ("ssh://git@git.example.com/acme/train.git@", 200),
        ("https://git.example.com/acme/train@", 200),
        # It would be shown to whoever may pull the model.
        ("https://user:secret@git.example.com/acme/train@", 400),
    ],
)
def test_a_commit_is_named_with_the_address_that_git_has(
    models: Modelling, where: str, status: int
) -> None:
    place = f"/v1/runs/{uuid.uuid4().hex}"
    put = models.client.put(place, json={"code_commit": where + "a" * 40})
    assert put.status_code == status, put.text

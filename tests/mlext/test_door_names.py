# Models and aliases that are called like doors: what is done to one is never done to another.
from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mlext.commands import Commands
from tests.mlext.models import Modelling
from tests.serving import Served

# Each is a door of another of them, or of `team/a`.
NAMES = [
    "team/a",
    "team/a/versions",
    "team/a/versions/1",
    "team/a/versions/1/evaluations",
    "team/a/versions/1/lineage",
    "team/a/versions/versions",
    "team/a/aliases",
    "team/a/aliases/prod",
    "team/a/aliases/prod/history",
    "team/a/aliases/aliases",
    "team/a/compare",
    "team/a/artifacts/x/download",
    "versions",
    "aliases/versions",
]
OURS = "/v2/{}/_lading"
COMMON = "/v1/models/{}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modelling]:
    """A registry of its own with all of these models, each with two versions, an alias and an owner
    that is its name.
    """
    served = Served(tmp_path_factory.mktemp("doors")).start()
    with served.client() as client:
        found = Modelling(client)
        for name in NAMES:
            place = OURS.format(name)
            for tag in ("one", "two"):
                document = {"artifact_digest": found.artifact(name, tag), "tags": {"of": name}}
                assert client.post(f"{place}/versions", json=document).status_code == 201
            moved = client.put(f"{place}/aliases/prod", json={"version": 1, "reason": name})
            assert moved.status_code == 200, moved.text
            assert client.patch(place, json={"owner": name}).json()["model"] == name
        yield found
    served.stop()


def got(models: Modelling, place: str, **asked: Any) -> Any:
    answer = models.client.get(place, params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", NAMES)
def test_every_door_of_such_a_model_is_under_v2(models: Modelling, name: str) -> None:
    place = OURS.format(name)
    assert got(models, place)["owner"] == name
    listed = got(models, f"{place}/versions")["versions"]
    assert {each["model"] for each in listed} == {name}
    assert got(models, f"{place}/versions/2")["tags"] == {"of": name}
    assert "prod" in [each["alias"] for each in got(models, f"{place}/aliases")["aliases"]]
    first = got(models, f"{place}/aliases/prod/history")["moves"][-1]
    assert first["reason"] == name
    shown = got(models, f"{place}/aliases/prod", at=first["at"])
    assert (shown["version"], shown["reason"]) == (1, name)
    assert got(models, f"{place}/aliases/prod/check", version=1)["model"] == name
    assert got(models, f"{place}/compare", base=1, target=2)["model"] == name
    digest = got(models, f"{place}/versions/1")["artifact_digest"]
    assert got(models, f"{place}/versions/1/lineage")["node"] == digest
    assert got(models, f"{place}/artifacts/{digest}/download")["model"] == name
    for door in ("description", "evaluations", "approvals"):
        got(models, f"{place}/versions/1/{door}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", [OURS, COMMON])
def test_whatever_is_written_is_of_the_model_that_is_named_or_refused(
    models: Modelling, name: str, door: str
) -> None:
    client, place = models.client, door.format(name)
    last = client.get("/v1/audit", params={"limit": 1}).json()["events"][0]["number"]
    digest = models.artifact(name)
    body: dict[str, Any] = {"artifact_digest": digest}
    # Where an alias stands already nothing moves.
    fresh = uuid.uuid4().hex
    answers = [
        client.post(f"{place}/versions", json=body),
        client.post(f"{place}/versions/1/evaluations", json={"metrics": {"f1": 0.5}}),
        client.post(f"{place}/versions/1/approvals", json={"alias": "prod"}),
        client.post(
            f"{place}/versions/1/lineage", json={"type": "dataset", "target": f"d@{len(digest)}"}
        ),
        client.put(f"{place}/aliases/{fresh}", json={"version": 2, "reason": name}),
        client.put(f"{place}/aliases/versions", json={"version": 2, "reason": name}),
        client.post(
            f"{place}/aliases",
            json={"moves": [{"alias": f"{fresh}-2", "version": 1}], "reason": name},
        ),
        client.patch(place, json={"description": digest}),
    ]
    statuses = {each.status_code for each in answers}
    assert statuses <= ({200, 201} if door == OURS else {200, 201, 405})
    lines = client.get(
        "/v1/audit", params={"after": last}, headers={"Accept": "application/x-ndjson"}
    )
    subjects = [httpx.Response(200, content=each).json()["subject"] for each in lines.iter_lines()]
    assert len(subjects) >= 4
    assert {*subjects} == {name}


@pytest.mark.parametrize("name", NAMES)
def test_commands_tell_of_the_model_that_is_named(
    models: Modelling, tmp_path: Path, name: str
) -> None:
    lading = Commands(str(models.client.base_url), home=str(tmp_path))
    assert lading.json("models", "show", name)["model"] == name
    assert lading.json("models", "describe", name, "--task", f"of {name}")["model"] == name
    assert {each["model"] for each in lading.json("versions", name)["versions"]} == {name}
    assert lading.json("versions", "show", name, 1)["model"] == name
    assert lading.json("compare", name, 1, 2)["model"] == name
    lading.done("promote", name, 1, "prod", "--also", "green=1", "--reason", name)
    lading.done("promote", name, 2, "green", "--reason", name)
    for alias in ("versions", "aliases", "compare", "history"):
        lading.done("promote", name, 2, alias, "--reason", name)
        assert lading.json("alias", "show", name, alias)["reason"] == name
    listed = lading.json("alias", "list", name)["aliases"]
    assert {each["alias"] for each in listed} >= {"prod", "green", "versions", "aliases"}
    assert lading.json("alias", "history", name, "green")["moves"][0]["reason"] == name
    assert lading.json("rollback", name, "green")["version"] == 1


@pytest.mark.parametrize("last", ["manifests", "blobs", "referrers", "blobs/uploads", "tags"])
def test_models_called_like_what_oci_clients_ask_have_a_page_under_v1(
    models: Modelling, tmp_path: Path, last: str
) -> None:
    name = f"team/a/{last}"
    models.register(name)
    place = COMMON.format(name)
    assert models.client.patch(place, json={"owner": name}).json()["model"] == name
    assert got(models, place)["owner"] == name
    lading = Commands(str(models.client.base_url), home=str(tmp_path))
    assert lading.json("models", "show", name)["owner"] == name
    assert models.client.patch(OURS.format(name), json={"owner": "x"}).status_code in {
        200 if last == "tags" else 405, 404,
    }  # fmt: skip
    assert got(models, f"{OURS.format(name)}/versions")["versions"][0]["model"] == name

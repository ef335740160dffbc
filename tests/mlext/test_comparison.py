# Comparing two versions: what differs, and how many bytes they share.
from __future__ import annotations

import json
from typing import Any

import pytest

from mlext.comparison import File, Side, compare, files_of
from tests.mlext.models import Modelling
from tests.serving import push_blob
from tests.wire.build import OCI_MANIFEST, descriptor, image, index

TITLE = "org.opencontainers.image.title"
BASE = {
    "version": 1,
    "framework": "pytorch",
    "description": "",
    "params": {"lr": 1, "amp": True, "old": "x"},
    "tags": {"team": "fraud"},
}
TARGET = {
    "version": 2,
    "framework": "pytorch",
    "description": "better",
    "params": {"lr": 0.1, "amp": 1, "new": "y"},
    "tags": {"team": "fraud"},
}


def side(version: dict[str, Any], files: list[File] | None = None, **fields: Any) -> Side:
    return Side(version=version, files=files, **{"metrics": {}, "run": {}, **fields})


def test_what_is_said_of_them_is_told_apart() -> None:
    found = compare(
        side(BASE, metrics={"f1": 0.5, "old": 1.0, "big": -1.5e308}, run={"code_commit": "a"}),
        side(
            TARGET,
            metrics={"f1": 0.75, "new": 2.0, "big": 1.5e308},
            run={"code_commit": "b", "hyperparams": {"seed": 1}},
        ),
    )
    assert found["base"]["version"] == 1
    assert found["target"]["version"] == 2
    assert found["metadata"] == {"description": {"base": "", "target": "better"}}
    assert found["params"] == {
        "added": {"new": "y"},
        "removed": {"old": "x"},
        "changed": {"lr": {"base": 1, "target": 0.1}, "amp": {"base": True, "target": 1}},
    }
    assert found["tags"] == {"added": {}, "removed": {}, "changed": {}}
    assert found["metrics"] == {
        # JSON has no number for it.
        "big": {"base": -1.5e308, "target": 1.5e308, "delta": None},
        "f1": {"base": 0.5, "target": 0.75, "delta": 0.25},
        "new": {"base": None, "target": 2.0, "delta": None},
        "old": {"base": 1.0, "target": None, "delta": None},
    }
    assert found["run"]["code_commit"] == {"base": "a", "target": "b"}
    assert found["run"]["hyperparams"]["added"] == {"seed": 1}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_files_are_paired_by_name_and_bytes_by_digest() -> None:
    base = [File("w", "d1", 100), File("vocab", "d2", 10), File("readme", "d3", 1)]
    target = [File("w", "d4", 120), File("vocab", "d2", 10), File("notes", "d3", 1)]
    found = compare(side(BASE, base), side(TARGET, target))
    files = found["files"]
    assert [each["path"] for each in files["added"]] == ["notes"]
    assert [each["path"] for each in files["removed"]] == ["readme"]
    assert files["shared"] == [{"path": "vocab", "digest": "d2", "size": 10}]
    assert files["changed"] == [
        {
            "path": "w",
            "base": {"digest": "d1", "size": 100},
            "target": {"digest": "d4", "size": 120},
        }
    ]
    # The renamed one is added and removed, and fetched by nobody again.
    assert (found["bytes_shared"], found["bytes_base"], found["bytes_target"]) == (11, 111, 131)


def test_bytes_that_are_listed_twice_count_once() -> None:
    twice = [File("a", "d1", 5), File("b", "d1", 5)]
    found = compare(side(BASE, twice), side(TARGET, twice))
    assert (found["bytes_shared"], found["bytes_base"]) == (5, 5)


def test_without_its_manifest_a_version_has_no_files_to_compare() -> None:
    found = compare(side(BASE, None), side(TARGET, [File("a", "d1", 5)]))
    assert found["files"] is None
    assert found["bytes_shared"] is None


@pytest.mark.parametrize(
    ("annotations", "path"),
    [
        ({TITLE: "w.bin"}, "w.bin"),
        ({"org.cncf.model.filepath": "m/w.bin", TITLE: "w"}, "m/w.bin"),
        ({"org.cnai.model.filepath": "m/w.bin"}, "m/w.bin"),
        ({TITLE: ""}, None),
        ({TITLE: 7}, None),
        ("none", None),
        (None, None),
    ],
)
def test_a_layer_goes_by_the_name_it_was_packed_with(annotations: Any, path: str | None) -> None:
    layer = descriptor(b"weights", annotations=annotations)
    body = json.dumps({"layers": [layer]}).encode()
    assert files_of(body) == [File(path or layer["digest"], layer["digest"], 7)]


def test_layers_of_one_name_are_told_apart() -> None:
    layers = [descriptor(each, annotations={TITLE: "w"}) for each in (b"1", b"22")]
    found = files_of(json.dumps({"layers": layers}).encode())
    assert [each.path for each in found] == ["w", layers[1]["digest"]]


def test_an_index_has_its_manifests_for_files() -> None:
    child = image()
    [found] = files_of(index(child))
    assert found.size == len(child)
    assert found.path == found.digest


# -- on the wire


def packed(models: Modelling, model: str, files: dict[str, bytes]) -> str:
    for body in (b"{}", *files.values()):
        push_blob(models.client, model, body)
    layers = [descriptor(body, annotations={TITLE: name}) for name, body in files.items()]
    body = json.dumps({**json.loads(image()), "layers": layers}).encode()
    pushed = models.client.put(
        f"/v2/{model}/manifests/x", content=body, headers={"Content-Type": OCI_MANIFEST}
    )
    assert pushed.status_code == 201, pushed.text
    return pushed.headers["docker-content-digest"]


@pytest.mark.parametrize("door", ["/v1/models/{}/compare", "/v2/{}/_lading/compare"])
def test_two_versions_are_compared(models: Modelling, door: str) -> None:
    model = models.name()
    first = packed(models, model, {"w": b"weights", "vocab": b"words"})
    second = packed(models, model, {"w": b"weights2", "vocab": b"words"})
    models.client.put(f"/v1/runs/{model}", json={"code_commit": "c" * 40})
    models.register(model, first, metrics={"f1": 0.5}, run_id=model)
    models.register(model, second, metrics={"f1": 0.5}, params={"lr": 1})
    models.client.post(f"/v1/models/{model}/versions/2/evaluations", json={"metrics": {"f1": 0.75}})
    answer = models.client.get(door.format(model), params={"base": 1, "target": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["model"] == model
    assert found["base"]["artifact_digest"] == first
    assert found["metrics"] == {"f1": {"base": 0.5, "target": 0.75, "delta": 0.25}}
    assert found["run"]["code_commit"] == {"base": "c" * 40, "target": None}
    assert found["params"]["added"] == {"lr": 1}
    assert [each["path"] for each in found["files"]["changed"]] == ["w"]
    assert (found["bytes_shared"], found["bytes_base"], found["bytes_target"]) == (5, 12, 13)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"base": "1"}, 400),
        ({"base": "1", "target": "1", "with": "x"}, 400),
        ({"base": ["1", "2"], "target": "1"}, 400),
        ({"base": "1", "target": "9"}, 404),
        ({"base": "1", "target": "x"}, 404),
    ],
)
def test_what_cannot_be_compared_is_refused(
    models: Modelling, asked: dict[str, Any], status: int
) -> None:
    model = models.name()
    models.register(model)
    answer = models.client.get(f"/v1/models/{model}/compare", params=asked)
    assert answer.status_code == status, answer.text

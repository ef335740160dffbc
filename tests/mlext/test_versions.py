# Versions: what registers one, and that it never changes.
from __future__ import annotations

import pytest

from tests.mlext.models import Modelling, lading
from tests.serving import digest_of, push_blob
from tests.wire.build import OCI_MANIFEST, image, put_manifest

FULL = {
    "framework": "pytorch",
    "metrics": {"f1": 0.91, "loss": 1},
    "params": {"optimizer": "adam", "layers": 12, "lr": 0.001, "amp": True},
    "tags": {"team": "fraud"},
    "run_id": "run-7",
}


def test_an_artifact_becomes_the_next_version(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    answer = models.client.post(
        f"/v1/models/{model}/versions", json={"artifact_digest": digest, **FULL}
    )
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["version"] == 1
    assert made["status"] == "registered"
    assert made["version_id"].startswith("mv_")
    assert answer.headers["location"] == f"/v1/models/{model}/versions/1"

    found = models.client.get(answer.headers["location"])
    assert found.status_code == 200
    assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
    shown = found.json()
    assert {key: shown[key] for key in FULL} == FULL
    assert shown["artifact_digest"] == digest
    assert shown["created_by"] == "anyone"
    assert shown["version_id"] == made["version_id"]
    unchanged = models.client.get(
        answer.headers["location"], headers={"If-None-Match": found.headers["etag"]}
    )
    assert unchanged.status_code == 304


def test_the_same_artifact_is_named_and_not_registered_again(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    first = models.register(model, digest)
    again = models.client.post(f"/v1/models/{model}/versions", json={"artifact_digest": digest})
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    assert again.json()["code"] == "version_exists"
    assert again.json()["data"]["version"] == first
    assert models.register(model) == first + 1


def test_a_manifest_that_says_what_it_is_registers_itself(models: Modelling) -> None:
    model = models.name()
    said = lading(
        framework="pytorch",
        metrics={"f1": 0.9},
        params={"lr": 0.1},
        tags={"a": "b"},
        run_id="r1",
        dataset_version="imagenet@2012",
        code_commit="a" * 40,
        container_image="sha256:" + "1" * 64,
        base_digest="sha256:" + "2" * 64,
    )
    digest = models.artifact(model, "nightly", **said)
    shown = models.client.get(f"/v1/models/{model}/versions/1").json()
    assert shown["artifact_digest"] == digest
    assert shown["metrics"] == {"f1": 0.9}
    assert shown["lineage"] == [{"type": "base-model", "target": "sha256:" + "2" * 64}]
    run = models.client.get("/v1/runs/r1").json()
    assert run["dataset_version"] == "imagenet@2012"
    assert models.digest_at(model, "v1") == digest
    assert models.digest_at(model, "nightly") == digest


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        (lading(metrics="{"), "not JSON"),
        (lading(metrics={"f1": "high"}), "finite number"),
        (lading(metric={"f1": 1}), "unknown"),
        (lading(code_commit="a" * 40), "io.lading.run.id"),
        (lading(run_id="r", code_commit="main"), "commit"),
        (lading(run_id="r", container_image="repo:latest"), "digest"),
        (lading(run_id="r", dataset_version="imagenet@latest"), "stays"),
        (lading(base_digest="llama:7b"), "digest"),
    ],
)
def test_a_push_that_says_it_wrongly_is_refused_whole(
    models: Modelling, annotations: dict[str, str], reason: str
) -> None:
    model = models.name()
    refused = models.push(model, "x", **annotations)
    assert refused.status_code == 400, refused.text
    assert refused.json()["errors"][0]["code"] == "MANIFEST_INVALID"
    assert reason in refused.json()["errors"][0]["message"]
    assert models.digest_at(model, "x") is None
    assert models.client.get(f"/v1/models/{model}").status_code == 404


def test_a_version_has_a_tag_that_nobody_moves_or_takes(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    assert models.register(model, digest) == 1
    assert models.digest_at(model, "v1") == digest
    assert models.push(model, "v1").status_code == 409
    assert models.client.delete(f"/v2/{model}/manifests/v1").status_code == 409
    assert models.digest_at(model, "v1") == digest


def test_a_version_that_is_pushed_again_has_its_tag_again(models: Modelling) -> None:
    model = models.name()
    digest = models.artifact(model)
    models.register(model, digest)
    pushed = models.client.get(f"/v2/{model}/manifests/{digest}")
    form = {"Content-Type": pushed.headers["content-type"]}
    place = f"/v2/{model}/manifests"
    assert models.client.delete(f"{place}/{digest}").status_code == 202
    assert models.digest_at(model, "v1") is None
    again = models.client.put(f"{place}/again", content=pushed.content, headers=form)
    assert again.status_code == 201, again.text
    assert models.digest_at(model, "v1") == digest


def test_a_number_whose_tag_stands_elsewhere_is_passed_over(models: Modelling) -> None:
    model = models.name()
    taken = models.artifact(model, "v1")
    models.artifact(model, "v2")
    assert models.register(model) == 3
    # On this very artifact it stands right.
    assert models.digest_at(model, "v1") == taken
    fourth = models.artifact(model, "v4")
    assert models.register(model, fourth) == 4


def test_bytes_that_are_not_there_are_no_version(models: Modelling) -> None:
    model = models.name()
    absent = models.client.post(
        f"/v1/models/{model}/versions", json={"artifact_digest": "sha256:" + "0" * 64}
    )
    assert absent.status_code == 404
    assert absent.json()["code"] == "manifest_unknown"
    # A manifest whose layer nobody pushed.
    push_blob(models.client, model, b"{}")
    body = image(b"never pushed")
    put_manifest(models.client, model, "sparse", body, OCI_MANIFEST)
    sparse = models.client.post(
        f"/v1/models/{model}/versions", json={"artifact_digest": digest_of(body)}
    )
    assert sparse.status_code == 404
    assert sparse.json()["code"] == "manifest_blob_unknown"
    assert sparse.json()["data"] == [{"digest": digest_of(b"never pushed")}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metrics": {"f1": "0.9"}}, "finite"),
        ({"metrics": {"f1": True}}, "finite"),
        ({"metrics": []}, "object"),
        ({"metrics": {str(n): n for n in range(1001)}}, "1000"),
        ({"params": {"a": None}}, "text"),
        ({"params": {"a": [1]}}, "text"),
        ({"params": {"a": "x" * 300_000}}, "bytes"),
        ({"tags": {"a": 1}}, "text"),
        ({"tags": {"": "x"}}, "name"),
        ({"tags": {"a": "\0"}}, "kept"),
        ({"run_id": "a b"}, "run_id"),
        ({"artifact_digest": "latest"}, "artifact_digest"),
        ({"artefact": 1}, "unknown"),
        ({"lineage": [{"type": "x", "target": "y"}]}, "unknown"),
        ({"lineage": [{"type": "dataset", "target": "data@latest"}]}, "stays"),
        ({"framework": 7}, "framework"),
    ],
)
def test_a_bad_registration_is_told_what_is_bad(
    models: Modelling, change: dict[str, object], reason: str
) -> None:
    model = models.name()
    document = {"artifact_digest": "sha256:" + "0" * 64, **change}
    answer = models.client.post(f"/v1/models/{model}/versions", json=document)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "document_invalid"
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"1" * 5000, b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_400(models: Modelling, body: bytes) -> None:
    answer = models.client.post("/v1/models/x/versions", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_said_of_a_model_changes_and_is_kept(models: Modelling) -> None:
    model = models.name()
    assert models.client.patch(f"/v1/models/{model}", json={"owner": "a"}).status_code == 404
    models.register(model)
    changed = models.client.patch(
        f"/v1/models/{model}", json={"owner": "ml", "task": "classification"}
    )
    assert changed.status_code == 200, changed.text
    shown = models.client.get(f"/v1/models/{model}").json()
    assert (shown["owner"], shown["task"], shown["description"]) == ("ml", "classification", "")
    assert shown["latest_version"] == 1


def test_evaluations_come_later_and_change_no_version(models: Modelling) -> None:
    model = models.name()
    models.register(model, metrics={"f1": 0.5, "loss": 2.0})
    place = f"/v1/models/{model}/versions/1"
    before = models.client.get(place).content
    given = models.client.post(
        f"{place}/evaluations", json={"metrics": {"f1": 0.9}, "dataset": "holdout@3"}
    )
    assert given.status_code == 201, given.text
    shown = models.client.get(f"{place}/evaluations").json()
    assert shown["metrics"] == {"f1": 0.9, "loss": 2.0}
    assert shown["evaluations"][0]["evaluated_by"] == "anyone"
    assert models.client.get(place).content == before
    assert models.client.post(f"{place}/evaluations", json={"metrics": {}}).status_code == 400
    large = {f"{'ü' * 240}{each}": 0.5 for each in range(500)}
    refused = models.client.post(f"{place}/evaluations", json={"metrics": large})
    assert refused.status_code == 400
    assert "bytes in all" in refused.text
    nowhere = f"/v1/models/{model}/versions/9/evaluations"
    assert models.client.post(nowhere, json={"metrics": {"a": 1}}).status_code == 404


def test_a_run_is_frozen_once_it_has_finished(models: Modelling) -> None:
    run = f"/v1/runs/{models.name()}"
    first = models.client.put(run, json={"started_at": "2026-11-25T03:00:00Z"})
    assert first.status_code == 200, first.text
    said = {"code_commit": "b" * 40, "hyperparams": {"lr": 0.1}}
    assert models.client.put(run, json=said).status_code == 200
    end = {"finished_at": "2026-11-25T04:00:00Z"}
    assert models.client.put(run, json=end).status_code == 200
    shown = models.client.get(run).json()
    assert shown["code_commit"] == "b" * 40
    assert shown["started_at"] == "2026-11-25T03:00:00.000000Z"
    # The same again is no change.
    assert models.client.put(run, json=end).status_code == 200
    refused = models.client.put(run, json={"code_commit": "c" * 40})
    assert refused.status_code == 409
    assert refused.json()["code"] == "run_frozen"


@pytest.mark.parametrize(
    "said", [{"started_at": 0}, {"finished_at": False}, {"hyperparams": []}, {"hyperparams": ""}]
)
def test_what_a_run_says_in_another_form_is_not_passed_over(
    models: Modelling, said: dict[str, object]
) -> None:
    run = f"/v1/runs/{models.name()}"
    assert models.client.put(run, json={"hyperparams": {"lr": 0.1}}).status_code == 200
    refused = models.client.put(run, json=said)
    assert refused.status_code == 400, refused.text
    assert next(iter(said)) in refused.json()["detail"]
    # What is empty says nothing, and takes nothing back.
    kept = models.client.put(run, json={"hyperparams": {}, "started_at": None, "finished_at": ""})
    assert kept.json()["hyperparams"] == {"lr": 0.1}


@pytest.mark.parametrize(
    "time",
    ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "9999-12-31T23:59:59.9999999Z"],
)
def test_a_time_that_utc_has_not_is_refused_and_not_kept(models: Modelling, time: str) -> None:
    run = f"/v1/runs/{models.name()}"
    assert models.client.put(run, json={"started_at": "2026-11-25T03:00:00Z"}).status_code == 200
    assert models.client.put(run, json={"started_at": time}).status_code == 400
    assert models.client.get(run).json()["started_at"] == "2026-11-25T03:00:00.000000Z"


# PostgreSQL has no text for the first.
@pytest.mark.parametrize("cursor", ["\0", "A", "a" * 256])
def test_a_cursor_that_no_list_of_models_gives_is_400(models: Modelling, cursor: str) -> None:
    answer = models.client.get("/v1/models", params={"cursor": cursor})
    assert answer.status_code == 400


@pytest.mark.parametrize("door", ["/v1/models/{}/versions/1", "/v2/{}/_lading/versions/1"])
def test_both_doors_lead_to_the_same(models: Modelling, door: str) -> None:
    model = models.name()
    models.register(model)
    assert models.client.get(door.format(model)).json()["model"] == model
    missing = models.client.get(door.format(model).replace("/1", "/2"))
    assert missing.status_code == 404
    kind = "application/problem+json" if door.startswith("/v1") else "application/json"
    assert missing.headers["content-type"] == kind


def test_the_extension_is_listed(models: Modelling) -> None:
    listed = models.client.get("/v2/_oci/ext/discover").json()["extensions"]
    assert "_lading" in [each["name"] for each in listed]

# Aliases: a move is a comparison and a swap, by whatever door, and what was is still known.
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.mlext.models import Modelling
from tests.wire.build import OCI_INDEX, index


def now() -> str:
    return datetime.now(UTC).isoformat()


@pytest.fixture
def model(models: Modelling) -> str:
    """A model of three versions."""
    name = models.name()
    for _ in range(3):
        models.register(name)
    return name


def test_an_alias_is_a_tag_for_every_client(models: Modelling, model: str) -> None:
    moved = models.promote(model, "prod", 1)
    assert moved.status_code == 200, moved.text
    assert moved.json()["version"] == 1
    assert models.digest_at(model, "prod") == moved.json()["artifact_digest"]
    found = models.client.get(f"/v1/models/{model}/aliases/prod")
    assert found.json() == moved.json()
    assert found.headers["cache-control"] == "public, max-age=10"
    assert found.headers["etag"] == moved.headers["etag"]
    held = {"If-None-Match": found.headers["etag"]}
    assert models.client.get(f"/v1/models/{model}/aliases/prod", headers=held).status_code == 304


def test_a_move_back_is_the_same_call(models: Modelling, model: str) -> None:
    first = models.promote(model, "prod", 1).json()["artifact_digest"]
    second = models.promote(model, "prod", 2, expected_version=1).json()["artifact_digest"]
    assert models.digest_at(model, "prod") == second
    assert models.promote(model, "prod", 1, expected_version=2).status_code == 200
    assert models.digest_at(model, "prod") == first
    moves = models.client.get(f"/v1/models/{model}/aliases/prod/history").json()["moves"]
    assert [(each["from_version"], each["version"]) for each in moves] == [
        (2, 1), (1, 2), (None, 1),
    ]  # fmt: skip


def events(models: Modelling, model: str, action: str) -> list[dict[str, Any]]:
    """Return what the audit has of such actions there, the first of them first."""
    asked = {"subject": model, "action": action}
    page: dict[str, list[dict[str, Any]]] = models.client.get("/v1/audit", params=asked).json()
    return page["events"][::-1]


def test_where_it_stands_already_nothing_moves(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/aliases"
    moved = models.promote(model, "prod", 1)
    held = {"If-Match": moved.headers["etag"]}
    again = [
        models.promote(model, "prod", 1, reason="another"),
        models.promote(model, "prod", 1, expected_version=1),
        models.client.put(f"{place}/prod", json={"version": 1}, headers=held),
    ]
    for each in again:
        assert (each.status_code, each.json()) == (200, moved.json())
        assert each.headers["etag"] == moved.headers["etag"]
    # Together with one that moves, too.
    moves = [{"alias": "prod", "version": 1}, {"alias": "blue", "version": 2}]
    several = models.client.post(place, json={"moves": moves, "reason": "both"})
    assert [each["reason"] for each in several.json()["aliases"]] == ["a test", "both"]
    assert len(models.client.get(f"{place}/prod/history").json()["moves"]) == 1
    promoted = [each["detail"]["alias"] for each in events(models, model, "promote")]
    assert promoted == ["prod", "blue"]
    # What was expected is still compared.
    assert models.promote(model, "prod", 1, expected_version=2).status_code == 409
    assert models.promote(model, "prod", 1, expected_version=0).status_code == 409


def test_who_expects_it_elsewhere_is_told_where_it_stands(models: Modelling, model: str) -> None:
    models.promote(model, "prod", 2)
    refused = models.promote(model, "prod", 3, expected_version=1)
    assert refused.status_code == 409
    assert refused.json()["code"] == "alias_elsewhere"
    assert refused.json()["data"]["version"] == 2
    assert models.promote(model, "fresh", 3, expected_version=1).status_code == 409
    assert models.promote(model, "fresh", 3, expected_version=0).status_code == 200


def test_if_match_is_a_comparison_too(models: Modelling, model: str) -> None:
    etag = models.promote(model, "prod", 1).headers["etag"]
    place = f"/v1/models/{model}/aliases/prod"
    document = {"version": 2, "reason": ""}
    moved = models.client.put(place, json=document, headers={"If-Match": etag})
    assert moved.status_code == 200
    # Back on version 1 it is another state than the one the client saw.
    models.promote(model, "prod", 1)
    late = models.client.put(place, json=document, headers={"If-Match": etag})
    assert late.status_code == 409


def test_if_match_may_list_or_ask_for_any(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/aliases/prod"
    document = {"version": 2, "reason": ""}
    none = models.client.put(place, json=document, headers={"If-Match": "*"})
    assert none.status_code == 409
    etag = models.promote(model, "prod", 1).headers["etag"]
    # A weak validator is no proof of the very state (RFC 9110, 13.1.1).
    for refused in (f"W/{etag}", '"9.9", "8.8"', ""):
        answer = models.client.put(place, json=document, headers={"If-Match": refused})
        assert answer.status_code == 409
    for met in (f'"9.9", {etag}', "*"):
        answer = models.client.put(place, json=document, headers={"If-Match": met})
        assert answer.status_code == 200, answer.text


def test_an_alias_that_must_be_new_is_not_moved(models: Modelling, model: str) -> None:
    place = f"/v1/models/{model}/aliases/prod"
    fresh = {"If-None-Match": "*"}
    made = models.client.put(place, json={"version": 1}, headers=fresh)
    assert made.status_code == 200, made.text
    again = models.client.put(place, json={"version": 2}, headers=fresh)
    assert again.status_code == 409
    assert models.client.get(place).json()["version"] == 1
    other = models.client.put(
        place, json={"version": 2}, headers={"If-None-Match": made.headers["etag"]}
    )
    assert other.status_code == 400


def test_several_aliases_move_together_or_not_at_all(models: Modelling, model: str) -> None:
    models.promote(model, "blue", 1)
    models.promote(model, "green", 2)
    place = f"/v1/models/{model}/aliases"
    swap = [
        {"alias": "blue", "version": 2, "expected_version": 1},
        {"alias": "green", "version": 1, "expected_version": 2},
    ]
    done = models.client.post(place, json={"moves": swap, "reason": "swap"})
    assert done.status_code == 200, done.text
    assert [each["version"] for each in done.json()["aliases"]] == [2, 1]
    # Once more it fits no longer: the second would, and stays where it is.
    half = [swap[0], {"alias": "green", "version": 3}]
    assert models.client.post(place, json={"moves": half}).status_code == 409
    shown = models.client.get(place).json()["aliases"]
    assert {each["alias"]: each["version"] for each in shown} == {"blue": 2, "green": 1}


def test_a_request_sent_twice_moves_once(models: Modelling, model: str) -> None:
    place, key = f"/v1/models/{model}/aliases/prod", {"Idempotency-Key": models.name()}
    document = {"version": 1, "reason": "x", "expected_version": 0}
    first = models.client.put(place, json=document, headers=key)
    again = models.client.put(place, json=document, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    other = models.client.put(place, json={**document, "version": 2}, headers=key)
    assert other.status_code == 409
    assert other.json()["code"] == "key_reused"


def test_any_past_moment_can_be_asked_for(models: Modelling, model: str) -> None:
    before = now()
    models.promote(model, "prod", 1)
    between = now()
    models.promote(model, "prod", 2)
    after = now()
    place = f"/v1/models/{model}/aliases/prod"

    def at(moment: str) -> int | None:
        answer = models.client.get(place, params={"at": moment})
        return answer.json()["version"] if answer.status_code == 200 else None

    assert [at(before), at(between), at(after)] == [None, 1, 2]
    moved = models.client.get(f"{place}/history").json()["moves"][0]["at"]
    exactly = datetime.fromisoformat(moved)
    assert at(moved) == 2
    assert at((exactly - timedelta(microseconds=1)).isoformat()) == 1
    # A date is its beginning, in UTC.
    today, tomorrow = moved[:10], str(exactly.date() + timedelta(days=1))
    assert at(tomorrow) == 2
    assert models.client.get(place, params={"at": tomorrow}).json()["at"] == (
        f"{tomorrow}T00:00:00.000000Z"
    )
    assert at(today) == at(f"{today}T00:00:00Z") is None
    # Its ETag is that of then: who holds it moves nothing that moved since.
    then = models.client.get(place, params={"at": between})
    assert then.headers["cache-control"] == "public, max-age=10"
    assert then.headers["etag"] == '"1.1"'
    again = models.client.get(place, params={"at": between}, headers={"If-None-Match": '"1.1"'})
    assert again.status_code == 304
    late = models.client.put(place, json={"version": 1}, headers={"If-Match": '"1.1"'})
    assert late.status_code == 409


def test_what_it_is_expected_on_is_a_number(models: Modelling, model: str) -> None:
    models.promote(model, "prod", 1)
    unsaid = {"alias": "prod", "version": 2, "expected_version": None}
    place = f"/v1/models/{model}/aliases"
    refused = [
        models.promote(model, "prod", 2, expected_version=None),
        models.client.post(place, json={"moves": [unsaid], "reason": "both"}),
        models.client.put(f"{place}/prod", content=b'{"version": 2, "version": 3}'),
        models.client.put(
            f"{place}/prod", content=b'{"version": 2, "expected_version": 2, "expected_version": 1}'
        ),
    ]
    many = ",".join(f'"{number}": 1' for number in [*range(100_000), 99_999])
    refused.append(models.client.put(f"{place}/prod", content=f"{{{many}}}"))
    for each in refused:
        assert (each.status_code, each.json()["code"]) == (400, "document_invalid"), each.text
    assert "'99999' is there twice" in refused[-1].json()["detail"]
    assert models.client.get(f"{place}/prod").json()["version"] == 1


def test_a_version_that_was_deleted_does_not_pass(models: Modelling, model: str) -> None:
    digest = models.client.get(f"/v1/models/{model}/versions/1").json()["artifact_digest"]
    assert models.client.delete(f"/v2/{model}/manifests/{digest}").status_code == 202
    place = f"/v1/models/{model}/aliases/prod"
    moved = models.promote(model, "prod", 1)
    checked = models.client.get(f"{place}/check", params={"version": 1})
    assert moved.status_code == checked.status_code == 404
    assert moved.json()["detail"] == checked.json()["detail"]


@pytest.mark.parametrize(
    "bad", ["yesterday", "2026-13-01", "2026-11-25T03:00:00", "2026-11-25T03:00Z", "20261125", ""]
)
def test_what_is_no_moment_is_told_what_is_expected(
    models: Modelling, model: str, bad: str
) -> None:
    models.promote(model, "prod", 1)
    answer = models.client.get(f"/v1/models/{model}/aliases/prod", params={"at": bad})
    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        f"at {bad!r} is neither a time of RFC 3339 (date, time and offset), such as "
        "2026-11-25T03:00:00Z or 2026-11-25T04:00:00+01:00, nor a date, such as 2026-11-25"
    )


def test_what_is_put_on_record_says_its_time_in_full(models: Modelling) -> None:
    answer = models.client.put(f"/v1/runs/{models.name()}", json={"started_at": "2026-11-25"})
    assert answer.status_code == 400
    assert "started_at '2026-11-25' is not a time of RFC 3339" in answer.json()["detail"]


def test_a_push_onto_an_alias_is_a_move(models: Modelling, model: str) -> None:
    models.promote(model, "prod", 1)
    # No version: it would put bytes into production that nobody registered.
    refused = models.push(model, "prod")
    assert refused.status_code == 409, refused.text
    pushed = models.push(model, "prod", **{"io.lading.framework": "pytorch"})
    assert pushed.status_code == 201, pushed.text
    shown = models.client.get(f"/v1/models/{model}/aliases/prod").json()
    assert shown["version"] == 4
    assert shown["reason"] == "pushed"
    assert models.client.delete(f"/v2/{model}/manifests/prod").status_code == 409


def test_what_an_alias_needs_is_not_deleted(models: Modelling, model: str) -> None:
    models.promote(model, "prod", 1)
    models.promote(model, "prod", 2)
    for number, reason in ((1, "rolled back"), (2, "points at it")):
        digest = models.digest_at(model, f"v{number}")
        refused = models.client.delete(f"/v2/{model}/manifests/{digest}")
        assert refused.status_code == 409
        error = refused.json()["errors"][0]
        assert reason in error["message"]
        assert error["detail"]["reasons"]
    third = models.digest_at(model, "v3")
    assert models.client.delete(f"/v2/{model}/manifests/{third}").status_code == 202
    assert models.promote(model, "prod", 3).status_code == 404
    # The number is never given again, nor is what it was forgotten.
    assert models.register(model) == 4
    assert models.client.get(f"/v1/models/{model}/versions/3").json()["artifact_digest"] == third


def test_what_an_alias_needs_below_an_index_is_not_deleted(models: Modelling) -> None:
    model = models.name()
    child = models.artifact(model)
    digest = child
    for _ in range(2):
        body = index(models.client.get(f"/v2/{model}/manifests/{digest}").content)
        pushed = models.client.put(
            f"/v2/{model}/manifests/all", content=body, headers={"Content-Type": OCI_INDEX}
        )
        assert pushed.status_code == 201, pushed.text
        digest = pushed.headers["docker-content-digest"]
    models.promote(model, "prod", models.register(model, digest))
    models.promote(model, "prod", models.register(model))
    refused = models.client.delete(f"/v2/{model}/manifests/{child}")
    assert refused.status_code == 409, refused.text
    assert f"prod pointed at {digest}, which needs it" in refused.text
    assert models.digest_at(model, child) == child


@pytest.mark.parametrize(
    ("alias", "document", "status"),
    [
        ("v7", {"version": 1}, 400),
        ("-x", {"version": 1}, 400),
        ("prod", {"version": 99}, 404),
        ("prod", {"version": "1"}, 400),
        ("prod", {"version": 0}, 400),
        ("prod", {"version": True}, 400),
        ("prod", {"version": 1, "expected_version": -1}, 400),
        ("prod", {"version": 1, "expect": 1}, 400),
        ("prod", {}, 400),
    ],
)
def test_a_bad_move_is_told_what_is_bad(
    models: Modelling, model: str, alias: str, document: dict[str, object], status: int
) -> None:
    answer = models.client.put(f"/v1/models/{model}/aliases/{alias}", json=document)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_alias_that_is_not_there_is_404(models: Modelling, model: str) -> None:
    assert models.client.get(f"/v1/models/{model}/aliases/none").json()["code"] == "alias_unknown"
    assert models.client.get("/v1/models/no/such/aliases/prod").status_code == 404

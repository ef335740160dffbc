# Aliases that rules name: a tag of that name is one before anybody moved it, by whatever door.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.mlext.models import Modelling

WITHOUT = """
[[rule]]
who = "user:ann"
may = ["pull", "push", "delete", "register", "promote"]
on = ["team/**", "else/**"]

[[rule]]
who = "robot:ci"
may = ["pull", "push", "delete", "register"]
on = ["team/**", "else/**"]

[[rule]]
who = "robot:ci"
may = "promote"
on = "team/**"
aliases = ["*", "**"]
"""
NAMING = """
[[rule]]
who = "user:bob"
may = "promote"
on = "team/**"
aliases = ["prod", "canary-*", "v*"]

[[rule]]
who = "user:bob"
may = "approve"
on = "team/**"
aliases = "reviewed"
"""
# The robot pushes, and the aliases that others are named for are none of its business.
RULES = WITHOUT.replace('"*", "**"', '"nightly-*"') + NAMING
SAID = {"io.lading.framework": "pytorch"}


@dataclass
class House:
    """A registry, and how two see it."""

    served: Guarded
    ann: Modelling
    ci: Modelling


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with guarded(tmp_path_factory.mktemp("named")) as served, ExitStack() as stack:
        served.change_rules(RULES)
        clients = [stack.enter_context(served.client()) for _ in range(2)]
        for client, name in zip(clients, ("ann", "ci"), strict=True):
            client.auth = served.basic(name)
        yield House(served, *map(Modelling, clients))


@contextmanager
def in_force(house: House, rules: str) -> Iterator[None]:
    """Have other rules in force meanwhile."""
    house.served.change_rules(rules)
    try:
        yield
    finally:
        house.served.change_rules(RULES)


def push_again(models: Modelling, model: str, digest: str, tag: str, door: str) -> httpx.Response:
    """Push what is there once more, with a tag."""
    found = models.client.get(f"/v2/{model}/manifests/{digest}")
    place = {"tag": f"manifests/{tag}", "digest": f"manifests/{digest}?tag={tag}"}[door]
    return models.client.put(
        f"/v2/{model}/{place}",
        content=found.content,
        headers={"Content-Type": found.headers["content-type"]},
    )


@pytest.mark.parametrize("alias", ["prod", "canary-7", "reviewed"])
@pytest.mark.parametrize("door", ["tag", "digest"])
def test_who_may_only_push_makes_no_tag_that_a_rule_names(
    house: House, alias: str, door: str
) -> None:
    model = house.ci.name()
    digest = house.ci.artifact(model, **SAID)
    refused = push_again(house.ci, model, digest, alias, door)
    assert refused.status_code == 403, refused.text
    assert f"no rule lets robot:ci promote {alias} in {model}" in refused.text
    assert house.ci.digest_at(model, alias) is None
    assert house.ci.promote(model, alias, 1).status_code == 403


def test_a_first_push_by_who_may_promote_is_a_move(house: House) -> None:
    model = house.ann.name()
    # No version: it would put bytes into production that nobody registered.
    refused = house.ann.push(model, "prod")
    assert refused.status_code == 409, refused.text
    assert "points at versions" in refused.text
    digest = house.ann.artifact(model, "prod", **SAID)
    found = house.ann.client.get(f"/v1/models/{model}/aliases/prod").json()
    assert (found["artifact_digest"], found["updated_by"]) == (digest, "user:ann")
    moves = house.ann.client.get(f"/v1/models/{model}/aliases/prod/history").json()["moves"]
    assert [each["reason"] for each in moves] == ["pushed"]


@pytest.mark.parametrize("tag", ["nightly", "prod2", "canary", "latest"])
def test_other_tags_are_tags(house: House, tag: str) -> None:
    model = house.ci.name()
    assert house.ci.push(model, tag).status_code == 201
    assert house.ci.push(model, tag).status_code == 201
    assert house.ci.client.delete(f"/v2/{model}/manifests/{tag}").status_code == 202


def test_where_no_rule_names_it_it_is_a_tag(house: House) -> None:
    model = house.ci.name().replace("team/", "else/")
    assert house.ci.push(model, "prod").status_code == 201
    assert house.ci.client.delete(f"/v2/{model}/manifests/prod").status_code == 202


def test_a_version_is_no_alias_whatever_a_rule_names(house: House) -> None:
    model = house.ci.name()
    digest = house.ci.artifact(model, **SAID)
    assert house.ci.digest_at(model, "v1") == digest
    assert house.ci.client.delete(f"/v2/{model}/manifests/{digest}").status_code == 202


def test_a_tag_from_before_its_rule_is_moved_and_deleted_like_an_alias(house: House) -> None:
    model = house.ci.name()
    with in_force(house, WITHOUT):
        digest = house.ci.artifact(model, "prod", **SAID)
        assert house.ci.push(model, "prod").status_code == 201
        assert push_again(house.ci, model, digest, "prod", "tag").status_code == 201
    assert house.ci.push(model, "prod").status_code == 403
    for reference in ("prod", digest):
        refused = house.ci.client.delete(f"/v2/{model}/manifests/{reference}")
        assert refused.status_code == 409, refused.text
        assert "alias" in refused.text
    assert house.ci.digest_at(model, "prod") == digest
    # Of a tag that is not there nothing is said but that.
    assert house.ci.client.delete(f"/v2/{model}/manifests/canary-1").status_code == 404
    with in_force(house, WITHOUT):
        assert house.ci.client.delete(f"/v2/{model}/manifests/prod").status_code == 202

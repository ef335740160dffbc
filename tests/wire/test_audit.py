"""The audit over the wire: what is refused is told, whatever was sent, and not without end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access import Guarded, guarded
from tests.serving import digest_of
from tests.wire.raw import eventually

PULL_PUSH = "repository:team/a:pull,push"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as served:
        yield served


@pytest.fixture
def client(registry: Guarded) -> Iterator[httpx.Client]:
    with registry.client() as made:
        yield made


def test_events_are_in_the_audit_and_stay(registry: Guarded, client: httpx.Client) -> None:
    client.get("/v2/", auth=httpx.BasicAuth("mallory", "guess"))
    client.post("/v2/team/a/blobs/uploads/", headers=registry.bearer("bob", PULL_PUSH))
    eventually(lambda: ("mallory", "login", "127.0.0.1", "failed") in registry.events())
    eventually(lambda: ("user:bob", "push", "team/a", "denied") in registry.events())
    assert any(
        action == "add-user" and who.startswith("operator:")
        for who, action, *_ in registry.events()
    )
    assert any(action == "rotate-key" for _, action, *_ in registry.events())
    assert "guess" not in registry.log


def test_a_mount_from_where_one_may_not_read_is_a_refusal(
    registry: Guarded, client: httpx.Client
) -> None:
    path = f"/v2/team/a/blobs/uploads/?mount={digest_of(b'')}&from=secret/mounted"
    headers = registry.bearer("ann", PULL_PUSH)
    assert client.post(path, headers=headers).status_code == 202
    eventually(lambda: ("user:ann", "pull", "secret/mounted", "denied") in registry.events())


@pytest.mark.parametrize("name", ["%00", "%ff%fe", "%ed%a0%80", "\u2028", "x" * 9000])
def test_no_name_that_was_sent_keeps_events_from_the_audit(
    registry: Guarded, client: httpx.Client, name: str
) -> None:
    headers = registry.bearer("bob")
    assert client.get(f"/v2/{name}/tags/list", headers=headers).status_code in (400, 404)
    marker = f"marker-{len(name)}-{abs(hash(name))}"
    client.get("/v2/", auth=httpx.BasicAuth(marker, "x"))
    eventually(lambda: marker in [actor for actor, *_ in registry.events()])


def test_who_is_asked_for_a_login_was_not_refused(tmp_path: Path) -> None:
    with guarded(tmp_path) as served, served.client() as client:
        for number in range(20):
            assert client.get(f"/v2/team/a/manifests/v{number}").status_code == 401
        stranger, bob = served.bearer(None), served.bearer("bob")
        assert client.get("/v2/secret/b/tags/list", headers=stranger).status_code == 401
        assert client.get("/v2/secret/a/tags/list", headers=bob).status_code == 404
        served.stop()
        denied = [each[:3] for each in served.events() if each[3] == "denied"]
    assert denied == [("anyone", "pull", "secret/b"), ("user:bob", "pull", "secret/a")]

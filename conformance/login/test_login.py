"""Each real client, unmodified, logs in and does what rules let it do, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.login.clients import CLIENTS, DENIED, HIDDEN, UNKNOWN, Client, Copying, Refused

if TYPE_CHECKING:
    from conformance.conftest import MakeLayout, MakeTap
    from conformance.login.conftest import MakeClient

COPYING = {name: kind for name, kind in CLIENTS.items() if issubclass(kind, Copying)}


@pytest.fixture(params=[*CLIENTS.values()], ids=[*CLIENTS])
def kind(request: pytest.FixtureRequest) -> type[Client]:
    found: type[Client] = request.param
    return found


def test_an_image_that_one_pushes_another_pulls(
    make_client: MakeClient, kind: type[Client], remote: str, make_layout: MakeLayout
) -> None:
    image = make_layout()
    make_client(kind, "ann").push(image, f"{remote}:v1")
    make_client(kind, "bob").pull(image, f"{remote}:v1")
    with pytest.raises(Refused, match=UNKNOWN):
        make_client(kind, None).pull(image, f"{remote}:v1")


def test_a_robot_pushes_with_its_key(
    make_client: MakeClient, kind: type[Client], remote: str, make_layout: MakeLayout
) -> None:
    make_client(kind, "ci").push(make_layout(), f"{remote}:v1")


def test_a_wrong_password_opens_nothing(
    make_client: MakeClient, kind: type[Client], remote: str, make_layout: MakeLayout
) -> None:
    client, image = make_client(kind, None), make_layout()
    if kind.logs_in:
        with pytest.raises(Refused, match=UNKNOWN):
            client.login("ann", "wrong")
    else:
        client.login("ann", "wrong")
    with pytest.raises(Refused, match=UNKNOWN):
        client.push(image, f"{remote}:v1")


def test_who_may_pull_cannot_push(
    make_client: MakeClient, kind: type[Client], remote: str, make_layout: MakeLayout
) -> None:
    with pytest.raises(Refused, match=DENIED):
        make_client(kind, "bob").push(make_layout(), f"{remote}:v1")


def test_a_repository_without_a_right_is_not_there(
    make_client: MakeClient, kind: type[Client], registry: str, make_layout: MakeLayout
) -> None:
    image = make_layout()
    client = make_client(kind, "ann")
    with pytest.raises(Refused, match=HIDDEN):
        client.pull(image, f"{registry}/private/a:v1")
    with pytest.raises(Refused, match=HIDDEN):
        client.push(image, f"{registry}/private/a:v1")


@pytest.mark.parametrize("kind", COPYING.values(), ids=[*COPYING])
def test_a_copy_between_repositories_mounts_its_layers(
    make_client: MakeClient,
    kind: type[Copying],
    remote: str,
    make_layout: MakeLayout,
    tap: MakeTap,
) -> None:
    image, wire = make_layout(), tap()
    client = make_client(kind, "ann", wire.address)
    source, target = wire.reach(f"{remote}:v1"), wire.reach(f"{remote}-copy:v1")
    client.push(image, source)
    before = len(wire.seen("PUT .*/blobs/uploads/"))
    client.copy(source, target)
    assert wire.seen("POST .*mount=")
    # containers/image asks nobody for the config: it alone goes up again.
    assert len(wire.seen("PUT .*/blobs/uploads/")) <= before + 1
    client.pull(image, target)

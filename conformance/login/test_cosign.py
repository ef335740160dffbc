"""cosign: an image signed with a key pair, and verified by somebody else, through logins."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from conformance.login.clients import DENIED, UNKNOWN, Crane, Refused

if TYPE_CHECKING:
    import httpx

    from conformance.conftest import MakeLayout, Program
    from conformance.login.conftest import MakeClient

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# Its own services are on the internet, where no test goes: a proxy that nobody answers at stops it.
ALONE = {"HTTPS_PROXY": "http://127.0.0.1:9", "COSIGN_PASSWORD": ""}
SIGN = ("sign", "--yes", "--use-signing-config=false", "--tlog-upload=false", "--key")
VERIFY = ("verify", "--insecure-ignore-tlog=true", "--key")


class Cosign(Crane):
    """cosign and crane, which share what is written down of logins. Its keys lie in its home."""

    @property
    def cosign(self) -> Program:
        program = self.at_home(self.programs.tool("cosign"))
        return replace(program, environment={**program.environment, **ALONE})

    def login(self, name: str, secret: str) -> None:
        told = ("login", self.address, "--username", name, "--password-stdin")
        self.cosign(*told, given=secret.encode())


@pytest.fixture
def people(make_client: MakeClient) -> list[Cosign]:
    """ann with her key pair, bob, somebody with a wrong password, and nobody."""
    made = [make_client(Cosign, name) for name in ("ann", "bob", None, None)]
    ann, bob, wrong, nobody = (each for each in made if isinstance(each, Cosign))
    wrong.login("ann", "wrong")
    ann.cosign("generate-key-pair", cwd=ann.home)
    return [ann, bob, wrong, nobody]


def test_who_pushes_signs_and_who_pulls_verifies(
    people: list[Cosign],
    remote: str,
    make_layout: MakeLayout,
    wire: httpx.Client,
) -> None:
    ann, bob, wrong, nobody = people
    private, public = ann.home / "cosign.key", ann.home / "cosign.pub"
    image = make_layout()
    ann.push(image, f"{remote}:v1")
    reference = f"{remote}@{image.digest}"
    for each, words in ((bob, DENIED), (wrong, UNKNOWN), (nobody, UNKNOWN)):
        with pytest.raises(Refused, match=words):
            each.cosign(*SIGN, private, reference)
    with pytest.raises(Refused, match="no signatures found"):
        bob.cosign(*VERIFY, public, reference)
    ann.cosign(*SIGN, private, reference)
    (signed,) = json.loads(bob.cosign(*VERIFY, public, reference))
    assert signed["critical"]["image"]["docker-manifest-digest"] == image.digest
    for each in (wrong, nobody):
        with pytest.raises(Refused, match=UNKNOWN):
            each.cosign(*VERIFY, public, reference)
    # A signature is a referrer, and no tag beside the image's own.
    path = f"/v2/{remote.partition('/')[2]}"
    (entry,) = wire.get(f"{path}/referrers/{image.digest}").json()["manifests"]
    assert entry["artifactType"] == BUNDLE
    assert wire.get(f"{path}/tags/list").json()["tags"] == ["v1"]

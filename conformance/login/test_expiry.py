"""Tokens end while a push goes on: the registry's are good for a minute, and a tap is slow.

A layer of each push takes longer than any token is good for, so that the request which ends it
comes with a token that has ended, or with another one; so do the manifest and what else follows. A
minute is the least that skopeo, podman and regctl believe: whatever they are told, they ask no
sooner.
"""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from conformance.login.clients import CLIENTS, OrasPythonWithBasic, Refused, RegctlInChunks

if TYPE_CHECKING:
    import httpx

    from conformance.conftest import MakeLayout, MakeTap
    from conformance.login.clients import Client
    from conformance.login.conftest import MakeClient

TOKEN_SECONDS = 60
PACE = 4_900  # bytes a second; a layer has more than 300,000
KINDS: dict[str, type[Client]] = {**CLIENTS, "regctl in chunks": RegctlInChunks}


@pytest.mark.timeout(240)
def test_pushes_outlive_their_tokens(
    make_client: MakeClient,
    remote: str,
    make_layout: MakeLayout,
    tap: MakeTap,
    wire: httpx.Client,
) -> None:
    """All at once: each takes more than a minute, and does not do much in it."""
    image = make_layout(layers=1)  # skopeo brings them one after the other
    wires = {name: tap(pace_up=PACE) for name in KINDS}
    clients = {name: make_client(kind, "ann", wires[name].address) for name, kind in KINDS.items()}
    places = {name: f"{remote}-{name.lower().replace(' ', '-')}:v1" for name in KINDS}

    def push(name: str) -> str:
        """Why it failed; nothing if it did not."""
        began = time.monotonic()
        try:
            clients[name].push(image, wires[name].reach(places[name]))
        except (Refused, subprocess.TimeoutExpired) as error:
            return str(error)
        assert time.monotonic() - began > TOKEN_SECONDS
        return ""

    with ThreadPoolExecutor(len(KINDS)) as threads:
        said = dict(zip(KINDS, threads.map(push, KINDS), strict=True))

    # oras-py answers each 401 with the only token it ever takes. With that it ends the upload in
    # chunks that it had begun, and then nothing more.
    assert "the token has expired" in said.pop("oras-py")
    assert len(wires["oras-py"].seen("GET /token")) == 1
    assert len(wires["oras-py"].seen("PATCH .*/blobs/uploads/")) > 1
    layer, *_ = image.layers
    path = f"/v2/{places['oras-py'].partition('/')[2].rpartition(':')[0]}/blobs/{layer}"
    assert wire.get(path).content == image.blobs[layer]

    assert not any(said.values()), said
    for name in said:
        make_client(KINDS[name], "bob").pull(image, places[name])


def test_oras_python_needs_no_token_with_basic(
    make_client: MakeClient, remote: str, make_layout: MakeLayout, tap: MakeTap
) -> None:
    """So it is to be used for what takes longer than a token is good."""
    image, wire = make_layout(layers=1), tap()
    client = make_client(OrasPythonWithBasic, "ann", wire.address)
    client.push(image, wire.reach(f"{remote}:v1"))
    client.pull(image, wire.reach(f"{remote}:v1"))
    assert not wire.seen("/token")

from __future__ import annotations

import httpx

from tests.serving import push_blob


def test_a_pushed_blob_is_pulled_back(client: httpx.Client) -> None:
    digest = push_blob(client, "smoke/one", b"cargo")
    assert client.get(f"/v2/smoke/one/blobs/{digest}").content == b"cargo"

"""Pushing and registering models, as tests do it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from tests.serving import digest_of, push_blob
from tests.wire.build import OCI_MANIFEST, image


@dataclass
class Modelling:
    """A registry that models are pushed to. `auth` is used for every request."""

    client: httpx.Client

    def name(self) -> str:
        """Return a name that no other test has."""
        return f"team/{uuid.uuid4().hex}"

    def push(self, model: str, tag: str | None, **annotations: str) -> httpx.Response:
        """Push a manifest with a layer that nobody else has; return the answer, whatever it is."""
        layer = uuid.uuid4().bytes
        for blob in (b"{}", layer):
            push_blob(self.client, model, blob)
        body = image(layer, annotations=annotations)
        return self.client.put(
            f"/v2/{model}/manifests/{tag or digest_of(body)}",
            content=body,
            headers={"Content-Type": OCI_MANIFEST},
        )

    def artifact(self, model: str, tag: str | None = None, **annotations: str) -> str:
        """Push such a manifest; return its digest."""
        pushed = self.push(model, tag, **annotations)
        assert pushed.status_code == 201, pushed.text
        return pushed.headers["docker-content-digest"]

    def register(self, model: str, digest: str | None = None, **fields: Any) -> int:
        """Register an artifact, a fresh one unless its digest is given; return the number."""
        document = {"artifact_digest": digest or self.artifact(model), **fields}
        answer = self.client.post(f"/v1/models/{model}/versions", json=document)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["version"])

    def promote(self, model: str, alias: str, number: int, **fields: Any) -> httpx.Response:
        """Move an alias."""
        return self.client.put(
            f"/v1/models/{model}/aliases/{alias}",
            json={"version": number, "reason": "a test", **fields},
        )

    def digest_at(self, model: str, reference: str) -> str | None:
        """Return the digest that a pull by this reference gives, None where there is none."""
        answer = self.client.get(f"/v2/{model}/manifests/{reference}")
        return answer.headers["docker-content-digest"] if answer.status_code == 200 else None


def lading(**annotations: Any) -> dict[str, str]:
    """Return `io.lading.*` annotations: `run_id` is `io.lading.run.id`."""
    return {
        f"io.lading.{key.replace('_', '.')}": value if isinstance(value, str) else json.dumps(value)
        for key, value in annotations.items()
    }

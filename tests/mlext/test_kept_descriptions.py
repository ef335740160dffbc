# Descriptions that are kept take up so much memory and no more.
from __future__ import annotations

import json

from mlext.web.descriptions import Kept
from ociserver.refs import Digest
from tests.mlext.models import Modelling
from tests.serving import digest_of, push_blob
from tests.wire.build import OCI_MANIFEST, descriptor, image

A, B, C = (Digest("sha256:" + each * 64) for each in "abc")


def test_the_one_that_was_asked_for_least_recently_goes_first() -> None:
    kept = Kept(10)
    kept.keep(A, b"1234")
    kept.keep(B, b"1234")
    assert kept.get(A) == b"1234"
    kept.keep(C, b"1234")
    assert (kept.get(A), kept.get(B), kept.get(C)) == (b"1234", None, b"1234")


def test_the_same_again_takes_no_more_room_and_what_is_too_large_none() -> None:
    kept = Kept(10)
    for _ in range(5):
        kept.keep(A, b"1234")
    kept.keep(B, b"123456")
    assert kept.get(A) == b"1234"
    kept.keep(C, b"x" * 11)
    assert (kept.get(A), kept.get(C)) == (b"1234", None)
    kept.keep(A, b"x" * 10)
    assert kept.get(A) == b"x" * 10


def test_a_description_that_a_client_has_is_not_sent_again(models: Modelling) -> None:
    model = models.name()
    push_blob(models.client, model, b"{}")
    push_blob(models.client, model, b"weights")
    for name in ("a.bin", "b.bin"):
        layer = descriptor(b"weights", annotations={"org.opencontainers.image.title": name})
        body = json.dumps({**json.loads(image()), "layers": [layer]}).encode()
        digest = digest_of(body)
        put = models.client.put(
            f"/v2/{model}/manifests/{digest}", content=body, headers={"Content-Type": OCI_MANIFEST}
        )
        assert put.status_code == 201, put.text
        models.register(model, digest)
    place = f"/v1/models/{model}/versions/{{}}/description"
    first, second = (models.client.get(place.format(number)) for number in (1, 2))
    # As long as each other: a validator tells them apart all the same.
    assert len(first.content) == len(second.content)
    again = {"If-None-Match": first.headers["etag"]}
    assert models.client.get(place.format(1), headers=again).status_code == 304
    assert models.client.get(place.format(2), headers=again).content == second.content

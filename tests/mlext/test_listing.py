# What a stored manifest lists: whatever else stands in it.
from __future__ import annotations

import json

import pytest

from mlext.listing import NAMES, Listed, listed
from ociserver.content import OCI_MANIFEST, parse_manifest
from ociserver.refs import Digest
from tests.wire.build import descriptor, image

DIGEST = Digest("sha256:" + "a" * 64)
CNCF, CNAI, TITLE = NAMES


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({TITLE: "w", CNAI: "n/w", CNCF: "m/w"}, ("m/w", "n/w", "w")),
        ({TITLE: "w", "other": "x"}, ("w",)),
        ({TITLE: "", CNCF: 7}, ()),
        ([1], ()),
        (None, ()),
    ],
)
def test_a_file_has_the_names_that_packers_gave_it(
    annotations: object, names: tuple[str, ...]
) -> None:
    layer = {"digest": DIGEST, "size": 7, "annotations": annotations}
    body = json.dumps({"layers": [layer], "blobs": None}).encode()
    assert listed(body, "layers", "blobs") == [Listed(names, DIGEST, 7)]


def test_lists_that_are_not_asked_for_or_not_there_are_none() -> None:
    body = json.dumps({"manifests": [{"digest": DIGEST, "size": 7}]}).encode()
    assert listed(body, "layers", "blobs") == []
    assert [each.digest for each in listed(body, "manifests")] == [DIGEST]


def test_a_number_that_python_does_not_read_is_passed_over() -> None:
    layer = descriptor(b"weights")
    document = json.dumps({**json.loads(image()), "layers": [layer]})
    body = f'{document[:-1]}, "x": {"9" * 5000}}}'.encode()
    parse_manifest(body, OCI_MANIFEST)  # the registry takes it
    assert listed(body, "layers") == [Listed((), Digest(layer["digest"]), 7)]

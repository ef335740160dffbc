"""A real model folder, as the safetensors library writes it, through oras and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.conftest import MakeTap, Program, Tools

SHARDS = 3
WEIGHTS = "application/vnd.conformance.weights.safetensors"


@pytest.fixture
def oras(tool: Tools) -> Program:
    return tool("oras")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    generator = np.random.default_rng()
    places: dict[str, str] = {}
    for number in range(1, SHARDS + 1):
        name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        tensors = {
            f"layers.{number}.{part}.weight": generator.standard_normal((256, 512), np.float32)
            for part in ("attention", "feed_forward")
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": SHARDS * 2 * 256 * 512 * 4}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"hidden_size": 512, "num_layers": SHARDS}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    return folder


def push(oras: Program, reference: str, model: Path) -> dict[str, object]:
    """Push the folder with annotations; the manifest as it is then served."""
    files = [
        f"{path.name}:{WEIGHTS}" if path.suffix == ".safetensors" else path.name
        for path in sorted(model.iterdir())
    ]
    oras(
        *("push", "--plain-http", "--artifact-type", "application/vnd.conformance.model"),
        *("--annotation", "org.opencontainers.image.title=tiny", "--annotation", "accuracy=0.93"),
        *(reference, *files),
        cwd=model,
    )
    manifest: dict[str, object] = json.loads(oras("manifest", "fetch", "--plain-http", reference))
    return manifest


def test_a_model_folder_comes_back_identical(
    oras: Program, remote: str, model: Path, tmp_path: Path
) -> None:
    manifest = push(oras, f"{remote}:v1", model)
    assert manifest["artifactType"] == "application/vnd.conformance.model"
    annotations = manifest["annotations"]
    assert isinstance(annotations, dict)
    assert annotations["org.opencontainers.image.title"] == "tiny"
    assert annotations["accuracy"] == "0.93"
    back = tmp_path / "back"
    oras("pull", "--plain-http", "--output", back, f"{remote}:v1")
    names = sorted(path.name for path in model.iterdir())
    assert sorted(path.name for path in back.iterdir()) == names
    for name in names:
        assert (back / name).read_bytes() == (model / name).read_bytes()


def test_every_pulled_tensor_is_where_the_index_says(
    oras: Program, remote: str, model: Path, tmp_path: Path
) -> None:
    push(oras, f"{remote}:v1", model)
    back = tmp_path / "back"
    oras("pull", "--plain-http", "--output", back, f"{remote}:v1")
    places = json.loads((back / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(places) == SHARDS * 2
    for tensor, name in places.items():
        with safe_open(back / name, "numpy") as ours, safe_open(model / name, "numpy") as first:
            assert np.array_equal(ours.get_tensor(tensor), first.get_tensor(tensor))


def test_a_new_version_uploads_only_what_changed(
    oras: Program, remote: str, model: Path, tap: MakeTap
) -> None:
    push(oras, f"{remote}:v1", model)
    (model / "config.json").write_text(json.dumps({"hidden_size": 512, "num_layers": 4}))
    wire = tap()
    push(oras, wire.reach(f"{remote}:v2"), model)
    assert len(wire.seen("PUT .*/blobs/uploads/")) == 1

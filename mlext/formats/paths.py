"""Paths that a manifest or a tar layer names: which are safe to show and to write, and what kind
of file each is. Pure.
"""

from __future__ import annotations

import re
import unicodedata

from mlext.formats.description import Kind

_PATH_MAX = 4096
# Controls, format characters (bidi overrides among them, which make a name read as another), half
# surrogates, and the line breaks of Unicode.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

_SHARD = re.compile(r"-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})$")

_FORMATS = {
    "safetensors": "safetensors",
    "gguf": "gguf",
    "onnx": "onnx",
    "bin": "pytorch",
    "pt": "pytorch",
    "pth": "pytorch",
    "ckpt": "pytorch",
    "h5": "keras",
    "keras": "keras",
    "tflite": "tflite",
    "pb": "tensorflow",
    "msgpack": "flax",
    "npz": "numpy",
    "joblib": "joblib",
    "pkl": "pickle",
    "pickle": "pickle",
    "dduf": "diffusers",
    "mlmodel": "coreml",
    "engine": "tensorrt",
}
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_FORMATS, "weight"),
    **dict.fromkeys(("json", "yaml", "yml", "toml", "ini", "cfg", "jinja"), "config"),
    **dict.fromkeys(("md", "txt", "rst", "pdf", "html"), "doc"),
    **dict.fromkeys(("py", "ipynb", "sh", "c", "cc", "cpp", "cu", "go", "rs", "js"), "code"),
    **dict.fromkeys(("parquet", "arrow", "csv", "tsv", "jsonl"), "dataset"),
    **dict.fromkeys(("tiktoken", "spm"), "tokenizer"),
}
_LICENCE = re.compile(r"(?:licen[sc]es?|copying|notice)(?:[-_.].*)?", re.IGNORECASE)
_TOKENIZER = re.compile(
    r"(?:tokenizer|vocab|merges|added_tokens|special_tokens_map|spiece|sentencepiece)[._-].*",
    re.IGNORECASE,
)


def clean_path(text: str) -> str | None:
    """Return the path without `./` and doubled slashes; None where it is not safe to use.

    Relative, no `..`, no backslash (a separator elsewhere), nothing that does not show.
    """
    parts = [part for part in text.split("/") if part not in {"", "."}]
    hidden = any(unicodedata.category(each) in _HIDDEN for each in text[:_PATH_MAX])
    if not parts or hidden or len(text) > _PATH_MAX:
        return None
    if text.startswith("/") or ".." in parts or "\\" in text:
        return None
    return "/".join(parts)


def kind_of(path: str, declared: Kind | None = None) -> Kind:
    """Return what the file is: as declared, but licences and tokenizers, which have no type of
    their own in any packing, are known by name.
    """
    name = path.rpartition("/")[2]
    if declared in {None, "config", "doc", "other"}:
        if _LICENCE.fullmatch(name):
            return "licence"
        if _TOKENIZER.fullmatch(name):
            return "tokenizer"
    return declared or _KINDS.get(_extension(name), "other")


def format_of(path: str) -> str | None:
    """Return the format that a weight file's name tells."""
    return _FORMATS.get(_extension(path))


def weights_of(path: str) -> tuple[str, int]:
    """Return the name of the weights that a file is a shard of, and how many shards there are.

    Both tools number them `-00001-of-00003` (Hugging Face; GGUF naming convention, "Shard").
    """
    stem, _, extension = path.rpartition(".")
    found = _SHARD.search(stem)
    if not found:
        return path, 1
    return f"{stem[: found.start()]}.{extension}", int(found["total"])


def is_beside(path: str) -> bool:
    """Whether weights are an aid that is loaded beside a model, none of its own: a projector, a
    drafting head (GGUF naming convention, "Sidecar").
    """
    return path.rpartition("/")[2].startswith(("mmproj", "mtp-"))


def _extension(path: str) -> str:
    return path.rpartition(".")[2].lower()

"""What the headers of a model's weight files add up to. Pure.

Shards are summed. Several sets of weights in one folder (a checkpoint beside its conversion, one
model in three quantizations) are the same parameters again: the largest counts. Folders are parts
of one model (a text encoder, a decoder) and are summed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mlext.formats.claims import Claims, precision_of
from mlext.formats.description import Tensors

# The dtype of tensors whose type no table has.
UNKNOWN = "unknown"

# Several small numbers, or bits of one, are packed in one of these where weights are quantized:
# then elements are not parameters.
_PACKED = frozenset({"U8", "U16", "U32", "I32", UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one header says: tensors, elements by dtype, bytes of data (None: unknown dtype)."""

    tensors: int
    elements: dict[str, int]
    data_bytes: int | None
    claims: Claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The header of one of `total` files which together are the weights `name` (a path)."""

    name: str
    total: int
    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All headers together. `whole` says that every shard of every set that counts was read."""

    tensors: Tensors
    whole: bool
    left_out: int

    @property
    def parameters(self) -> int | None:
        """Elements of all tensors, where that is the number of parameters."""
        packed = _PACKED & self.tensors.elements.keys()
        return sum(self.tensors.elements.values()) if self.whole and not packed else None

    @property
    def precision(self) -> str | None:
        """What most elements are, where it is a plain number format."""
        most = max(self.tensors.elements.items(), key=lambda each: each[1], default=("", 0))
        return precision_of(most[0])


def added_up(shards: Iterable[Shard]) -> Weights | None:
    """Return the sum of all headers; None where there are none."""
    folders: dict[str, dict[str, list[Shard]]] = defaultdict(lambda: defaultdict(list))
    for shard in shards:
        folders[shard.name.rpartition("/")[0]][shard.name].append(shard)
    if not folders:
        return None
    counting = [max(sets.values(), key=_elements) for sets in folders.values()]
    headers = [shard.header for each in counting for shard in each]
    elements: Counter[str] = Counter()
    for header in headers:
        elements.update(header.elements)
    sizes = [header.data_bytes for header in headers if header.data_bytes is not None]
    return Weights(
        tensors=Tensors(
            count=sum(header.tensors for header in headers),
            elements=dict(sorted(elements.items())),
            bytes=sum(sizes) if len(sizes) == len(headers) else None,
        ),
        whole=all(len(each) == shard.total for each in counting for shard in each),
        left_out=sum(len(sets) for sets in folders.values()) - len(counting),
    )


def _elements(shards: list[Shard]) -> int:
    return sum(sum(shard.header.elements.values()) for shard in shards)

"""What a stored manifest is as a model, whoever packed it: see `describe`."""

from mlext.formats.describing import describe
from mlext.formats.description import Description, File, Flavour, Kind, Limits, Tensors
from mlext.formats.reading import BlobRange

__all__ = [
    "BlobRange",
    "Description",
    "File",
    "Flavour",
    "Kind",
    "Limits",
    "Tensors",
    "describe",
]

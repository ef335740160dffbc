"""What the path and the query of a request name, as values: read the same way for every door."""

from __future__ import annotations

from starlette.requests import Request

from mlext.errors import DocumentInvalid, VersionUnknown
from ociserver.refs import RepositoryName, parse_name, shortened

_VERSION_DIGITS = 9


def model_of(request: Request) -> RepositoryName:
    """Return the model that the path names. Raises NameInvalid."""
    return parse_name(request.path_params["name"])


def version_of(request: Request) -> int:
    """Return the number of the version that the path names. Raises VersionUnknown."""
    return version_number(request.path_params["number"])


def version_number(text: str) -> int:
    """Return the number of a version. Raises VersionUnknown: no other text is one."""
    if not text.isascii() or not text.isdecimal() or len(text) > _VERSION_DIGITS:
        raise VersionUnknown(f"{shortened(text)!r} is not the number of a version")
    return int(text)


def whole(request: Request, key: str, otherwise: int, *, least: int = 1, most: int) -> int:
    """Return the whole number that the query gives under the key, `otherwise` where it gives none.

    Raises DocumentInvalid.
    """
    text = request.query_params.get(key)
    if text is None:
        return otherwise
    is_short = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not is_short or not least <= int(text) <= most:
        raise DocumentInvalid(
            f"{key} {shortened(text)!r} is no whole number from {least} to {most}"
        )
    return int(text)

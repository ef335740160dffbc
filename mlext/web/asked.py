"""What the path and the query of a request name, as values: read the same way for every door."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def parameters(
    request: Request, known: Collection[str], *, repeated: Collection[str] = ()
) -> Mapping[str, str]:
    """Return the query's parameters; of those that may be `repeated`, the last.

    Raises DocumentInvalid: one that is not known, for a mistyped one would be lost in silence, or
    one that is said twice.
    """
    given = request.query_params.multi_items()
    for key, _ in given:
        if key not in known:
            what = f"known are: {', '.join(known)}" if known else "none is taken here"
            raise DocumentInvalid(f"the parameter {shortened(key)!r} is unknown; {what}")
    once = [key for key, _ in given if key not in repeated]
    if len(set(once)) < len(once):
        raise DocumentInvalid(f"each of {', '.join(sorted(set(once)))} is given once")
    return dict(given)


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

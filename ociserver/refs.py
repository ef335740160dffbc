"""Names: repository, tag, digest, reference. Text becomes one of these at the border and is
trusted below it. Pure: no I/O, no clock.

Grammar: distribution spec, "Pulling manifests"; image spec, "Descriptor: Digests".
"""

from __future__ import annotations

import re
from typing import NewType

from ociserver.errors import DigestInvalid, NameInvalid, TagInvalid

RepositoryName = NewType("RepositoryName", str)
Tag = NewType("Tag", str)

# Clients cap host and name together at 255 (spec, implementers' note): longer names could be
# pushed by one client and pulled by none.
NAME_MAX = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

# Hex digits of each algorithm the registry computes ("Registered Algorithms", image spec).
HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


class Digest(str):
    """A digest that is well formed and of an algorithm we compute, as `algorithm:hex`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest, or raise DigestInvalid."""
        if _DIGEST.fullmatch(text):
            return cls(text)
        algorithm = text.partition(":")[0]
        if ":" in text and algorithm not in HEX_LENGTH:
            raise DigestInvalid(
                f"digest algorithm {shortened(algorithm)!r} is not supported; "
                f"supported: {', '.join(HEX_LENGTH)}"
            )
        raise DigestInvalid(f"{shortened(text)!r} is not a digest (algorithm:hex)")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self[:6]

    @property
    def hex(self) -> str:
        """The encoded part."""
        return self[7:]


Reference = Digest | Tag


def parse_name(text: str) -> RepositoryName:
    """Return a repository name, or raise NameInvalid."""
    if len(text) > NAME_MAX:
        raise NameInvalid(f"repository name has {len(text)} characters; at most {NAME_MAX}")
    if not _NAME.fullmatch(text):
        raise NameInvalid(
            f"{shortened(text)!r} is not a repository name: lower-case letters and digits in parts "
            "joined by '/', inside a part '.', '_', '__' or dashes between them"
        )
    return RepositoryName(text)


def is_repository(text: str) -> bool:
    """Tell whether `parse_name` takes it."""
    return len(text) <= NAME_MAX and _NAME.fullmatch(text) is not None


def parse_tag(text: str) -> Tag:
    """Return a tag, or raise TagInvalid."""
    if not _TAG.fullmatch(text):
        raise TagInvalid(
            f"{shortened(text)!r} is not a tag: at most 128 of letters, digits, '.', '_', '-', "
            "not starting with '.' or '-'"
        )
    return Tag(text)


def parse_reference(text: str) -> Reference:
    """Return a digest where the text has a colon (no tag has one), else a tag."""
    return Digest.parse(text) if ":" in text else parse_tag(text)


def parse_algorithm(text: str) -> str:
    """Return a digest algorithm we compute, or raise DigestInvalid."""
    if text not in HEX_LENGTH:
        raise DigestInvalid(
            f"digest algorithm {shortened(text)!r} is not supported; "
            f"supported: {', '.join(HEX_LENGTH)}"
        )
    return text


def shortened(text: str, most: int = 80) -> str:
    """Return at most so many characters of what a client sent, so that no error echoes a flood."""
    return text if len(text) <= most else f"{text[: most - 3]}..."

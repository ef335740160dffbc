"""Addresses of downloads that say themselves who let them be: signed, and good for a while. Pure.

The signature is an HMAC-SHA256 (RFC 2104) over all that the address gives: what, from where, under
which file name, until when. Nothing of it can be changed, nor taken for another address.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlencode

from mlext.errors import LinkExpired, LinkInvalid
from ociserver.refs import Digest, RepositoryName

Kind = Literal["blobs", "manifests"]

# An HMAC's message begins with what it is for, should the key ever sign anything else.
_PURPOSE = "lading download 1"
_DIGITS = 12
_NAME_MAX = 255
_UNQUOTABLE = frozenset('"\\%')


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One download: the file's name, and the whole second since the epoch at which it ends."""

    kind: Kind
    repository: RepositoryName
    digest: Digest
    filename: str
    expires: int

    def signature(self, key: bytes) -> str:
        """Return what makes it good."""
        # None of these has a line feed in it, so no two links have one message.
        said = (_PURPOSE, self.kind, self.repository, self.digest, self.filename, self.expires)
        message = "\n".join(map(str, said)).encode()
        return urlsafe_b64encode(hmac.digest(key, message, "sha256")).rstrip(b"=").decode()

    def address(self, key: bytes) -> str:
        """Return its path and query, signed."""
        query = {
            "expires": self.expires,
            "filename": self.filename,
            "signature": self.signature(key),
        }
        path = f"/v1/downloads/{self.repository}/{self.kind}/{self.digest}"
        return f"{path}?{urlencode(query, quote_via=quote)}"


def signed_link(
    kind: Kind,
    place: tuple[RepositoryName, Digest],
    query: Mapping[str, str],
    key: bytes | None,
    now: float,
) -> Link:
    """Return what the address names, if we gave it out and its time is not over.

    Raises LinkInvalid, LinkExpired.
    """
    expires, filename = query.get("expires", ""), query.get("filename", "")
    if not expires.isascii() or not expires.isdecimal() or len(expires) > _DIGITS:
        raise LinkInvalid("this is no address of a download that was given out here")
    link = Link(
        kind=kind,
        repository=place[0],
        digest=place[1],
        filename=filename,
        expires=int(expires),
    )
    given = query.get("signature", "").encode()
    if (
        key is None
        or not filename.isprintable()
        or not hmac.compare_digest(given, link.signature(key).encode())
    ):
        raise LinkInvalid("this is no address of a download that was given out here")
    if now >= link.expires:
        raise LinkExpired("the time of this download's address is over: ask for another")
    return link


def filename_of(path: str | None, otherwise: str) -> str:
    """Return the name to save a file of this path under."""
    name = path.rpartition("/")[2] if path else otherwise
    return name if len(name) <= _NAME_MAX else otherwise


def disposition(filename: str) -> str:
    """Return the Content-Disposition that has it saved under the name (RFC 6266)."""
    plain = "".join(
        each if each.isascii() and each not in _UNQUOTABLE else "_" for each in filename
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"

"""Header fields as values: ranges, validators, pages, all of an answer. Pure: no I/O, no framework.

RFC 9110 sections 8.8.3 (ETag), 13.1 (preconditions), 14 (ranges); RFC 8288 (Link).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ociserver.errors import RangeRefused, RangeUnsatisfiable, RequestInvalid
from ociserver.refs import shortened

# podman asks for 1,013 ranges of one zstd:chunked layer in a single header.
RANGES_MAX = 4096
_DIGITS = 19
_SPEC = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `end`, both inclusive, of something that has them."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the range."""
        return self.end - self.start + 1

    def content_range(self, size: int) -> str:
        """Return the `Content-Range` of a 206."""
        return f"bytes {self.start}-{self.end}/{size}"


def parse_ranges(header: str | None, size: int) -> list[ByteRange] | None:
    """Return the asked ranges in the asked order, unmerged; None to serve the whole.

    Another unit is ignored, as RFC 9110 section 14.2 demands. Raises RangeUnsatisfiable when no
    asked byte exists or a range is malformed (`500-0` included: the section leaves ignoring or
    refusing to us, and a client that asks so does not want 200 GB), RangeRefused beyond the bounds.
    """
    if header is None:
        return None
    unit, _, specs = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    wanted = [spec.strip() for spec in specs.split(",", RANGES_MAX)]
    if len(wanted) > RANGES_MAX:
        raise RangeRefused(f"more than {RANGES_MAX} ranges in one request")
    found = [one for spec in wanted if spec and (one := _range(spec, size))]
    if not found:
        raise RangeUnsatisfiable(f"no byte of {size} lies in the asked range", size=size)
    # Each byte may be asked twice; more is the amplification RFC 9110 section 17.15 warns of.
    if len(found) > 1 and sum(one.length for one in found) > 2 * size:
        raise RangeRefused("the ranges overlap too much")
    return found


def _range(spec: str, size: int) -> ByteRange | None:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise RangeUnsatisfiable(f"{shortened(spec)!r} is not a byte range", size=size)
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(_position(suffix), size)
        return ByteRange(size - length, size - 1) if length else None
    start, end = _position(first), _position(last) if last else size - 1
    if last and start > end:
        raise RangeUnsatisfiable(f"{shortened(spec)!r} ends before it starts", size=size)
    return ByteRange(start, min(end, size - 1)) if start < size else None


def _position(digits: str) -> int:
    """Return the number, or one beyond any blob: a header has room for very many digits."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) < _DIGITS else 10**_DIGITS


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Tell whether the client's copy is current (RFC 9110 section 13.1.2, weak comparison)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Tell whether Range is to be honoured (RFC 9110 section 13.1.5, strong comparison).

    We send no Last-Modified, so a date never matches and the whole is sent.
    """
    return if_range is None or if_range.strip() == etag


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """At most `limit` entries, those after `last`; an empty `last` is the beginning."""

    limit: int
    last: str


def parse_page(n: str | None, last: str | None, *, maximum: int) -> Page:
    """Return the asked page; raises RequestInvalid. More than `maximum` is cut to it and linked on.

    `n=0` is an empty page and no mistake (spec, "Listing Tags").
    """
    last = last or ""
    if len(last) > 255 or not last.isprintable():  # noqa: PLR2004 - longer than any name or tag
        raise RequestInvalid("last is not something this list could have named")
    if n is None:
        return Page(limit=maximum, last=last)
    if not n.isascii() or not n.isdecimal():
        raise RequestInvalid(f"n={shortened(n)!r} is not a number of entries")
    digits = n.lstrip("0") or "0"
    limit = maximum if len(digits) > 9 else min(int(digits), maximum)  # noqa: PLR2004
    return Page(limit=limit, last=last)


def next_link(path: str, **query: str | int) -> str:
    """Return a `Link` to the next page, relative so that it holds behind any proxy."""
    return f'<{quote(path, safe="/:")}?{urlencode(query)}>; rel="next"'

"""Tar layers, listed without being unpacked: the header of each member is read, what is in it is
skipped, or shown to the caller as it passes by. Our own walk, because `tarfile` wants a file that
seeks and believes sizes.

POSIX.1-2001 pax, ustar, and GNU's long names. A sparse member declares a size that is not in the
layer, so that a kilobyte can claim terabytes (and readers disagree on where the next member
starts): a layer with one is refused.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from mlext.formats.description import KIB
from mlext.formats.reading import Budget, Part, Reader, Unreadable

_BLOCK = 512
# A path has at most 4 KiB on Linux; a pax header may name a few things more.
_LONG = 64 * KIB
_SIZE_MAX = 2**63
# Bytes of pax records that take as long as a member does.
_RECORDS = 128
# Of the length of a pax record, which is below `_LONG`.
_DIGITS = 8

_FILES = frozenset(b"0\07")
_LINKS = frozenset(b"12")
# These have no bytes of their own, whatever size their header gives (as Go and `tarfile` have it).
_BODYLESS = frozenset(b"123456")
_DIRECTORY = ord("5")
_SPARSE = ord("S")
_LONG_NAME, _LONG_LINK = ord("L"), ord("K")
_PAX, _PAX_GLOBAL = ord("x"), ord("g")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member: `path` as the layer has it, `size` in bytes, `offset` where its bytes start."""

    path: str
    kind: Literal["file", "link", "other"]
    size: int
    offset: int


async def members(reader: Reader, budget: Budget) -> AsyncGenerator[tuple[Member, Part], None]:
    """Yield each member with its bytes, which are skipped where the caller does not read them.

    Raises Unreadable at the first header that is none, or over a limit.
    """
    told: dict[str, str] = {}
    while any(header := await _header(reader)):
        budget.entry()
        typeflag, size = header[156], _number(header[124:136])
        if typeflag == _SPARSE:
            raise Unreadable("has a sparse member")
        if typeflag in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            # Its work is in its records, which are short.
            budget.entry(size // _RECORDS)
            told |= await _told(reader, typeflag, size)
            continue
        member = _member(header, typeflag, told, reader.position)
        told = {}
        if member.path.endswith("/") and member.kind == "file":
            # How tars older than ustar mark a directory.
            member = Member(path=member.path, kind="other", size=0, offset=member.offset)
        part = Part(reader, member.size)
        yield member, part
        await reader.skip(part.left + -member.size % _BLOCK)


async def _header(reader: Reader) -> bytes:
    header = await reader.take(_BLOCK)
    if not any(header):
        return b""
    # The checksum is the sum of all bytes, its own field taken as blanks; some old writers summed
    # signed bytes.
    rest = header[:148] + b" " * 8 + header[156:]
    checksum = _number(header[148:156])
    if checksum != sum(rest) and checksum != sum(struct.unpack("512b", rest)):
        raise Unreadable("is no tar archive, or a damaged one")
    return header


def _number(field: bytes) -> int:
    """Return an octal number, or a large one in base 256 (GNU and star: first bit set)."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if not 0 <= number < _SIZE_MAX:
            raise Unreadable("has a tar header with an impossible number")
        return number
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise Unreadable("has a tar header with an impossible number")
    return int(digits or b"0", 8)


async def _told(reader: Reader, typeflag: int, size: int) -> dict[str, str]:
    """Return what a header says of the member behind it: `path` and `size`, where it does."""
    if size > _LONG:
        raise Unreadable(f"has a tar header of {size} bytes")
    body = await reader.take(size)
    await reader.skip(-size % _BLOCK)
    if typeflag == _LONG_NAME:
        return {"path": _text(body.split(b"\0")[0])}
    if typeflag == _LONG_LINK:
        return {}
    records = _records(body)
    if any(key.startswith("GNU.sparse.") for key in records):
        raise Unreadable("has a sparse member")
    # A path or a size for all members together would be a trick, not a format.
    return records if typeflag == _PAX else {}


def _records(body: bytes) -> dict[str, str]:
    """Return pax records: each is `length key=value`, the length counting all of it, and a line."""
    records, at = {}, 0
    while at < len(body) and body[at]:
        digits = body[at : at + _DIGITS].partition(b" ")[0]
        behind = at + (int(digits) if digits.isdigit() else 0)
        key, equals, value = body[at + len(digits) + 1 : max(behind - 1, 0)].partition(b"=")
        if not equals or body[behind - 1 : behind] != b"\n":
            raise Unreadable("has a damaged pax header")
        records[_text(key)] = _text(value)
        at = behind
    return records


def _member(header: bytes, typeflag: int, told: dict[str, str], offset: int) -> Member:
    name, prefix = header[:100].split(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0")[0]
    path = told.get("path") or _text(prefix + b"/" + name if prefix else name)
    size = _number(header[124:136])
    if "size" in told:
        if not told["size"].isdecimal() or len(told["size"]) > len(str(_SIZE_MAX)):
            raise Unreadable("has a pax header with an impossible size")
        size = int(told["size"])
    bodyless = typeflag in _BODYLESS
    kind: Literal["file", "link", "other"] = "other"
    if typeflag in _FILES:
        kind = "file"
    elif typeflag in _LINKS:
        kind = "link"
    return Member(path=path, kind=kind, size=0 if bodyless else size, offset=offset)


def _text(name: bytes) -> str:
    # What is not UTF-8 becomes half surrogates, which no path that is kept may hold.
    return name.decode("utf-8", "surrogateescape")

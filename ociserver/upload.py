"""What an upload may do next. Pure: decides, never awaits; `sessions.py` acts.

Distribution spec, "Pushing a blob in chunks": chunks come in order, the first starts at 0, and a
chunk that does not start where the upload stands is answered 416.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ociserver.errors import SizeInvalid, UploadInvalid, UploadOutOfOrder
from ociserver.refs import RepositoryName, shortened

# The request form is `start-end`, inclusive, without unit or total (spec, end-5).
_CONTENT_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSession:
    """Work in flight, as the catalog has it: `offset` bytes are durable in the blob store.

    `id` is random and is the key of the bytes, now and once they are a blob. `hash_state` is the
    saved state of `algorithm` after exactly `offset` bytes; None where this machine cannot save
    one, and then the bytes are read again. `store_state` is the blob store's own. `owner` is the
    principal that began it.
    """

    id: str
    repository: RepositoryName
    algorithm: str
    owner: str = "anyone"
    offset: int = 0
    hash_state: bytes | None = None
    store_state: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A `Content-Range` of a request: first and last byte, both inclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the chunk."""
        return self.end - self.start + 1


def is_session_id(text: str) -> bool:
    """Tell whether the text could name an upload at all."""
    return _ID.fullmatch(text) is not None


def parse_chunk(header: str | None) -> Chunk | None:
    """Return the chunk a `Content-Range` names, None without one; raises UploadInvalid."""
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise UploadInvalid(f"Content-Range {shortened(header)!r} is not of the form start-end")
    return Chunk(start=int(match[1]), end=int(match[2]))


def admit(session: UploadSession, chunk: Chunk | None, content_length: int | None) -> int | None:
    """Return how many bytes the body must have, None where it streams to its end.

    Raises UploadOutOfOrder when the chunk starts anywhere but at the session's offset, SizeInvalid
    when the headers contradict each other. Without Content-Range the body is appended (docker,
    podman and crane stream so).
    """
    if chunk is None:
        return content_length
    if chunk.start != session.offset:
        raise UploadOutOfOrder(
            f"the chunk starts at {chunk.start}, the upload stands at {session.offset}",
            offset=session.offset,
        )
    if content_length is not None and content_length != chunk.length:
        raise SizeInvalid(
            f"Content-Length {content_length} is not the {chunk.length} bytes of Content-Range"
        )
    return chunk.length


def received_range(offset: int) -> str:
    """Return the response header `Range: 0-<last byte>`.

    The spec has no form for zero bytes; like distribution and zot we then say `0-0`, and moby
    fails on an end before the start.
    """
    return f"0-{max(offset - 1, 0)}"

"""Where a client fetches a blob: from us, or by a signed URL from the store itself.

Distribution spec, "Redirects": any request may be answered with one, and a client forwards no
Authorization to another host. The URL is absolute and short-lived; Range is the client's to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from ociserver.ports import Presign, StoredBlob
from ociserver.web.forwarded import Network, client_address, is_in


def sender_of(request: Request) -> tuple[str, str]:
    """Return who the request comes from: the peer's address, and X-Forwarded-For."""
    peer = request.client.host if request.client else ""
    return peer, ",".join(request.headers.getlist("x-forwarded-for"))


class Redirects:
    """Signed URLs for those clients that may have them."""

    def __init__(
        self,
        presign: Presign,
        *,
        least_bytes: int,
        streamed: Sequence[Network],
        proxies: Sequence[Network],
    ) -> None:
        self._presign = presign
        self._least_bytes = least_bytes
        self._streamed = tuple(streamed)
        self._proxies = tuple(proxies)

    async def location(
        self,
        peer: str,
        forwarded: str,
        stored: StoredBlob,
        *,
        seconds: int | None = None,
        disposition: str | None = None,
    ) -> str | None:
        """Return a URL of the blob, None where this client is to have the bytes from us.

        `forwarded` is X-Forwarded-For; it is believed of the proxies named in the settings. The
        rest is as in `Presign`.
        """
        if stored.size < self._least_bytes:
            return None
        client = client_address(peer, forwarded, self._proxies)
        if client is None or is_in(client, self._streamed):
            return None
        return await self._presign(stored.key, seconds=seconds, disposition=disposition)

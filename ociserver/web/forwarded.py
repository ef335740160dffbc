"""What stands between a client and us: whom a request comes from, and by which address it came.

Header fields that proxies add are believed of the proxies named in the settings, and of nobody
else: anyone can write them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

# Some proxies add the client's port (Azure's Application Gateway): `192.0.2.7:443`, `[::1]:443`.
_WITH_PORT = re.compile(r"([0-9.]+|\[[^\]]+\]):[0-9]+")

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def sender(scope: Scope, proxies: Sequence[Network]) -> str:
    """Return the address of the client, as text; empty where nobody can tell."""
    peer = scope["client"][0] if scope["client"] else ""
    if not proxies:
        return peer
    forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    found = client_address(peer, forwarded, proxies)
    return str(found) if found is not None else ""


def origin(scope: Scope, proxies: Sequence[Network]) -> str:
    """Return the scheme and host that the client has for us, such as `https://registry:5000`."""
    headers = Headers(scope=scope)
    scheme, host = scope["scheme"], headers.get("host", "")
    if _is_proxy(scope, proxies):
        scheme = headers.get("x-forwarded-proto", scheme).split(",")[-1].strip()
        host = headers.get("x-forwarded-host", host).split(",")[-1].strip()
    return f"{scheme}://{host}"


def client_address(peer: str, forwarded: str, proxies: Sequence[Network]) -> Address | None:
    """Return the nearest address on the way to the client that is no proxy of ours."""
    way = [*(part.strip() for part in forwarded.split(",") if part.strip()), peer]
    found: Address | None = None
    for text in reversed(way):
        try:
            found = ip_address(_without_port(text))
        except ValueError:
            return None
        if not is_in(found, proxies):
            return found
    return found


def _without_port(text: str) -> str:
    found = _WITH_PORT.fullmatch(text)
    return found[1].strip("[]") if found else text


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Tell whether the address, or the IPv4 one it stands for, lies in one of them."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def _is_proxy(scope: Scope, proxies: Sequence[Network]) -> bool:
    try:
        peer = ip_address(scope["client"][0]) if scope["client"] else None
    except ValueError:
        return False
    return peer is not None and is_in(peer, proxies)

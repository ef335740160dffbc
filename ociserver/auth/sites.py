"""Where somebody asks from, as far as it tells one client from another. Pure."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address, IPv6Network

# RFC 4291 section 2.5.4: the rest of an address is whatever its holder likes it to be.
_IPV6_PREFIX = 64


def site(address: str) -> str:
    """Return what one client cannot change of its address: all of IPv4, of IPv6 the network."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address)
    except AddressValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Network((int(found), _IPV6_PREFIX), strict=False))

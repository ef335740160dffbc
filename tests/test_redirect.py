"""Who a client is, by its address and by what proxies say of it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociserver.ports import StoredBlob
from ociserver.web.forwarded import client_address
from ociserver.web.redirect import Redirects

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
_addresses = st.ip_addresses().filter(lambda each: not _is_proxy(each.compressed))
_proxies = st.sampled_from(["10.0.0.1", "10.255.0.9", "fd00::7", "::ffff:10.1.1.1"])


def _is_proxy(text: str) -> bool:
    address = ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in PROXIES)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "10.0.0.1", "192.0.2.1"),
        ("192.0.2.1", "nonsense", "192.0.2.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.9, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("::ffff:10.0.0.1", " 192.0.2.7 ,, ", "192.0.2.7"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("10.0.0.1", "192.0.2.7:443", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.9, [2001:db8::5]:443", "2001:db8::5"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_proxy_of_ours(
    peer: str, forwarded: str, client: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == ip_address(client)


@pytest.mark.parametrize(
    ("peer", "forwarded"),
    [("", ""), ("a socket", ""), ("10.0.0.1", "unknown"), ("10.0.0.1", "192.0.2.7:x")],
)
def test_who_cannot_be_told_is_nobody(peer: str, forwarded: str) -> None:
    assert client_address(peer, forwarded, PROXIES) is None


@given(st.text(max_size=60), _addresses, st.lists(_proxies, max_size=3), _proxies)
def test_what_a_client_claims_changes_nothing(
    claimed: str, client: object, way: list[str], peer: str
) -> None:
    forwarded = ", ".join([claimed, str(client), *way])
    assert client_address(peer, forwarded, PROXIES) == client


@given(st.text(max_size=60), _addresses)
def test_of_a_peer_that_is_no_proxy_nothing_is_believed(claimed: str, peer: object) -> None:
    assert client_address(str(peer), claimed, PROXIES) == peer


@pytest.mark.parametrize(
    ("peer", "forwarded", "size", "redirected"),
    [
        ("192.0.2.1", "", 100, True),
        ("192.0.2.1", "", 99, False),
        ("172.16.0.1", "", 100, False),
        ("::ffff:172.16.0.1", "", 100, False),
        ("10.0.0.1", "172.16.0.1", 100, False),
        ("192.0.2.1", "172.16.0.1", 100, True),
        ("nobody", "", 100, False),
    ],
)
def test_a_url_is_signed_for_large_blobs_and_clients_that_may_have_it(
    peer: str, forwarded: str, size: int, redirected: bool
) -> None:
    async def presign(
        key: str, *, seconds: int | None = None, disposition: str | None = None
    ) -> str:
        assert (seconds, disposition) == (None, None)
        return f"https://store/{key}"

    redirects = Redirects(
        presign, least_bytes=100, streamed=[ip_network("172.16.0.0/12")], proxies=PROXIES
    )
    stored = StoredBlob(key="k", size=size, linked_at=0.0)
    location = asyncio.run(redirects.location(peer, forwarded, stored))
    assert location == ("https://store/k" if redirected else None)

"""Who asks: the address of a client, also behind proxies that are trusted to name it.

Anybody may send X-Forwarded-For, so it counts only where the connection itself comes from an address of
API_TRUSTED_PROXIES, and there only from its right end up to the first address that is no such proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

from starlette.types import Scope

from config.settings import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
# A provider gives each customer a network of this size: another address of it is still the same client.
_IPV6_PREFIX = 64
# Taking one apart costs 3 µs, and most requests come from few.
ADDRESSES_REMEMBERED = 4096


def client_address(scope: Scope, trusted: tuple[Network, ...]) -> str:
    """For logs: who is connected, or whom trusted proxies name."""
    address = _address(scope["client"][0]) if scope.get("client") else None
    if address is None:
        return UNKNOWN
    if trusted and _is_among(address, trusted):
        for named in _forwarded_for(scope):
            found = _address(named)
            if found is None:  # what stands further left comes from who wrote this
                break
            address = found
            if not _is_among(address, trusted):
                break
    return str(address)


@lru_cache(ADDRESSES_REMEMBERED)
def neighbourhood(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    found = _address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, _IPV6_PREFIX), strict=False))
    return address


def _forwarded_for(scope: Scope) -> Iterator[str]:
    """The addresses of X-Forwarded-For, the nearest first."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    yield from reversed(",".join(values).split(","))


@lru_cache(ADDRESSES_REMEMBERED)
def _address(text: str) -> Address | None:
    """An address as proxies write it: perhaps with a port, in brackets, or IPv4 mapped into IPv6."""
    bare = text.strip().partition("%")[0]
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_among(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)

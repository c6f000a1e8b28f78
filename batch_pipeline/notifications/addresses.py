"""Which addresses a webhook may call: public ones, and those of the networks that a setting allows."""

import ipaddress
import socket
from collections.abc import Callable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Gives the addresses of a host's name. Raises OSError if it has none.
Resolver = Callable[[str], Sequence[str]]

# Python's `is_global` is about registration: it counts multicast and tunnels to IPv4 as global.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all global unicast addresses that are assigned
_TUNNELS = (
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments: Teredo, ORCHID, …
    ipaddress.IPv6Network("2002::/16"),  # 6to4
    ipaddress.IPv6Network("3fff::/20"),  # documentation, RFC 9637
)


def resolve(host: str) -> list[str]:
    """The addresses of a host's name, by the system's resolver, preferred ones first. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty or too long part of a name
        raise OSError("not a host's name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether the address is of the public internet, and not a way into a network behind it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and address in _UNICAST and not any(address in network for network in _TUNNELS)


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks. An IPv4-mapped IPv6 address counts as its IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)

"""Names of this machine in a Host header, as a browser, curl or a proxy writes them.

A web page elsewhere can bind its own name to 127.0.0.1 and so reach what listens on loopback only (DNS rebinding); the
Host that its browser sends is the one thing that tells. So what is not surely a name of this machine is none.
"""

from __future__ import annotations

import ipaddress
import re

# RFC 9110, section 7.2: a host and perhaps a port; nothing before an @, no path.
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[^\s:/?#@\[\]\\,]{1,255})(:[0-9]{0,5})?")


def host_name(host: str) -> str | None:
    """The name of a Host header in its one spelling: no port, no trailing dot, lower case; None if it is no host."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    name = match["name"]
    if name.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return name.removesuffix(".").lower() or None


def names_loopback(name: str) -> bool:
    """Whether a name from `host_name` is localhost, or an address that only this machine has."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

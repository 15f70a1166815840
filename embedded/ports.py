"""Free and taken TCP ports on loopback. A port found free may be taken a moment later; its server then says so."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
NOT_FOR_US = "is not for ordinary users, and nothing here listens as root"
LEAST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# Below the range that the system gives to outgoing connections. A server that comes back to its port must not find it
# taken by one: a client that tries again and again on loopback may even be given the very port that it asks for, and
# then talks to itself.
FIRST_PORT = 10_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_FIRST = 49_152  # RFC 6335, and what other systems use
ROOM_MIN = 1_000
ATTEMPTS_MAX = 10_000


def trouble_with(port: int) -> str | None:
    """Why a server could not listen there, in words that follow "port N"; None when it could."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        # Where somebody listens on all addresses, some systems let us bind beside them: asking finds those as well.
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return "is taken"
    if port < _least_port():
        return NOT_FOR_US
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            return NOT_FOR_US
        except OSError:
            return "is taken"
    return None


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody uses, outside the range of outgoing connections where that leaves room."""
    chosen: set[int] = set()
    first, end = _range()
    for _ in range(ATTEMPTS_MAX):
        if len(chosen) == count:
            return list(chosen)
        port = random.randrange(first, end)
        if port not in chosen and trouble_with(port) is None:
            chosen.add(port)
    raise OSError(f"found no {count} free ports from {first} to {end - 1}")


def _range() -> tuple[int, int]:
    """The first port to take, and the first beyond."""
    try:
        ephemeral_first = int(EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        ephemeral_first = EPHEMERAL_FIRST
    if ephemeral_first >= FIRST_PORT + ROOM_MIN:
        return FIRST_PORT, ephemeral_first
    return FIRST_PORT, 65_536


def _least_port() -> int:
    """The least port of an ordinary user, which our servers are also for root; 0 where the system does not say."""
    try:
        return int(LEAST_PORT.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0

"""Free and taken TCP ports on loopback. A port found free may be taken a moment later; its server then says so."""

from __future__ import annotations

import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def trouble_with(port: int) -> str | None:
    """Why a server could not listen there, in words that follow "port N"; None when it could."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        # Where somebody listens on all addresses, some systems let us bind beside them: asking finds those as well.
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return "is taken"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            return "is not for ordinary users"
        except OSError:
            return "is taken"
    return None


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody uses, chosen by the system."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]

"""The sockets of HOST and PORT, open before anything else starts, so that a taken port is one clear line."""

from __future__ import annotations

import errno
import socket

from config.errors import WattlineError

BACKLOG = 1024


class ListenError(WattlineError):
    """The message is one line for a person and names the setting."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of `host` (localhost has two), all on one port; port 0 = any free one.

    Raises ListenError.
    """
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    for family, address in _addresses(host, port):
        try:
            sockets.append(_listening(family, address, sockets[0].getsockname()[1] if sockets else port))
        except OSError as error:
            failures.append(error)
    # A machine may lack IPv6 and still resolve ::1, but a port that is taken on one address is taken.
    fatal = [error for error in failures if not sockets or error.errno != errno.EADDRNOTAVAIL]
    if fatal:
        for each in sockets:
            each.close()
        raise ListenError(_explained(fatal[0], host, port))
    return sockets


def url_of(sockets: list[socket.socket], host: str, scheme: str = "http") -> str:
    """Where a browser on this machine finds us."""
    return f"{scheme}://{_in_url(host)}:{sockets[0].getsockname()[1]}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ListenError(f"HOST: {host!r} is neither an address nor a name of this machine") from None
    # IPv4 first: where port 0 leaves the choice open, its free port is the one that counts.
    return list(dict.fromkeys(sorted((family, str(address[0])) for family, _, _, _, address in found)))


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.create_server((address, port), family=family, backlog=BACKLOG)
    made.setblocking(False)
    return made


def _explained(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"PORT: {port} on {host} is taken; stop what listens there, or set PORT to another (0 = any free)"
        case errno.EACCES:
            return f"PORT: this user may not listen on {port}; set PORT to 1024 or above"
        case errno.EADDRNOTAVAIL:
            return f"HOST: {host} is not an address of this machine"
        case _:
            return f"HOST, PORT: cannot listen on {_in_url(host)}:{port}: {(error.strerror or str(error)).lower()}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

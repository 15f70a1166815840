"""Asking a program beside us how it is: a GET on loopback, under a deadline."""

from __future__ import annotations

import http.client

LOOPBACK = "127.0.0.1"
PROBE_SECONDS = 1.0


def fetch(port: int, path: str, timeout_seconds: float = PROBE_SECONDS) -> str | None:
    """The body of a 200; None for anything else, and where nobody answers."""
    status, body = ask(port, path, timeout_seconds)
    return body if status == http.client.OK else None


def ask(port: int, path: str, timeout_seconds: float = PROBE_SECONDS) -> tuple[int, str]:
    """Status and body; 0 and nothing where nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return 0, ""
    finally:
        connection.close()

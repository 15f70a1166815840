"""Who may read and who may write, by method and path, before any route is asked.

GET, HEAD and OPTIONS read; everything else writes. A token for one does not count for the other. No token ever reaches
a log or an answer.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from analytics_api.errors import ApiError, ForbiddenError, UnauthorizedError, failure_response
from config.settings import Settings

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser needs before it can ask for a token, and what probes and Prometheus ask; none of it names a device.
_OPEN = frozenset({"/", "/static", "/api", "/openapi.json", "/healthz", "/readyz", "/metrics"})
_OPEN_BELOW = ("/static/", "/api/")
_PROXY_HEADERS = frozenset({b"forwarded", b"x-real-ip", b"via"})
_PROXY_PREFIX = b"x-forwarded-"


@dataclass(frozen=True)
class AccessRules:
    """The settings that access follows from; None = no tokens are asked for."""

    read_tokens: tuple[bytes, ...] | None
    write_tokens: tuple[bytes, ...] | None
    origins: frozenset[str]
    loopback_only: bool

    @classmethod
    def of(cls, settings: Settings, *, loopback_only: bool) -> Self:
        """The rules of these settings, for an API that only this machine can reach, or not."""
        return cls(
            read_tokens=settings.read_tokens,
            write_tokens=settings.write_tokens,
            origins=frozenset(settings.cors_origins),
            loopback_only=loopback_only,
        )

    def refusal(self, scope: Scope) -> ApiError | None:
        """Why this request gets no further, or None."""
        if scope["method"] in _READING:
            if self.read_tokens is None or _is_open(scope["path"]):
                return None
            return _token_refusal(scope, self.read_tokens, "reading")
        return self._write_refusal(scope)

    def _write_refusal(self, scope: Scope) -> ApiError | None:
        host = _header(scope, b"host")
        origin = _header(scope, b"origin")
        if origin is not None and origin not in self.origins and not _same_origin(origin, host):
            return ForbiddenError("Pages of this origin may not write here; API_CORS_ORIGINS lists those that may.")
        if self.write_tokens is not None:
            return _token_refusal(scope, self.write_tokens, "writing")
        if not self.loopback_only or _was_forwarded(scope) or not _names_loopback(host):
            return ForbiddenError("Writing from elsewhere needs a token, and this API has none: set API_WRITE_TOKENS.")
        return None


class GuardedApp:
    """ASGI middleware that answers what the rules refuse and passes on the rest."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._rules.refusal(scope)
            if refusal is not None:
                await failure_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def bound_to_loopback(sockets: Sequence[socket.socket]) -> bool:
    """Whether only this machine can reach every one of these listening sockets."""
    return all(ipaddress.ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; one that was given twice is the list of both, which equals nothing that is allowed."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


def _token_refusal(scope: Scope, tokens: tuple[bytes, ...], what: str) -> ApiError | None:
    scheme, _, token = (_header(scope, b"authorization") or "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return UnauthorizedError(f"A token for {what} is needed: Authorization: Bearer ...")
    given = token.strip().encode("latin-1")
    # All are compared, so that the time does not tell which of them was near.
    matches = [hmac.compare_digest(given, each) for each in tokens]
    return None if any(matches) else UnauthorizedError(f"This token does not allow {what}.")


def _was_forwarded(scope: Scope) -> bool:
    return any(name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX) for name, _ in scope["headers"])


def _names_loopback(host: str | None) -> bool:
    """Whether the Host header is a name of this machine; a page elsewhere whose name was bound to it is not."""
    try:
        name = urlsplit(f"//{host or ''}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same_origin(origin: str, host: str | None) -> bool:
    scheme, separator, netloc = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and netloc == host

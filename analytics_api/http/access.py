"""Who may read and who may write, by method and path, before any route is asked.

GET, HEAD and OPTIONS read; everything else writes. A token for one does not count for the other. Where no token is
asked for, the Host must be ours, or a web page elsewhere could ask through the browser of somebody who sits here (DNS
rebinding). That a proxy is in front cannot be seen, so nothing is open to it that is closed to the world. No token ever
reaches a log or an answer, and nobody can try many of them.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from starlette.types import ASGIApp, Receive, Scope, Send

from analytics_api.http.clients import client_address, neighbourhood
from analytics_api.http.errors import (
    ApiError,
    ForbiddenError,
    TooManyAttemptsError,
    UnauthorizedError,
    failure_response,
)
from analytics_api.http.wrong_tokens import WrongTokens
from config.hosts import host_name, names_loopback
from config.settings import Network, Settings
from config.tokens import Token, digest_of

logger = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser needs before it can ask for a token, and what probes and Prometheus ask; none of it names a device.
_OPEN = frozenset({"/", "/static", "/api", "/openapi.json", "/healthz", "/readyz", "/metrics"})
_OPEN_BELOW = ("/static/", "/api/")
# Whether the process lives and can serve: it names nobody, and load balancers ask under any Host or none.
_PROBES = frozenset({"/healthz", "/readyz"})
_PROXY_HEADERS = frozenset({b"forwarded", b"x-real-ip", b"via"})
_PROXY_PREFIX = b"x-forwarded-"


@dataclass(frozen=True)
class AccessRules:
    """The settings that access follows from; None = no tokens are asked for."""

    read_tokens: tuple[Token, ...] | None
    write_tokens: tuple[Token, ...] | None
    origins: frozenset[str]
    loopback_only: bool
    write_loopback: bool
    hosts: frozenset[str]
    """Names that count like those of this machine for reading."""
    hosts_matter: bool
    """Whether reading without a token asks for one of the names."""
    proxies: tuple[Network, ...] = ()
    """They are believed when they say who asks."""

    @classmethod
    def of(cls, settings: Settings, *, loopback_only: bool) -> Self:
        """The rules of these settings, for an API that only this machine can reach, or not."""
        own = host_name(f"[{settings.host}]" if ":" in settings.host else settings.host)
        return cls(
            read_tokens=settings.read_tokens,
            write_tokens=settings.write_tokens,
            origins=frozenset(settings.cors_origins),
            loopback_only=loopback_only,
            write_loopback=settings.api_write_loopback,
            hosts=settings.allowed_hosts | frozenset(filter(None, [own])),
            hosts_matter=loopback_only or bool(settings.allowed_hosts),
            proxies=settings.trusted_proxies,
        )

    def refusal(self, scope: Scope, wrong: WrongTokens) -> ApiError | None:
        """Why this request gets no further, or None. `wrong` knows who has tried what."""
        if is_write(scope):
            return self._write_refusal(scope, wrong)
        if self.read_tokens is not None:
            return None if _is_open(scope["path"]) else self._token_refusal(scope, self.read_tokens, wrong, "reading")
        if not self.hosts_matter or scope["path"] in _PROBES or self._is_addressed(scope, self.hosts):
            return None
        return ForbiddenError(
            "Without a token the API answers only under names of this machine, such as localhost, and this request "
            "is for another host: list its name in API_ALLOWED_HOSTS, or set API_READ_TOKENS."
        )

    def _write_refusal(self, scope: Scope, wrong: WrongTokens) -> ApiError | None:
        origin = _header(scope, b"origin")
        if origin is not None and origin not in self.origins and not _same_origin(origin, _header(scope, b"host")):
            return ForbiddenError("Pages of this origin may not write here; API_CORS_ORIGINS lists those that may.")
        if self.write_tokens is not None:
            return self._token_refusal(scope, self.write_tokens, wrong, "writing")
        if not self.write_loopback:
            return ForbiddenError(
                "Writing needs a token, and this API has none: set API_WRITE_TOKENS; or API_WRITE_LOOPBACK=1, where "
                "everybody on this machine may write, and no proxy passes requests of others on."
            )
        if not self.loopback_only:
            return ForbiddenError(
                "Writing needs a token, and this API has none: set API_WRITE_TOKENS. API_WRITE_LOOPBACK=1 counts only "
                "while HOST is loopback."
            )
        if _was_forwarded(scope) or not self._is_addressed(scope, frozenset()):
            return ForbiddenError(
                "Without a token only this machine may write (API_WRITE_LOOPBACK), under a name like localhost; this "
                "request came through a proxy or is for another host: set API_WRITE_TOKENS."
            )
        return None

    def _token_refusal(
        self, scope: Scope, allowed: tuple[Token, ...], wrong: WrongTokens, what: str
    ) -> ApiError | None:
        scheme, _, given = (_header(scope, b"authorization") or "").partition(" ")
        if not given or scheme.lower() != "bearer":
            return UnauthorizedError(f"A token for {what} is needed: Authorization: Bearer ...")
        digest = digest_of(given.strip().encode("latin-1"))
        address = client_address(scope, self.proxies)
        client = neighbourhood(address)
        if seconds := wrong.seconds_to_wait(client, digest):
            return TooManyAttemptsError(seconds)
        if (token := _found(digest, allowed)) is not None:
            wrong.was_right(client, digest)
            scope["token_name"] = token.name
            return None
        # One that is good for something else is a mistake and no guess.
        if _found(digest, (self.read_tokens or ()) + (self.write_tokens or ())) is None:
            wrong.was_wrong(client)
            if count := wrong.complaints.due(client):
                logger.warning("wrong tokens from %s: %d", address, count)
        return UnauthorizedError(f"This token does not allow {what}.")

    def _is_addressed(self, scope: Scope, others: frozenset[str]) -> bool:
        """Whether the request is for this machine or one of `others`, by every name that it gives.

        RFC 9112 lets the request target name a host too (`GET http://host/path`). X-Forwarded-Host is no name: anybody
        may send it.
        """
        given = [_header(scope, b"host") or ""]
        if "target_host" in scope:
            given.append(scope["target_host"])
        names = [host_name(each) for each in given]
        return all(name is not None and (names_loopback(name) or name in others) for name in names)


@dataclass
class RulesInForce:
    """The rules as they are now; they may be replaced while requests come."""

    rules: AccessRules
    wrong: WrongTokens = field(default_factory=WrongTokens)


class GuardedApp:
    """ASGI middleware that answers what the rules refuse and passes on the rest."""

    def __init__(self, app: ASGIApp, in_force: RulesInForce) -> None:
        self._app = app
        self._in_force = in_force

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            in_force = self._in_force
            refusal = in_force.rules.refusal(scope, in_force.wrong)
            if refusal is not None:
                await failure_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def bound_to_loopback(sockets: Sequence[socket.socket]) -> bool:
    """Whether only this machine can reach every one of these listening sockets."""
    return all(ipaddress.ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)


def is_write(scope: Scope) -> bool:
    """Whether a request may change something."""
    return scope["method"] not in _READING


def _found(digest: bytes, tokens: tuple[Token, ...]) -> Token | None:
    """All are compared, so that the time does not tell which of them was near."""
    matches = [token for token in tokens if hmac.compare_digest(digest, token.digest)]
    return matches[0] if matches else None


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; one that was given twice is the list of both, which equals nothing that is allowed."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


def _was_forwarded(scope: Scope) -> bool:
    return any(name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX) for name, _ in scope["headers"])


def _same_origin(origin: str, host: str | None) -> bool:
    scheme, separator, netloc = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and netloc == host

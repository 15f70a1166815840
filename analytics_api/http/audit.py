"""A line in the log for each write: who asked for it, from where, for what, and what came of it. No secret in it.

Who is the name of a token, or the start of its hash (`wattline token`). A path is logged as it came, percent-encoded,
so that no line can be made up in it; what a query says only where the write was done, since its names are known then.
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from analytics_api.http.access import RulesInForce, is_write
from analytics_api.http.clients import client_address

PATH_BYTES_MAX = 300
NO_TOKEN = "this machine"  # noqa: S105 - who writes without one, by API_WRITE_LOOPBACK
_OK = range(200, 300)

logger = logging.getLogger(__name__)


def note_change(request: Request, what: str) -> None:
    """For a route: what the write is about, in its line. `what` was validated: one line, and no secret."""
    request.scope["audit_what"] = what


class AuditedApp:
    """ASGI middleware inside of the guard: what it sees was let in."""

    def __init__(self, app: ASGIApp, in_force: RulesInForce) -> None:
        self._app = app
        self._in_force = in_force

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_write(scope):
            await self._app(scope, receive, send)
            return
        status = 500  # of a request that ends in an exception

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._log(scope, status)

    def _log(self, scope: Scope, status: int) -> None:
        address = client_address(scope, self._in_force.rules.proxies)
        who: str = scope.get("token_name", NO_TOKEN)
        what: str = scope.get("audit_what", "")
        path = _path(scope, with_query=status in _OK)
        facts: dict[str, Any] = {"who": who, "address": address, "method": scope["method"], "path": path}
        logger.info(
            "write by %s from %s: %s %s%s: %d",
            who,
            address,
            scope["method"],
            path,
            f" ({what})" if what else "",
            status,
            extra={**facts, "what": what, "status": status},
        )


def _path(scope: Scope, *, with_query: bool) -> str:
    path: bytes = scope.get("raw_path") or b""
    if with_query and scope["query_string"]:
        path += b"?" + scope["query_string"]
    # Whatever a client sent beyond visible ASCII is told as an escape.
    shown = path[:PATH_BYTES_MAX].decode("latin-1")
    return "".join(each if "!" <= each <= "~" else f"%{ord(each):02X}" for each in shown)

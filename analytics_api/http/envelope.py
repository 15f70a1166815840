"""What every answer carries: a request id, and headers that keep browsers from guessing.

It wraps the whole application, so that also the answer to a fault of ours has them.
"""

from __future__ import annotations

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.logging import request_id

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
# A route that sets one of them itself, such as the page, knows better.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class EnvelopedApp:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        own = given[0] if len(given) == 1 and _SANE_ID.fullmatch(given[0]) else secrets.token_hex(8).encode()
        # Never reset: the server runs each request as a task with a context of its own, and logs its faults there.
        request_id.set(own.decode())

        async def send_enveloped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in names]
                headers.append((b"x-request-id", own))
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_enveloped)

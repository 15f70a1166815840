"""HTTP/1.1 from uvicorn and httptools, with the bounds that they leave out.

Neither limits the head of a request: without this, a client that never ends its head fills the memory, and one that
sends a byte a minute keeps its connection for ever. A connection that is kept between two requests is neither: it may
wait as long as the setting says. What is refused here is refused in the contract's form as well.
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from serving.places import Guest, Places

URL_BYTES_MAX = 8_192  # RFC 9112, section 3, asks for 8000 at least
HEAD_BYTES_MAX = 65_536
# From a new connection, or the first byte of a later head, to the end of the head.
HEAD_SECONDS_MAX = 10.0
# For the head of one that is turned away; it takes the place of others who could be told.
TURNED_AWAY_SECONDS_MAX = 2.0
RETRY_AFTER_SECONDS = 2

logger = logging.getLogger(__name__)

_AUTHORITY_END = re.compile(rb"[/?#]")
_NOT_HTTP = (HTTPStatus.BAD_REQUEST, "This is not a valid HTTP request.")
_URL_TOO_LONG = (HTTPStatus.REQUEST_URI_TOO_LONG, f"The address is longer than {URL_BYTES_MAX} bytes.")
_HEAD_TOO_LARGE = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head is larger than {HEAD_BYTES_MAX} bytes.")
_NO_ROOM = (HTTPStatus.SERVICE_UNAVAILABLE, "There are too many connections at the moment; try again later.")


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _heads = 0
    _head_bytes = 0
    _begun = False
    _turned_away = False
    _head_deadline: float | None = None
    _refusal = _NOT_HTTP

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        places: Places | None = None,
        handshake: Guest | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._places = places
        self._handshake = handshake

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time."""
        super().connection_made(transport)
        now, places = self.loop.time(), self._places
        if places is not None and self._handshake is not None:
            places.left(self._handshake)  # its place is ours now
        self._turned_away = places is not None and not places.enter(self, now)
        if places is not None and self._turned_away and (count := places.complaints.due("full")):
            logger.warning(
                "all %d connections are in use, so new ones are answered 503 (%d more); `ulimit -n` bounds them",
                places.most,
                count,
            )
        self._head_deadline = now + (TURNED_AWAY_SECONDS_MAX if self._turned_away else HEAD_SECONDS_MAX)
        self._close_at_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place back."""
        if self._places is not None:
            self._places.left(self)
        super().connection_lost(exc)

    def leave(self) -> None:
        """End at once, for somebody who asks for something."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; then see what the parser still waits for."""
        began_in_head, heads = self._in_head, self._heads
        super().data_received(data)
        if self.transport.is_closing():
            return
        if began_in_head and self._heads == heads:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refusal = _HEAD_TOO_LARGE
                self.send_400_response("")
                return
        if self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            if self._head_deadline is None:
                self._head_deadline = self.loop.time() + HEAD_SECONDS_MAX
            self._close_at_deadline()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        """The parser turns what is raised here into its own error, which ends in `send_400_response`."""
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            self._refusal = _URL_TOO_LONG
            raise ValueError(_URL_TOO_LONG[1])

    def on_headers_complete(self) -> None:
        """A head has ended. A connection that is turned away is told now, and not served."""
        if self._turned_away:
            self._refusal = _NO_ROOM
            raise ValueError(_NO_ROOM[1])  # as in `on_url`
        super().on_headers_complete()
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        if not self.url.startswith((b"/", b"*")):  # RFC 9112, section 3.2.2: the target names a host as well
            authority = _AUTHORITY_END.split(self.url.partition(b"://")[2], maxsplit=1)[0]
            self.scope["target_host"] = authority.decode("latin-1")  # type: ignore[typeddict-unknown-key]
        self._in_head = self._begun = False
        self._heads += 1
        self._head_bytes = 0
        if self._places is not None:
            self._places.is_served(self)

    def on_message_complete(self) -> None:
        """What follows is another head."""
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        """The connection waits for another request, or the next head that has begun gets its time."""
        super().on_response_complete()
        self._head_deadline = None
        if self.timeout_keep_alive_task is None:  # another answer is on its way, or the connection ends
            return
        if self._places is not None:
            self._places.waits(self)
        if self._begun:
            self._head_deadline = self.loop.time() + HEAD_SECONDS_MAX
            self.timeout_keep_alive_task.cancel()
            self._close_at_deadline()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the parent's words for it
        """The refusal, in our words and form, and the end of the connection."""
        status, message = self._refusal
        body = to_json({"success": False, "message": message, "errors": []})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += f"retry-after: {RETRY_AFTER_SECONDS}\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        self.transport.close()

    def _close_at_deadline(self) -> None:
        # The parent's timer for idle connections; it cancels it with the next bytes.
        self.timeout_keep_alive_task = self.loop.call_at(self._head_deadline or 0.0, self.timeout_keep_alive_handler)

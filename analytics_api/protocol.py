"""HTTP/1.1 from uvicorn and httptools, with the bounds that they leave out.

Neither limits the head of a request: without this, a client that never ends its head fills the memory, and one that
sends a byte a minute keeps its connection for ever. What is refused here is refused in the contract's form as well.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from analytics_api.errors import failure_body

URL_BYTES_MAX = 8_192  # RFC 9112, section 3, asks for 8000 at least
HEAD_BYTES_MAX = 65_536
# From the connection, or the answer before, to the end of the next head.
HEAD_SECONDS_MAX = 10.0

_AUTHORITY_END = re.compile(rb"[/?#]")
_NOT_HTTP = (HTTPStatus.BAD_REQUEST, "This is not a valid HTTP request.")
_URL_TOO_LONG = (HTTPStatus.REQUEST_URI_TOO_LONG, f"The address is longer than {URL_BYTES_MAX} bytes.")
_HEAD_TOO_LARGE = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head is larger than {HEAD_BYTES_MAX} bytes.")


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _heads = 0
    _head_bytes = 0
    _head_deadline = 0.0
    _refusal = _NOT_HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time."""
        super().connection_made(transport)
        self._head_deadline = self.loop.time() + HEAD_SECONDS_MAX
        self._close_at_deadline()

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
            self._close_at_deadline()

    def on_url(self, url: bytes) -> None:
        """The parser turns what is raised here into its own error, which ends in `send_400_response`."""
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            self._refusal = _URL_TOO_LONG
            raise ValueError(_URL_TOO_LONG[1])

    def on_headers_complete(self) -> None:
        """A head has ended."""
        super().on_headers_complete()
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        if not self.url.startswith(b"/"):  # RFC 9112, section 3.2.2: the target names a host as well
            authority = _AUTHORITY_END.split(self.url.partition(b"://")[2], maxsplit=1)[0]
            self.scope["target_host"] = authority.decode("latin-1")  # type: ignore[typeddict-unknown-key]
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """What follows is another head."""
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        """Give the next head its time."""
        super().on_response_complete()
        self._head_deadline = self.loop.time() + HEAD_SECONDS_MAX

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the parent's words for it
        """The refusal, in our words and form, and the end of the connection."""
        status, message = self._refusal
        body = to_json(failure_body(message))
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _close_at_deadline(self) -> None:
        # The parent's timer for idle connections; it cancels it with the next bytes.
        self.timeout_keep_alive_task = self.loop.call_at(self._head_deadline, self.timeout_keep_alive_handler)

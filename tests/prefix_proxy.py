"""An HTTP proxy that serves a server below a path, as nginx does where `location` and `proxy_pass` end with a slash.

It speaks HTTP/1.0 to the server, names it in Host, adds no header, and passes every piece on as it comes.
"""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from embedded.ports import LOOPBACK

ANSWER_SECONDS = 30.0
PIECE_BYTES = 65_536
_BETWEEN_TWO = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})


class PrefixProxy:
    """`url` is where the server behind `target_port` is found; `close()` (or `with`) ends it."""

    def __init__(self, target_port: int, prefix: str = "/below") -> None:
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(target_port, prefix))
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}{prefix}"
        threading.Thread(target=self._server.serve_forever, name="prefix proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; listeners of streams lose their connection with the server's."""
        self._server.shutdown()
        self._server.server_close()


def _handler(target_port: int, prefix: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _BETWEEN_TWO}
            kept["Host"] = f"{LOOPBACK}:{target_port}"
            server = http.client.HTTPConnection(LOOPBACK, target_port, timeout=ANSWER_SECONDS)
            server._http_vsn, server._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
            server.request(self.command, self.path.removeprefix(prefix), body or None, kept)
            answer = server.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _BETWEEN_TWO:
                    self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                while piece := answer.read1(PIECE_BYTES):
                    self.wfile.write(piece)
            server.close()

        do_POST = do_PUT = do_GET  # noqa: N815 - same

        def log_message(self, *_: object) -> None:
            """Nothing; the tests look at what comes out."""

    return Handler

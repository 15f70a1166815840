"""uvicorn with a bound on connections, so that no number of clients takes the files that a process needs for itself.

It accepts by itself: asyncio takes a thousand connections at once before one of them can be refused, and where files
run out one kind of loop pauses and the other cuts off everybody who waits.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from serving.certificate import Certificate
from serving.places import TURNED_AWAY_MAX, Guest, Places
from serving.protocol import HEAD_SECONDS_MAX, BoundedProtocol

ACCEPTED_AT_ONCE = 16
"""Connections taken before the loop does other work; those that have to leave for them are gone by then."""
PAUSE_SECONDS = 0.1
"""After an accept that failed because something ran out; it may be back by then."""
OWN_FILES = 80
"""Pool of database connections, broker link, files of the page, log, listening sockets, event loop."""
CONNECTIONS_MAX = 10_000
CONNECTIONS_MIN = 16

_SHORT_OF_SOMETHING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


def connections_max(files: int) -> int:
    """How many connections a process with so many files may serve, with a reserve for itself."""
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, files - OWN_FILES - TURNED_AWAY_MAX - ACCEPTED_AT_ONCE))


def bounded_config(app: ASGIApp, *, keepalive_seconds: int, debugging: bool = False, **more: object) -> uvicorn.Config:
    """What our servers have in common; `more` are other settings of uvicorn."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        workers=1,
        log_config=None,
        log_level="debug" if debugging else "error",  # below are its own notes and what clients did wrong
        access_log=debugging,
        proxy_headers=False,  # who is asking is who is connected; a header can claim anything
        server_header=False,
        timeout_keep_alive=keepalive_seconds,
        **more,  # type: ignore[arg-type]
    )


def note_requests(*, debugging: bool) -> None:
    """Turn the access log and uvicorn's own notes on or off, for connections from now on."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.DEBUG if debugging else logging.ERROR)
    logging.getLogger("uvicorn.access").propagate = debugging


class _Handshake:
    """A guest that has not come in yet."""

    def __init__(self, leave: Callable[[], object]) -> None:
        self._leave = leave

    def leave(self) -> None:
        self._leave()


class BoundedServer(uvicorn.Server):
    """Serves at most as many connections as `places` has, on sockets that listen already."""

    def __init__(self, config: uvicorn.Config, places: Places, certificate: Certificate | None = None) -> None:
        """With a `certificate` by TLS only."""
        super().__init__(config)
        self._places = places
        self._certificate = certificate
        self._listening: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        await super().startup(sockets=[])
        self._listening = sockets or []
        for listener in self._listening:
            listener.setblocking(False)
            self._accept_from(listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let what is in hand finish, stop the application."""
        loop = asyncio.get_running_loop()
        for listener in self._listening:
            loop.remove_reader(listener)
        self._listening = []
        await super().shutdown(sockets)

    def _accept_from(self, listener: socket.socket) -> None:
        if listener in self._listening:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _SHORT_OF_SOMETHING:
                    self._complain(error)
                    loop.remove_reader(listener)
                    loop.call_later(PAUSE_SECONDS, self._accept_from, listener)
                return  # anything else ended one connection, and says nothing about the next
            connection.setblocking(False)
            task = loop.create_task(self._connect(connection), name="new connection")
            self.server_state.tasks.add(task)
            task.add_done_callback(self.server_state.tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        # TCP_NODELAY is the loop's business; a client that has gone meanwhile, or speaks no TLS, is nobody's.
        try:
            if self._certificate is None:
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
            else:
                await self._connect_by_tls(connection, self._certificate.context)
        except OSError:
            with suppress(OSError):
                connection.close()

    async def _connect_by_tls(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """A handshake has a place, as a connection that has said nothing yet: who never ends it may have to leave."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine of a task
        handshake = _Handshake(task.cancel)
        try:
            if self._places.enter(handshake, loop.time()):
                protocol = partial(self._protocol, handshake=handshake)
                await loop.connect_accepted_socket(
                    protocol, connection, ssl=context, ssl_handshake_timeout=HEAD_SECONDS_MAX
                )
            else:
                connection.close()  # nobody can be told anything before a handshake
        finally:
            self._places.left(handshake)

    def _protocol(self, handshake: Guest | None = None) -> BoundedProtocol:
        return BoundedProtocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            places=self._places,
            handshake=handshake,
        )

    def _complain(self, error: OSError) -> None:
        if self._places.complaints.due("no connection"):
            logger.error(
                "no connection can be taken for the moment (%d are open): %s", self._places.connections, error.strerror
            )

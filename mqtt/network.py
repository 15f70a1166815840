"""A network connection to the broker, whatever version of MQTT goes over it: opened in time, pinged, ended once.

What travels over it is said by `mqtt.connection`, and for MQTT 3.1.1 by `loadgen.mqtt311`. It never reconnects. The
first reason why it ended is the one that counts, and everybody who waits hears that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from mqtt.errors import LinkError, LinkLost, lost, unreachable
from mqtt.options import LinkOptions
from mqtt.packet_ids import fail

# A silent connection is given up after this many pings without any answer, three of which fit the keepalive.
SILENT_PINGS_MAX = 2
# How long a goodbye may take before the socket is simply closed.
CLOSE_SECONDS_MAX = 2.0


class NetworkConnection(asyncio.Protocol):
    """All methods belong to the loop it was made in."""

    ping_packet: bytes

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._welcome: asyncio.Future[Any] = self._loop.create_future()
        """The broker's answer to our CONNECT."""
        self._closed: asyncio.Future[LinkError] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: LinkError | None = None
        self._reading = True
        self._heard = True
        self._silent_pings = 0
        self._ping_seconds = 0.0
        self._ping_timer: asyncio.TimerHandle | None = None

    # What each version does in its own way

    async def _shake_hands(self) -> float:
        """Until the broker has accepted us; the seconds of silence after which we are gone. Raises LinkError."""
        raise NotImplementedError

    def _unanswered(self, error: Exception | None) -> LinkError:
        """The error for a broker that closed the connection without an answer to our CONNECT."""
        raise NotImplementedError

    # What the caller does

    @property
    def is_open(self) -> bool:
        """Whether what is written still has somewhere to go."""
        return self._error is None

    @property
    def is_writable(self) -> bool:
        """Whether the socket takes more without piling up here."""
        return self._writable.is_set()

    def on_closed(self, callback: Callable[[LinkError], None]) -> None:
        """Call `callback` with the reason once the connection has ended."""
        self._closed.add_done_callback(lambda closed: callback(closed.result()))

    def abort(self, error: LinkError) -> None:
        """Drop the connection at once."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    # What the transport does, as an asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        error = lost(self._options.broker, exc) if self._welcome.done() else self._unanswered(exc)
        self._end(error)
        if not self._closed.done():
            self._closed.set_result(self._error or error)

    def pause_writing(self) -> None:
        """The socket is full. After the end nobody is to wait for it."""
        if self._error is None:
            self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # How it works

    async def _open(self) -> None:
        """Connect, and return once the broker has accepted us. Raises LinkError."""
        options = self._options
        try:
            tls = None if options.tls is None else options.tls.context()
            async with asyncio.timeout(options.connect_timeout_seconds):
                await self._loop.create_connection(lambda: self, options.broker.host, options.broker.port, ssl=tls)
                keepalive_seconds = await self._shake_hands()
        except BaseException as error:
            self.abort(LinkLost("gave up connecting"))
            if isinstance(error, OSError | UnicodeError):  # asyncio's for a host name that cannot be one
                raise unreachable(options.broker, error, options.connect_timeout_seconds) from None
            raise
        self._ping_seconds = keepalive_seconds / (SILENT_PINGS_MAX + 1)
        self._ping_timer = self._loop.call_later(self._ping_seconds, self._ping)

    def _ping(self) -> None:
        if self._error is not None:
            return
        if self._heard or not self._reading:
            self._silent_pings = 0
        elif self._silent_pings >= SILENT_PINGS_MAX:
            seconds = round(self._ping_seconds * (SILENT_PINGS_MAX + 1), 1)
            self.abort(LinkLost(f"the broker at {self._options.broker} has been silent for {seconds} s"))
            return
        else:
            self._silent_pings += 1
        self._heard = False
        self._write(self.ping_packet)
        self._ping_timer = self._loop.call_later(self._ping_seconds, self._ping)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._error is None:
            self._transport.write(data)

    async def _say_goodbye(self, packet: bytes) -> None:
        """Send the last packet and let the broker close."""
        goodbye = LinkLost("we disconnected")
        if self._error is None:
            self._write(packet)
            self._end(goodbye)
            self._hear_out()
        try:
            await asyncio.wait([self._closed], timeout=CLOSE_SECONDS_MAX)
        finally:
            # What a broker that reads no more has not taken by now, it never will.
            self.abort(goodbye)

    def _hear_out(self) -> None:
        """Read on, into nothing, until the broker closes.

        Who closes a socket with something unread resets the connection, and the broker loses the acknowledgements that
        it has not read yet: it would deliver those messages again.
        """
        transport = self._transport
        if transport is not None:
            if not self._reading:
                transport.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()

    def _end(self, error: LinkError) -> None:
        if self._error is None:
            self._error = error
            if self._ping_timer is not None:
                self._ping_timer.cancel()
            self._writable.set()
            fail(self._welcome, error)
            self._ended(error)

    def _ended(self, error: LinkError) -> None:
        """For those who wait for something else."""

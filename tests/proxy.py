"""A TCP proxy on loopback that loses the network on command: cut, refuse, or stay silent.

It runs in a thread of its own, so that tests with and without an event loop use it alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any, Self

from embedded.ports import LOOPBACK, free_ports

CHUNK_BYTES = 65536
CALL_SECONDS = 10.0


class TcpProxy:
    """Forwards `port` to `target_port`. Started when made; `close()` (or `with`) ends it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_ports(1)[0]
        self.connections_accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._to_server, self._to_client = asyncio.Event(), asyncio.Event()
        self._thread.start()
        self.start()
        self.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Accept connections, on the same port as before."""
        self._run(self._listen())

    def stop(self) -> None:
        """Refuse new connections and cut those that are open."""
        self._run(self._stop())

    def cut(self) -> None:
        """Reset the open connections; new ones are accepted."""
        self._run(self._cut())

    def blackhole(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Forward nothing in the given directions; connections stay open and new ones are accepted."""
        self._run(self._flow(to_server=not to_server, to_client=not to_client))

    def restore(self) -> None:
        """Forward again, beginning with what was held back."""
        self._run(self._flow(to_server=True, to_client=True))

    def close(self) -> None:
        if not self._loop.is_closed():
            self.stop()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_SECONDS)
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _flow(self, *, to_server: bool, to_client: bool) -> None:
        for event, flows in ((self._to_server, to_server), (self._to_client, to_client)):
            if flows:
                event.set()
            else:
                event.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_accepted += 1
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it: a plain end is passed on, a cut is a reset."""
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self.target_port)
            writers.append(far_writer)
            pumps = [
                asyncio.create_task(_pump(reader, far_writer, self._to_server)),
                asyncio.create_task(_pump(far_reader, writer, self._to_client)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except asyncio.CancelledError:
            for one in writers:
                _reset(one)
        except OSError:
            _reset(writer)  # nobody listens at the target
        finally:
            for one in writers:
                one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            await flows.wait()
            writer.write(data)
            await writer.drain()
    await flows.wait()  # a network that is gone carries no end of a connection either


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()

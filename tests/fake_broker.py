"""A broker on loopback that says only what a test tells it to: for what no real broker can be made to do.

Every wait has a deadline. The wire format is the codec's, so that a test reads like the conversation it describes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import mqtt5
import pytest

from config.broker import BrokerAddress
from ingestor.broker_watch import WATCH
from mqtt.connection import Connection, OnPublish
from mqtt.options import LinkOptions

DEADLINE_SECONDS = 5.0
P = TypeVar("P")

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
]
"""Parameters of a module's `anyio_backend` fixture: both event loops that wattline runs on."""


class Session:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received = b""

    async def expect(self, kind: type[P]) -> P:
        """The next packet, which must be of this kind; pings before it are answered, as by any broker."""
        packet = await self.receive()
        while isinstance(packet, mqtt5.PingReqPacket) and kind is not mqtt5.PingReqPacket:
            self.send(mqtt5.PingRespPacket())
            packet = await self.receive()
        assert isinstance(packet, kind), f"{kind.__name__} expected, got {packet}"
        return packet

    async def receive(self) -> mqtt5.Packet:
        """The next packet, whatever it is."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    packet, size = mqtt5.read(memoryview(self._received))
                except IndexError:
                    data = await self._reader.read(65536)
                    assert data, "the client closed the connection"
                    self._received += data
                else:
                    self._received = self._received[size:]
                    return packet

    def send(self, *packets: mqtt5.Packet | bytes) -> None:
        """All of them in one write."""
        self._writer.write(b"".join(packet if isinstance(packet, bytes) else packet.write() for packet in packets))

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """So that the client gets them one by one: loopback hands over what one send call brought."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def until_closed(self) -> list[mqtt5.Packet]:
        """Wait until the client closes; the packets that it sent before."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(65536):
                    self._received += data
        packets: list[mqtt5.Packet] = []
        while self._received:
            packets.append(await self.receive())
        return packets

    def stop_reading(self) -> None:
        """Take nothing more from the client, so that its socket fills up."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def grant(self) -> str:
        """Answer a SUBSCRIBE with QoS 1; its filter."""
        packet = await self.expect(mqtt5.SubscribePacket)
        self.send(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]))
        return packet.topic_filters[0].pattern

    def read_on(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """End with a TCP reset."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._writer.transport.abort()


class _Protocol(asyncio.StreamReaderProtocol):
    """Closes as soon as the client has: a broker does."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class FakeBroker:
    """`async with FakeBroker() as broker:` listens on a free port until the block ends."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._accepted: asyncio.Queue[Session] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(asyncio.StreamReader(), self._accept), "127.0.0.1", 0, ssl=self._tls
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._accepted.put(Session(reader, writer))

    async def session(self) -> Session:
        """The next connection, before it has said anything."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._accepted.get()

    async def welcome(self, **connack: Any) -> Session:
        """The next connection, accepted with this CONNACK."""
        session = await self.session()
        while WATCH in (await session.expect(mqtt5.ConnectPacket)).client_id:
            session.close()  # the ingestor's second connection, which a broker may refuse
            session = await self.session()
        session.send(mqtt5.ConnAckPacket(**connack))
        return session

    async def subscribed(self, **connack: Any) -> Session:
        """The next connection, accepted and once it has subscribed with QoS 1."""
        session = await self.welcome(**connack)
        await session.grant()
        return session

    @property
    def no_session_waits(self) -> bool:
        """Whether nobody has connected but those that were asked for."""
        return self._accepted.empty()

    def options(self, **changes: Any) -> LinkOptions:
        """How to connect to it."""
        address = BrokerAddress(
            host="127.0.0.1", port=self.port, tls=self._tls is not None, username=None, password=None
        )
        defaults: dict[str, Any] = {"broker": address, "client_id": "tester", "connect_timeout_seconds": 3.0}
        return LinkOptions(**defaults | changes)


@asynccontextmanager
async def opened(
    broker: FakeBroker, on_publish: OnPublish | None = None, *, options: LinkOptions | None = None, **connack: Any
) -> AsyncIterator[tuple[Connection, Session]]:
    """A connection to the fake broker, and its other end."""
    opening = asyncio.create_task(Connection.open(options or broker.options(), on_publish))
    session = await broker.welcome(**connack)
    connection = await opening
    try:
        yield connection, session
    finally:
        await connection.disconnect()


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every test of a module that imports this runs on both event loops."""
    return request.param


@pytest.fixture(autouse=True)
async def nothing_left_behind(anyio_backend: Any) -> AsyncIterator[None]:
    """No task goes on after a test, and no exception ends in the event loop's error log."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    gc.freeze()  # what is older than the test need not be looked through
    yield
    gc.collect()
    gc.unfreeze()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not complaints, complaints
    left = [task for task in asyncio.all_tasks() - before if "_call_in_runner_task" not in str(task)]  # anyio's own
    assert not left, left


def puback(
    packet_id: int | None, reason: mqtt5.PubAckReasonCode = mqtt5.PubAckReasonCode.SUCCESS
) -> mqtt5.PubAckPacket:
    """The broker's answer to a message with QoS 1, which has a packet id."""
    assert packet_id is not None
    return mqtt5.PubAckPacket(packet_id, reason_code=reason)

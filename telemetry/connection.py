"""One network connection to the broker, from CONNECT to its end: an asyncio Protocol over the `mqtt5` codec.

Why not a client library: paho-mqtt costs 32 µs a message, aiomqtt 2 cannot acknowledge by hand; the codec on a Protocol
costs 3 to 5 µs (docs/architecture.md). It hands on what was received and reports how it ended; it never reconnects
(`telemetry.mqtt.Link` does) and never acknowledges by itself. Packet ids live and die with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Self, TypeVar, cast

import mqtt5

from telemetry.errors import (
    LinkError,
    LinkLost,
    connect_refused,
    disconnected,
    publish_refused,
    subscribe_refused,
)
from telemetry.options import LinkOptions

logger = logging.getLogger(__name__)

PACKET_IDS = 65535
# A silent connection is given up after this many pings without any answer, three of which fit the keepalive.
SILENT_PINGS_MAX = 2
# A reason code from here on is a failure (MQTT 5, section 2.4).
FAILURE_CODES = 0x80
# Fixed header: one byte of type and flags, then up to four of remaining length (MQTT 5, section 2.1).
FIXED_HEADER_BYTES_MAX = 5
# How long a goodbye may take before the socket is simply closed.
CLOSE_SECONDS_MAX = 2.0

OnPublish = Callable[["Connection", list[mqtt5.PublishPacket]], None]
T = TypeVar("T")
Answer = mqtt5.PubAckPacket | mqtt5.SubAckPacket | mqtt5.UnsubAckPacket


class Connection(asyncio.Protocol):
    """An established MQTT 5 connection; make one with `open`. All methods belong to the loop it was opened in."""

    def __init__(self, options: LinkOptions, on_publish: OnPublish | None) -> None:
        self._options = options
        self._on_publish = on_publish
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._connack: asyncio.Future[mqtt5.ConnAckPacket] = self._loop.create_future()
        self._closed: asyncio.Future[LinkError] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._last_packet_id = 0
        self._slots = asyncio.Semaphore(PACKET_IDS)
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: LinkError | None = None
        self._reading = True
        self._heard = True
        self._silent_pings = 0
        self._ping_timer: asyncio.TimerHandle | None = None
        self.session_present = False
        self.packet_bytes_max: int | None = None

    @classmethod
    async def open(cls, options: LinkOptions, on_publish: OnPublish | None = None) -> Self:
        """Connect, and return once the broker has accepted us.

        Raises LinkLost when it may work later, LinkRefused when only a person can help.
        """
        connection: Self | None = None
        try:
            async with asyncio.timeout(options.connect_timeout_seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: cls(options, on_publish), options.broker.host, options.broker.port, ssl=options.tls
                )
                await connection._handshake()  # noqa: SLF001 - its own class
        except (OSError, TimeoutError) as error:
            if connection is not None:
                connection.abort(LinkLost("gave up connecting"))
            raise LinkLost(_unreachable(options, error)) from None
        except BaseException:
            if connection is not None:
                connection.abort(LinkLost("gave up connecting"))
            raise
        return connection

    async def _handshake(self) -> None:
        options = self._options
        password = options.broker.password
        self._write(
            mqtt5.ConnectPacket(
                options.client_id,
                username=options.broker.username,
                password=None if password is None else password.get_secret_value().encode(),
                clean_start=options.clean_start,
                keep_alive=options.keepalive_seconds,
                session_expiry_interval=options.session_expiry_seconds,
                receive_max=options.receive_maximum,
                max_packet_size=options.packet_bytes_max,
            ).write()
        )
        connack = await self._connack
        if connack.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise connect_refused(str(options.broker), connack.reason_code, connack.reason_str)
        self.session_present = connack.session_present
        self.packet_bytes_max = connack.max_packet_size
        self._slots = asyncio.Semaphore(min(connack.receive_max, PACKET_IDS))
        keepalive = connack.server_keep_alive or options.keepalive_seconds
        self._ping_seconds = keepalive / (SILENT_PINGS_MAX + 1)
        self._ping_timer = self._loop.call_later(self._ping_seconds, self._ping)

    # What the caller does

    @property
    def is_open(self) -> bool:
        """Whether acknowledgements and publishes still have somewhere to go."""
        return self._error is None

    async def closed(self) -> LinkError:
        """Wait for the end; the result says why it ended."""
        return await asyncio.shield(self._closed)

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe with QoS 1; retained messages come only if the subscription is new. Raises LinkError."""
        packet_id, answer = self._expect_answer()
        wanted = mqtt5.TopicFilter(
            topic_filter,
            max_qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
        )
        self._write(mqtt5.SubscribePacket(packet_id, [wanted]).write())
        suback = await self._in_time(answer, "SUBSCRIBE")
        if isinstance(suback, mqtt5.SubAckPacket) and int(suback.reason_codes[0]) >= FAILURE_CODES:
            raise subscribe_refused(topic_filter, suback.reason_codes[0], suback.reason_str)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe; a filter that was not subscribed is fine. Raises LinkError."""
        packet_id, answer = self._expect_answer()
        self._write(mqtt5.UnsubscribePacket(packet_id, [topic_filter]).write())
        await self._in_time(answer, "UNSUBSCRIBE")

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish and, with QoS 1, wait for the broker's word that it has the message.

        Waits while the broker's Receive Maximum is used up or the socket is full. Raises PublishRefused when the broker
        discarded or refused the message, LinkLost when the connection ended first (it may have it, or not).
        """
        if not self._writable.is_set():
            await self._writable.wait()
        if qos == 0:
            self._raise_if_closed()
            self._write(mqtt5.PublishPacket(topic, payload).write())
            return
        await self._slots.acquire()
        try:
            self._raise_if_closed()
            packet_id, answer = self._expect_answer()
            answer.add_done_callback(lambda _: self._slots.release())
        except BaseException:
            self._slots.release()
            raise
        packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()
        self._write(packet)
        # Shielded: a caller that gives up must not free a packet id that the broker still holds.
        puback = await asyncio.shield(answer)
        if isinstance(puback, mqtt5.PubAckPacket) and puback.reason_code != mqtt5.PubAckReasonCode.SUCCESS:
            raise publish_refused(puback.reason_code, puback.reason_str)

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        """Send the PUBACKs in the order given, which must be that of receiving (MQTT-4.6.0-2), as one write.

        False when the connection has ended: the broker delivers those messages again.
        """
        if self._error is not None:
            return False
        acknowledgement = mqtt5.PubAckPacket
        self._write(b"".join([acknowledgement(packet_id).write() for packet_id in packet_ids]))
        return True

    def pause_reading(self) -> None:
        """Stop reading: the broker's messages wait in its own queue. PINGRESPs wait too, so silence means nothing."""
        if self._reading and self._transport is not None and self._error is None:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._reading and self._transport is not None and self._error is None:
            self._reading = True
            self._silent_pings = 0
            self._transport.resume_reading()

    async def disconnect(self) -> None:
        """Say goodbye and close; the session stays at the broker for as long as its expiry says."""
        if self._error is None:
            self._write(mqtt5.DisconnectPacket().write())
            self._end(LinkLost("we disconnected"))
            if self._transport is not None:
                self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self.closed()
        except TimeoutError:
            self.abort(LinkLost("we disconnected"))

    def abort(self, error: LinkError) -> None:
        """Drop the connection at once."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    # What the transport does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        why = f": {_why(exc)}" if exc is not None else ""
        self._end(LinkLost(f"the connection to the broker at {self._options.broker} was cut{why}"))
        if not self._closed.done():
            self._closed.set_result(self._error or LinkLost("closed"))

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol: the socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol: there is room again."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol, and the hot path: 0.35 µs a PUBLISH, most of it in the codec."""
        self._heard = True
        if self._partial:
            data = self._partial + data
        view = memoryview(data)
        read, publish = mqtt5.read, mqtt5.PublishPacket
        at, end = 0, len(data)
        publishes: list[mqtt5.PublishPacket] = []
        try:
            while at < end:
                packet, size = read(view[at:])
                at += size
                if type(packet) is publish:
                    publishes.append(packet)
                else:
                    self._handle(packet)
        except IndexError:
            if not self._may_be_incomplete(view[at:]):
                return
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the codec's panic on bad UTF-8 is not an Exception
            self._malformed(f"sent a packet that is not MQTT 5 ({error})")
            return
        self._partial = data[at:]
        if publishes and self._on_publish is not None:
            self._on_publish(self, publishes)

    # How it works

    def _handle(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket() | mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket():
                answer = self._answers.pop(packet.packet_id, None)
                if answer is not None and not answer.done():
                    answer.set_result(packet)
            case mqtt5.PingRespPacket():
                pass
            case mqtt5.ConnAckPacket() if not self._connack.done():
                self._connack.set_result(packet)
            case mqtt5.DisconnectPacket():
                options = self._options
                self.abort(disconnected(str(options.broker), packet.reason_code, packet.reason_str, options.client_id))
            case _:
                self._malformed(f"sent a {type(packet).__name__}, which has no place here")

    def _may_be_incomplete(self, rest: memoryview) -> bool:
        """Whether more bytes can make a packet of `rest`; if not, the connection is given up.

        The codec says "not enough bytes" both for a packet whose end has not come and for one whose inside lies about
        its lengths; waiting for more of the latter would be waiting forever.
        """
        size, shift = 0, 0
        for index in range(1, FIXED_HEADER_BYTES_MAX):
            if index >= len(rest):
                return True
            size |= (rest[index] & 0x7F) << shift
            shift += 7
            if rest[index] < 0x80:  # noqa: PLR2004 - the continuation bit (MQTT 5, section 1.5.5)
                size += index + 1
                break
        if size > self._options.packet_bytes_max:
            self._malformed(f"sent a packet of {size} bytes, more than the {self._options.packet_bytes_max} agreed")
            return False
        if size <= len(rest):
            self._malformed("sent a packet whose lengths do not fit together")
            return False
        return True

    def _malformed(self, what: str) -> None:
        broker = self._options.broker
        text = f"the broker at {broker} {what}"
        if not self._connack.done():
            text += "; is it an MQTT 5 broker, and is its port the right one?"
        elif self._error is None:
            self._write(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.MALFORMED_PACKET).write())
        self.abort(LinkLost(text))

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
        self._write(mqtt5.PingReqPacket().write())
        self._ping_timer = self._loop.call_later(self._ping_seconds, self._ping)

    def _expect_answer(self) -> tuple[int, asyncio.Future[Answer]]:
        self._raise_if_closed()
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id % PACKET_IDS + 1
            if packet_id not in self._answers:
                break
            if packet_id == self._last_packet_id:
                raise LinkLost("all packet ids are in use")
        self._last_packet_id = packet_id
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answers[packet_id] = answer
        return packet_id, answer

    async def _in_time(self, answer: asyncio.Future[Answer], packet: str) -> Answer:
        try:
            async with asyncio.timeout(self._options.connect_timeout_seconds):
                return await answer
        except TimeoutError:
            raise LinkLost(f"the broker at {self._options.broker} did not answer {packet}") from None

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._error is None:
            self._transport.write(data)

    def _raise_if_closed(self) -> None:
        if self._error is not None:
            raise self._error

    def _end(self, error: LinkError) -> None:
        """The first reason is the one that counts; everybody who waits for an answer hears it."""
        if self._error is not None:
            return
        self._error = error
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        self._writable.set()
        # One wakes the next: each waiter finds the connection closed and gives its slot back.
        self._slots.release()
        _fail(self._connack, error)
        for answer in self._answers.values():
            _fail(answer, error)
        self._answers.clear()


def _fail(future: asyncio.Future[T], error: LinkError) -> None:
    if not future.done():
        future.set_exception(error)
        # Where nobody waits any more (a publisher that gave up), that is not worth a warning.
        future.exception()


def _unreachable(options: LinkOptions, error: OSError) -> str:
    broker = options.broker
    match error:
        case TimeoutError():
            return f"no answer from the broker at {broker} within {options.connect_timeout_seconds:g} s; check MQTT_URL"
        case socket.gaierror():
            return f"the broker's host {broker.host!r} is not known; check MQTT_URL"
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of the broker at {broker} is not trusted ({error.verify_message}); "
                "set MQTT_TLS_CA to the CA that signed it"
            )
        case ssl.SSLError():
            return f"no TLS with the broker at {broker} ({error.reason or error}); is that its TLS port?"
        case _:
            return f"no connection to a broker at {broker} ({_why(error)}); is it running? Check MQTT_URL"


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).lower() or type(error).__name__

"""One MQTT 5 connection to the broker, from CONNECT to its end: an asyncio Protocol over the `mqtt5` codec.

Why not a client library: paho-mqtt costs several times as much a message (docs/benchmarks.md), and aiomqtt 2 cannot
acknowledge by hand. It hands on what was received and reports how it ended; it never reconnects (`mqtt.link.Link` does)
and never acknowledges by itself. Packet ids live and die with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Self, TypeVar, cast

import mqtt5

from mqtt.errors import (
    LinkError,
    LinkLost,
    connect_refused,
    disconnected,
    not_unsubscribed,
    publish_refused,
    speaks_311_only,
    subscribe_refused,
    too_large_to_publish,
    wrong_port,
)
from mqtt.network import NetworkConnection
from mqtt.options import LinkOptions
from mqtt.outbox import OnAnswers, Outbox, R, correlation
from mqtt.packet_ids import PACKET_IDS, Answer, Answers
from mqtt.packets import PacketReader, acknowledgements, is_connack_311

logger = logging.getLogger(__name__)

# A reason code from here on is a failure (MQTT 5, section 2.4).
FAILURE_CODES = 0x80
# What a SUBACK to our one filter may say, from what was asked for upwards.
ENOUGH = (
    [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE],
    [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE],
    [mqtt5.SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE],
)
# Packet ids are left for others, and a broker that answers late has no mountain of them to take in.
OUTLET_UNDER_WAY_MAX = 20_000

OnPublish = Callable[["Connection", list[mqtt5.PublishPacket]], None]
OnPubacks = Callable[[list[mqtt5.PubAckPacket]], None]
A = TypeVar("A", mqtt5.PubAckPacket, mqtt5.SubAckPacket, mqtt5.UnsubAckPacket)


class Connection(NetworkConnection):
    """An established MQTT 5 connection; make one with `open`. All methods belong to the loop it was opened in."""

    ping_packet = mqtt5.PingReqPacket().write()

    def __init__(self, options: LinkOptions, on_publish: OnPublish | None) -> None:
        super().__init__(options)
        self._on_publish = on_publish
        self._reader = PacketReader(options.packet_bytes_max)
        self._answers = Answers()
        self._slots = asyncio.Semaphore(PACKET_IDS)
        self._on_pubacks: OnPubacks | None = None
        # Packet ids of messages with QoS 2: those that we owe a PUBREC, and those that the broker has yet to release.
        # We subscribe with QoS 1, but our session may hold messages of an older subscription.
        self._exactly_once: set[int] = set()
        self._to_be_released: set[int] = set()
        self.granted = mqtt5.ConnAckPacket()
        """The broker's CONNACK, once connected."""
        self.session_present = False
        self.packet_bytes_max: int | None = None
        self.receive_maximum = PACKET_IDS

    @classmethod
    async def open(cls, options: LinkOptions, on_publish: OnPublish | None = None) -> Self:
        """Connect, and return once the broker has accepted us.

        Raises LinkLost when it may work later, LinkRefused when only a person can help.
        """
        connection = cls(options, on_publish)
        await connection._open()
        return connection

    async def _shake_hands(self) -> float:
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
        connack: mqtt5.ConnAckPacket = await self._welcome
        if connack.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise connect_refused(
                str(options.broker), connack.reason_code, connack.reason_str, connack.server_reference
            )
        self.granted = connack
        self.session_present = connack.session_present
        self.packet_bytes_max = connack.max_packet_size
        self.receive_maximum = min(connack.receive_max, PACKET_IDS)
        self._slots = asyncio.Semaphore(min(connack.receive_max, PACKET_IDS))
        # Never more slowly than we would by ourselves: silence would be noticed too late.
        return min(connack.server_keep_alive or options.keepalive_seconds, options.keepalive_seconds)

    def _unanswered(self, error: Exception | None) -> LinkError:
        return wrong_port(self._options.broker, "closed the connection without an answer", error)

    # What the caller does

    async def closed(self) -> LinkError:
        """Wait for the end; the result says why it ended."""
        return await asyncio.shield(self._closed)

    async def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe with QoS 1 or 0; retained messages come only if the subscription is new. Raises LinkError."""
        packet_id, answer = self._expect_answer()
        wanted = mqtt5.TopicFilter(
            topic_filter,
            max_qos=mqtt5.QoS(qos),
            retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
        )
        self._write(mqtt5.SubscribePacket(packet_id, [wanted]).write())
        suback = await self._in_time(answer, mqtt5.SubAckPacket)
        # QoS 0 granted is not good enough: it would lose what is under way when anything is cut.
        if suback.reason_codes not in ENOUGH[qos:]:
            raise subscribe_refused(topic_filter, suback.reason_codes, suback.reason_str)

    async def unsubscribe(self, topic_filter: str) -> str | None:
        """Unsubscribe; a filter that was not subscribed is fine. What is wrong if the broker refuses, else None.

        Raises LinkError, also for an answer that does not come.
        """
        packet_id, answer = self._expect_answer()
        self._write(mqtt5.UnsubscribePacket(packet_id, [topic_filter]).write())
        unsuback = await self._in_time(answer, mqtt5.UnsubAckPacket)
        codes = unsuback.reason_codes
        if len(codes) == 1 and int(codes[0]) < FAILURE_CODES:
            return None
        return not_unsubscribed(topic_filter, codes, unsuback.reason_str)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish and, with QoS 1, wait for the broker's word that it has the message.

        Waits while the broker's Receive Maximum is used up or the socket is full. Raises PublishRefused when the broker
        discarded or refused the message, or would because of its size; LinkLost when the connection ended first (it may
        have it, or not); ValueError for a topic that is none.
        """
        if not self._writable.is_set():
            await self._writable.wait()
        if qos == 0:
            self._raise_if_closed()
            self._write(self._within_limit(mqtt5.PublishPacket(topic, payload)))
            return
        await self._slots.acquire()
        try:
            self._raise_if_closed()
            packet_id = self._answers.free_packet_id()
            packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id)
            data = self._within_limit(packet)
        except BaseException:
            self._slots.release()
            raise
        answer = self._answers.expect(packet_id)
        answer.add_done_callback(lambda _: self._slots.release())
        self._write(data)
        # Shielded: a caller that gives up must not free a packet id that the broker still holds.
        puback = await asyncio.shield(answer)
        if isinstance(puback, mqtt5.PubAckPacket) and puback.reason_code != mqtt5.PubAckReasonCode.SUCCESS:
            raise publish_refused(puback.reason_code, puback.reason_str)

    def outlet(self, on_answers: OnAnswers[R], on_closed: Callable[[LinkError], None]) -> Outbox[R]:
        """An outbox for all that is published from now on; `on_closed` hears why the connection has ended."""
        self.on_closed(on_closed)
        return Outbox(self, OUTLET_UNDER_WAY_MAX, on_answers, properties=correlation)

    def take_pubacks(self, on_pubacks: OnPubacks, packet_ids: Collection[int]) -> Collection[int]:
        """From now on every PUBACK goes to `on_pubacks`, all of one read at once; `Outbox` uses it.

        No other packet of ours gets one of its `packet_ids`; the result are those that others have.
        """
        self._on_pubacks = on_pubacks
        return self._answers.share_with(packet_ids)

    def write_packets(self, packets: Sequence[bytes]) -> None:
        """Finished packets as one write; nothing happens when the connection has ended."""
        self._write(b"".join(packets))

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        """Send the PUBACKs in the order given, which must be that of receiving (MQTT-4.6.0-2), as one write.

        A message with QoS 2 gets a PUBREC; its PUBREL is answered as soon as it comes. False when the connection has
        ended: the broker delivers those messages again.
        """
        if self._error is not None:
            return False
        self._write(acknowledgements(packet_ids, self._exactly_once))
        if self._exactly_once:
            received = self._exactly_once.intersection(packet_ids)
            self._exactly_once -= received
            self._to_be_released |= received
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

    def deliver_again(self, why: str) -> None:
        """End the connection at once; what is not acknowledged comes again over the next one."""
        self.abort(LinkLost(why))

    async def disconnect(self, *, end_session: bool = False) -> None:
        """Say goodbye and let the broker close; the session stays there for as long as its expiry says, or ends."""
        await self._say_goodbye(mqtt5.DisconnectPacket(session_expiry_interval=0 if end_session else None).write())

    # What the transport does

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return  # heard out, see _hear_out: nobody is there to take it
        self._heard = True
        if not self._welcome.done() and is_connack_311(self._reader.unread + data):
            self.abort(speaks_311_only(str(self._options.broker)))
            return
        publishes, others, problem = self._reader.feed(data)
        if self._on_pubacks is not None and others:
            others = self._hand_on_pubacks(others, self._on_pubacks)
        for packet in others:
            self._handle(packet)
        if publishes:
            exactly_once = mqtt5.QoS.EXACTLY_ONCE
            self._exactly_once.update(
                [cast(int, packet.packet_id) for packet in publishes if packet.qos is exactly_once]
            )
            self._hand_on(publishes)
        if problem is not None:
            self._malformed(problem)

    # How it works

    def _handle(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.ConnAckPacket() if not self._welcome.done():
                self._welcome.set_result(packet)
            case mqtt5.DisconnectPacket():
                options = self._options
                self.abort(disconnected(str(options.broker), packet, options.client_id))
            case mqtt5.PubAckPacket() | mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket() if self._welcome.done():
                self._answers.arrived(packet)
            case mqtt5.PubRelPacket() if self._welcome.done():
                self._complete(packet.packet_id)
            case mqtt5.PubRecPacket() if self._welcome.done():
                self._disown(packet)
            case mqtt5.PingRespPacket() | mqtt5.PubCompPacket() if self._welcome.done():
                pass  # a PUBCOMP ends what an older program began under our client id
            case _:
                self._malformed(f"sent an unexpected {_name(type(packet))}")

    def _complete(self, packet_id: int) -> None:
        """The broker has heard that we have a message of QoS 2, and lets its packet id go.

        An id that we do not know is one of the connection before: its PUBREC was sent after COMMIT, so all is well.
        """
        known = packet_id in self._to_be_released
        self._to_be_released.discard(packet_id)
        code = mqtt5.PubCompReasonCode.SUCCESS if known else mqtt5.PubCompReasonCode.PACKET_ID_NOT_FOUND
        self._write(mqtt5.PubCompPacket(packet_id, reason_code=code).write())

    def _disown(self, packet: mqtt5.PubRecPacket) -> None:
        """We publish nothing with QoS 2, so this message is of an older program: let the broker finish with it."""
        if int(packet.reason_code) < FAILURE_CODES:
            not_ours = mqtt5.PubRelReasonCode.PACKET_ID_NOT_FOUND
            self._write(mqtt5.PubRelPacket(packet.packet_id, reason_code=not_ours).write())

    def _hand_on(self, publishes: list[mqtt5.PublishPacket]) -> None:
        if not self._welcome.done():
            self._malformed("sent an unexpected PUBLISH")
        elif self._on_publish is not None:
            try:
                self._on_publish(self, publishes)
            except Exception as error:
                logger.exception("could not take %d messages", len(publishes))
                self.abort(LinkLost(f"a fault of ours while taking messages ({error!r}); they are delivered again"))

    def _hand_on_pubacks(self, packets: list[mqtt5.Packet], on_pubacks: OnPubacks) -> list[mqtt5.Packet]:
        """The PUBACKs to their taker; the result is what else there was."""
        puback = mqtt5.PubAckPacket
        pubacks = [packet for packet in packets if type(packet) is puback]
        if pubacks:
            on_pubacks(pubacks)
        return [] if len(pubacks) == len(packets) else [packet for packet in packets if type(packet) is not puback]

    def _malformed(self, what: str) -> None:
        broker = self._options.broker
        if not self._welcome.done():
            self.abort(wrong_port(broker, what))
            return
        if self._error is None:
            self._write(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.MALFORMED_PACKET).write())
        self.abort(LinkLost(f"the broker at {broker} {what}"))

    def _expect_answer(self) -> tuple[int, asyncio.Future[Answer]]:
        self._raise_if_closed()
        packet_id = self._answers.free_packet_id()
        return packet_id, self._answers.expect(packet_id)

    async def _in_time(self, answer: asyncio.Future[Answer], kind: type[A]) -> A:
        broker = self._options.broker
        while not answer.done():
            await asyncio.wait([answer], timeout=self._options.connect_timeout_seconds)
            # While reading is paused the answer waits behind messages, so its absence means nothing.
            if not answer.done() and self._reading:
                raise LinkLost(f"the broker at {broker} sent no {_name(kind)} in time")
        packet = answer.result()
        if not isinstance(packet, kind):
            raise LinkLost(f"the broker at {broker} sent {_name(type(packet))} where {_name(kind)} was due")
        return packet

    def _within_limit(self, packet: mqtt5.PublishPacket) -> bytes:
        """The bytes of a packet that the broker takes; a larger one would cost us the connection."""
        data = packet.write()
        if self.packet_bytes_max is not None and len(data) > self.packet_bytes_max:
            raise too_large_to_publish(len(data), self.packet_bytes_max)
        return data

    def _raise_if_closed(self) -> None:
        if self._error is not None:
            # Without its traceback, to which every raise would add.
            raise self._error.with_traceback(None)

    def _ended(self, error: LinkError) -> None:
        # One wakes the next: each waiter finds the connection closed and gives its slot back.
        self._slots.release()
        self._answers.fail(error)


def _name(kind: type) -> str:
    """As the specification writes it: SUBACK."""
    return kind.__name__.removesuffix("Packet").upper()

"""What arrives: however the network cuts it, and whatever it is, it becomes messages or an end that says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import mqtt5
import pytest
from mqtt5 import AuthPacket, ConnAckPacket

from mqtt.connection import Connection
from mqtt.errors import LinkError, LinkLost
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind, opened  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

PACKET_BYTES_MAX = 2_000_000


class Receiver:
    """Remembers the portions of messages that a connection hands on."""

    def __init__(self) -> None:
        self.portions: list[list[bytes]] = []

    def __call__(self, connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        self.portions.append([packet.payload for packet in packets])

    @property
    def payloads(self) -> list[bytes]:
        return [payload for portion in self.portions for payload in portion]


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Session, Connection, Receiver]]:
    receiver = Receiver()
    async with FakeBroker() as broker:
        options = broker.options(packet_bytes_max=PACKET_BYTES_MAX)
        async with opened(broker, receiver, options=options) as (connection, session), asyncio.timeout(5):
            yield session, connection, receiver


def message(payload: bytes, packet_id: int = 1) -> mqtt5.PublishPacket:
    return mqtt5.PublishPacket(
        "v1/telemetry/meter/M", payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id, user_properties=[("k", "v")]
    )


# However the network cuts it


async def test_packets_in_one_piece_are_handed_on_as_one_portion() -> None:
    async with receiving() as (session, connection, receiver):
        session.send(message(b"1"), mqtt5.PingRespPacket(), mqtt5.PubAckPacket(9), message(b"2"), message(b"3"))
        await wait_until_async(lambda: receiver.payloads == [b"1", b"2", b"3"])
        assert len(receiver.portions) == 1
        assert connection.is_open


async def test_a_packet_byte_by_byte() -> None:
    async with receiving() as (session, connection, receiver):
        await session.send_in_pieces(message(b"1").write() + mqtt5.PingRespPacket().write() + message(b"2").write())
        await wait_until_async(lambda: receiver.payloads == [b"1", b"2"])
        assert connection.is_open


async def test_a_packet_of_a_megabyte() -> None:
    payload = bytes(range(256)) * 4096
    async with receiving() as (session, connection, receiver):
        await session.send_in_pieces(message(payload).write() + message(b"next").write(), size=100_000)
        await wait_until_async(lambda: receiver.payloads == [payload, b"next"])
        assert connection.is_open


# With QoS 2, as an older subscription may have left it in our session


def exactly_once(payload: bytes, packet_id: int) -> mqtt5.PublishPacket:
    return mqtt5.PublishPacket("v1/telemetry/meter/M", payload, qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=packet_id)


async def test_a_message_with_qos_2_is_acknowledged_by_pubrec_and_released_by_pubcomp() -> None:
    async with receiving() as (session, connection, receiver):
        session.send(message(b"1", 1), exactly_once(b"2", 2), message(b"3", 3), exactly_once(b"4", 65535))
        await wait_until_async(lambda: receiver.payloads == [b"1", b"2", b"3", b"4"])
        assert connection.acknowledge([1, 2, 3, 65535])
        assert [(type(packet), packet.packet_id) for packet in [await session.receive() for _ in range(4)]] == [
            (mqtt5.PubAckPacket, 1),
            (mqtt5.PubRecPacket, 2),
            (mqtt5.PubAckPacket, 3),
            (mqtt5.PubRecPacket, 65535),
        ]
        session.send(mqtt5.PubRelPacket(2), mqtt5.PubRelPacket(65535))
        for packet_id in (2, 65535):
            complete = await session.expect(mqtt5.PubCompPacket)
            assert (complete.packet_id, complete.reason_code) == (packet_id, mqtt5.PubCompReasonCode.SUCCESS)
        # The ids are free, for either kind.
        session.send(message(b"5", 2), exactly_once(b"6", 65535))
        await wait_until_async(lambda: receiver.payloads[4:] == [b"5", b"6"])
        connection.acknowledge([2, 65535])
        await session.expect(mqtt5.PubAckPacket)
        await session.expect(mqtt5.PubRecPacket)
        assert connection.is_open


async def test_nothing_is_answered_before_it_is_acknowledged() -> None:
    async with receiving() as (session, connection, receiver):
        session.send(exactly_once(b"1", 1))
        await wait_until_async(lambda: receiver.payloads == [b"1"])
        session.send(mqtt5.PubRelPacket(9))
        complete = await session.expect(mqtt5.PubCompPacket)  # and no PUBREC before it
        assert complete.packet_id == 9
        assert connection.is_open


async def test_a_pubrel_of_the_connection_before_is_answered() -> None:
    async with receiving() as (session, connection, _):
        session.send(mqtt5.PubRelPacket(7))
        complete = await session.expect(mqtt5.PubCompPacket)
        assert (complete.packet_id, complete.reason_code) == (7, mqtt5.PubCompReasonCode.PACKET_ID_NOT_FOUND)
        assert connection.is_open


async def test_what_an_older_program_published_with_qos_2_is_brought_to_its_end() -> None:
    async with receiving() as (session, connection, _):
        refused = mqtt5.PubRecPacket(5, reason_code=mqtt5.PubRecReasonCode.QUOTA_EXCEEDED)
        session.send(mqtt5.PubRecPacket(4), refused, mqtt5.PubCompPacket(4), mqtt5.PubRelPacket(6))
        release = await session.expect(mqtt5.PubRelPacket)
        assert (release.packet_id, release.reason_code) == (4, mqtt5.PubRelReasonCode.PACKET_ID_NOT_FOUND)
        assert (await session.expect(mqtt5.PubCompPacket)).packet_id == 6
        assert connection.is_open


# Whatever it is


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x30\x04\x00\x09a\x00", "not MQTT 5"),  # a topic longer than its packet
        (b"\x30\x05\x00\x01a\x50\x26", "not MQTT 5"),  # properties longer than their packet
        (b"\x30\xff\xff\xff\xff\x01", "not MQTT 5"),  # five bytes of length
        (b"\x30\xff\xff\xff\x7f", "a packet of 268435460 bytes, more than the 2000000 agreed"),
        (b"\x36\x08\x00\x01a\x00\x01\x00ab", "not MQTT 5"),  # QoS 3
        (b"\x40\x03\x00\x01\x77", "not MQTT 5"),  # a PUBACK with a reason code that does not exist
        (b"\x00\x00", "not MQTT 5"),
        (b"GET / HTTP/1.1\r\n\r\n", "not MQTT 5"),
        (b"H", "not MQTT 5"),
        (mqtt5.ConnAckPacket(), "an unexpected CONNACK"),
        (mqtt5.AuthPacket(), "an unexpected AUTH"),
    ],
)
async def test_what_no_broker_may_send_ends_the_connection(data: AuthPacket | ConnAckPacket | bytes, said: str) -> None:
    async with receiving() as (session, connection, receiver):
        session.send(message(b"before"), data)
        error = await connection.closed()
        assert type(error) is LinkLost
        assert said in str(error)
        assert receiver.payloads == [b"before"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec panics
async def test_a_text_that_is_not_utf_8_ends_the_connection() -> None:
    async with receiving() as (session, connection, receiver):
        session.send(message(b"before"), b"\x30\x05\x00\x01\xff\x00a")
        assert "sent something that is not MQTT 5 (a text that is not UTF-8)" in str(await connection.closed())
        assert receiver.payloads == [b"before"]


async def test_the_broker_is_told_that_its_packet_is_malformed() -> None:
    async with receiving() as (session, connection, _):
        session.send(b"\x00\x00")
        await connection.closed()
        (packet,) = await session.until_closed()
        assert isinstance(packet, mqtt5.DisconnectPacket)
        assert packet.reason_code == mqtt5.DisconnectReasonCode.MALFORMED_PACKET


async def test_messages_before_a_disconnect_are_handed_on_but_cannot_be_acknowledged() -> None:
    async with receiving() as (session, connection, receiver):
        session.send(message(b"1"), mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN))
        error = await connection.closed()
        assert "it is shutting down" in str(error)
        assert receiver.payloads == [b"1"]
        assert connection.acknowledge([1]) is False


# On our side


async def test_a_fault_while_taking_messages_ends_the_connection_so_that_they_come_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_connection: Connection, _packets: list[mqtt5.PublishPacket]) -> None:
        raise KeyError("oops")

    async with FakeBroker() as broker, opened(broker, fail) as (connection, session):
        session.send(message(b"1"))
        async with asyncio.timeout(1):
            error: LinkError = await connection.closed()
        assert type(error) is LinkLost
        assert "a fault of ours while taking messages (KeyError('oops'))" in str(error)
        assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_who_only_publishes_ignores_what_comes() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        session.send(message(b"1"), mqtt5.PubAckPacket(5), mqtt5.SubAckPacket(6, []), mqtt5.UnsubAckPacket(7, []))
        publishing = asyncio.create_task(connection.publish("a", b""))
        await session.expect(mqtt5.PublishPacket)
        session.send(mqtt5.PubAckPacket(1))
        await publishing


async def test_nothing_is_handed_on_while_paused_or_after_the_end() -> None:
    async with receiving() as (session, connection, receiver):
        connection.pause_reading()
        session.send(message(b"1"))
        await asyncio.sleep(0.05)
        assert receiver.payloads == []
        connection.resume_reading()
        await wait_until_async(lambda: receiver.payloads == [b"1"])
        connection.pause_reading()
        session.send(message(b"2"))
        await connection.disconnect()
        connection.data_received(message(b"3").write())
        assert receiver.payloads == [b"1"]

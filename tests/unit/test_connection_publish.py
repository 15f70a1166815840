"""Publishing over one connection: the PUBACK is waited for, the broker's limits are kept, and nobody waits forever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mqtt5
import pytest
from mqtt5 import PubAckReasonCode

from mqtt.connection import Connection
from mqtt.errors import LinkLost, PublishRefused
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind, opened, puback  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

Task = asyncio.Task[None]


@asynccontextmanager
async def publishing(**connack: Any) -> AsyncIterator[tuple[Connection, Session]]:
    async with FakeBroker() as broker, opened(broker, **connack) as ends, asyncio.timeout(5):
        yield ends


def start(connection: Connection, *payloads: bytes) -> list[Task]:
    return [asyncio.create_task(connection.publish("a", payload)) for payload in payloads]


async def settle() -> None:
    """Let everything run that can run without the network."""
    for _ in range(5):
        await asyncio.sleep(0)


async def nothing_more_from(session: Session) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await session.receive()


# The answer


async def test_a_publish_ends_with_its_own_puback() -> None:
    async with publishing() as (connection, session):
        tasks = start(connection, b"1", b"2", b"3")
        packets = [await session.expect(mqtt5.PublishPacket) for _ in tasks]
        assert [(packet.topic, packet.payload, packet.qos) for packet in packets] == [
            ("a", payload, mqtt5.QoS.AT_LEAST_ONCE) for payload in (b"1", b"2", b"3")
        ]
        assert [packet.packet_id for packet in packets] == [1, 2, 3]
        assert not any(task.done() for task in tasks)
        session.send(mqtt5.PubAckPacket(2))
        await tasks[1]
        assert not tasks[0].done()
        session.send(mqtt5.PubAckPacket(3), mqtt5.PubAckPacket(1), mqtt5.PubAckPacket(1), mqtt5.PubAckPacket(77))
        await asyncio.gather(*tasks)
        assert connection.is_open


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS, "is the ingestor running?"),
        (mqtt5.PubAckReasonCode.NOT_AUTHORIZED, "check the broker's access rules"),
        (mqtt5.PubAckReasonCode.QUOTA_EXCEEDED, "quota"),
        (mqtt5.PubAckReasonCode.UNSPECIFIED_ERROR, "unspecified error (reason code 0x80)"),
    ],
)
async def test_a_message_that_nobody_stores_is_not_a_success(code: PubAckReasonCode, said: str) -> None:
    async with publishing() as (connection, session):
        (task,) = start(connection, b"1")
        await session.expect(mqtt5.PublishPacket)
        session.send(mqtt5.PubAckPacket(1, reason_code=code))
        with pytest.raises(PublishRefused) as raised:
            await task
        assert said in str(raised.value)
        assert raised.value.code == int(code)
        assert connection.is_open


async def test_qos_0_waits_for_nothing() -> None:
    async with publishing() as (connection, session):
        await connection.publish("a", b"1", qos=0)
        packet = await session.expect(mqtt5.PublishPacket)
        assert (packet.qos, packet.packet_id) == (mqtt5.QoS.AT_MOST_ONCE, None)


async def test_publishers_hear_of_the_end_and_later_ones_do_not_begin() -> None:
    async with publishing() as (connection, session):
        tasks = start(connection, b"1", b"2")
        await session.expect(mqtt5.PublishPacket)
        session.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [LinkLost, LinkLost]
        for qos in (0, 1):
            with pytest.raises(LinkLost, match="was cut"):
                await connection.publish("a", b"3", qos=qos)


async def test_asking_again_and_again_after_the_end_piles_up_no_memory() -> None:
    """An exception that is raised twice carries the frames, and so the payloads, of both."""
    async with publishing() as (connection, _):
        connection.abort(LinkLost("over"))
        for _ in range(3):
            with pytest.raises(LinkLost) as raised:
                await connection.publish("a", b"")
        assert sum(1 for entry in raised.traceback if entry.name == "publish") == 1


# The window


async def test_the_brokers_receive_maximum_is_kept() -> None:
    async with publishing(receive_max=2) as (connection, session):
        tasks = start(connection, b"1", b"2", b"3", b"4")
        first, second = [await session.expect(mqtt5.PublishPacket) for _ in range(2)]
        await nothing_more_from(session)
        session.send(puback(second.packet_id))
        third = await session.expect(mqtt5.PublishPacket)
        assert third.payload == b"3"
        await tasks[1]
        await settle()
        assert [task.done() for task in tasks] == [False, True, False, False]
        session.send(puback(first.packet_id), puback(third.packet_id))
        fourth = await session.expect(mqtt5.PublishPacket)
        session.send(puback(fourth.packet_id))
        await asyncio.gather(*tasks)


async def test_who_waits_for_the_window_hears_of_the_end() -> None:
    async with publishing(receive_max=1) as (connection, session):
        tasks = start(connection, *[b"x"] * 50)
        await session.expect(mqtt5.PublishPacket)
        session.reset()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {LinkLost}


async def test_a_publisher_that_gives_up_frees_its_place_only_with_the_puback() -> None:
    """The broker still holds the packet id: to use it again, or to send one more, would break the protocol."""
    async with publishing(receive_max=1) as (connection, session):
        impatient, patient = start(connection, b"1", b"2")
        await session.expect(mqtt5.PublishPacket)
        impatient.cancel()
        await settle()
        assert impatient.cancelled()
        await nothing_more_from(session)
        session.send(mqtt5.PubAckPacket(1))
        assert (await session.expect(mqtt5.PublishPacket)).packet_id == 2
        session.send(mqtt5.PubAckPacket(2))
        await patient


async def test_a_publisher_that_gives_up_waiting_for_the_window_takes_no_place() -> None:
    async with publishing(receive_max=1) as (connection, session):
        tasks = start(connection, b"1", b"2", b"3")
        await session.expect(mqtt5.PublishPacket)
        tasks[1].cancel()
        session.send(mqtt5.PubAckPacket(1))
        assert (await session.expect(mqtt5.PublishPacket)).payload == b"3"
        session.send(mqtt5.PubAckPacket(2))
        await tasks[2]
        (last,) = start(connection, b"4")
        session.send(puback((await session.expect(mqtt5.PublishPacket)).packet_id))
        await last


async def test_a_refusal_after_the_publisher_gave_up_disturbs_nobody() -> None:
    async with publishing() as (connection, session):
        (task,) = start(connection, b"1")
        await session.expect(mqtt5.PublishPacket)
        task.cancel()
        session.send(mqtt5.PubAckPacket(1, reason_code=mqtt5.PubAckReasonCode.QUOTA_EXCEEDED))
        (other,) = start(connection, b"2")
        await session.expect(mqtt5.PublishPacket)
        session.send(mqtt5.PubAckPacket(2))
        await other


async def test_packet_ids_begin_again_and_leave_out_those_in_use() -> None:
    async with publishing() as (connection, session):
        held = start(connection, b"1")
        assert (await session.expect(mqtt5.PublishPacket)).packet_id == 1
        connection._answers._last_packet_id = 65534
        tasks = start(connection, b"2", b"3")
        ids = [(await session.expect(mqtt5.PublishPacket)).packet_id for _ in tasks]
        assert ids == [65535, 2]
        session.send(*(puback(packet_id) for packet_id in [1, *ids]))
        await asyncio.gather(*held, *tasks)


# Size


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_too_large_for_the_broker_is_refused_alone(qos: int) -> None:
    """Sent, it would cost us the connection and everything under way on it."""
    async with publishing(max_packet_size=1000, receive_max=1) as (connection, session):
        for _ in range(2):  # it takes no place in the window
            with pytest.raises(PublishRefused, match=r"a packet of 10\d\d bytes, the broker takes 1000") as raised:
                await connection.publish("a", b"x" * 1000, qos=qos)
            assert raised.value.code == 0x95
        (task,) = start(connection, b"x" * 900)
        session.send(puback((await session.expect(mqtt5.PublishPacket)).packet_id))
        await task


@pytest.mark.parametrize("topic", ["", "a/#", "x" * 70_000, "\ud800"])
async def test_a_topic_that_is_none_takes_no_place_in_the_window(topic: str) -> None:
    async with publishing(receive_max=1) as (connection, session):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"."):
                await connection.publish(topic, b"")
        (task,) = start(connection, b"1")
        session.send(puback((await session.expect(mqtt5.PublishPacket)).packet_id))
        await task


# A broker that reads slowly


async def fill(connection: Connection) -> None:
    """Publish until neither socket nor buffer takes more."""
    while connection._writable.is_set():
        await connection.publish("a", b"x" * 100_000, qos=0)


@pytest.mark.parametrize("qos", [0, 1])
async def test_publishers_wait_while_the_broker_reads_nothing(qos: int) -> None:
    async with publishing() as (connection, session):
        session.stop_reading()
        await fill(connection)
        task = asyncio.create_task(connection.publish("a", b"last", qos=qos))
        await settle()
        assert not task.done()
        session.read_on()
        while (packet := await session.expect(mqtt5.PublishPacket)).payload != b"last":
            pass
        if qos:
            session.send(puback(packet.packet_id))
        await task


@pytest.mark.parametrize("end", ["reset", "abort", "disconnect"])
async def test_who_waits_for_room_hears_of_the_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqtt.network.CLOSE_SECONDS_MAX", 0.1)
    async with publishing() as (connection, session):
        session.stop_reading()
        await fill(connection)
        tasks = [asyncio.create_task(connection.publish("a", b"", qos=qos)) for qos in (0, 1) * 5]
        await settle()
        match end:
            case "reset":
                session.reset()
            case "abort":
                connection.abort(LinkLost("enough"))
            case "disconnect":
                await connection.disconnect()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {LinkLost}


# Acknowledging


async def test_acknowledgements_go_out_in_the_order_given_and_as_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing() as (connection, session):
        writes: list[int] = []
        original = connection._write

        def counted_write(data: bytes) -> None:
            writes.append(len(data))
            original(data)

        monkeypatch.setattr(connection, "_write", counted_write)
        ids = [5, 3, 65535, 1, *range(100, 1000)]
        assert connection.acknowledge(ids) is True
        assert [(await session.expect(mqtt5.PubAckPacket)).packet_id for _ in ids] == ids
        assert writes == [4 * len(ids)]


async def test_nothing_is_acknowledged_after_the_end() -> None:
    async with publishing() as (connection, session):
        session.close()
        await wait_until_async(lambda: not connection.is_open)
        assert connection.acknowledge([1, 2]) is False

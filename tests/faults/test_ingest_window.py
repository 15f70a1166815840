"""A broker with a window of its own, one that keeps to none, and messages with QoS 2 that an old subscription left."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import mqtt5
import pytest

from tests.backends import Broker
from tests.devices import Device, readings_of_fleet
from tests.fake_broker import FakeBroker, Session
from tests.faults.counting import Published, assert_books_balance, assert_stored_once
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

IngestFrom = Callable[..., Awaitable[tuple[WattlineProcess, Session]]]


def packet_of(reading: Published, packet_id: int, **more: Any) -> mqtt5.PublishPacket:
    kind, payload = reading
    device = payload["meterId" if kind == "meter" else "vehicleId"]
    options: dict[str, Any] = {"qos": mqtt5.QoS.AT_LEAST_ONCE} | more
    return mqtt5.PublishPacket(
        f"v1/telemetry/{kind}/{device}", json.dumps(payload).encode(), packet_id=packet_id, **options
    )


async def hand_out(session: Session, readings: list[Published], window: int) -> None:
    """All of the readings, never more than `window` of them ahead of the acknowledgement."""
    waiting, under_way, packet_id = deque(readings), deque[int](), 0
    while waiting or under_way:
        packets = []
        while waiting and len(under_way) < window:
            packet_id = packet_id % 65535 + 1
            packets.append(packet_of(waiting.popleft(), packet_id))
            under_way.append(packet_id)
        session.send(*packets)
        acknowledged = await session.expect(mqtt5.PubAckPacket)
        assert acknowledged.packet_id == under_way.popleft(), "in the order of sending"


@pytest.mark.parametrize("window", [1, 50])
def test_a_window_of_the_brokers_own_is_found_out_and_written_at_once(
    ingest_from: IngestFrom, database_url: str, window: int
) -> None:
    """With a flush interval of 2 s, 40 windows would take 80 s."""
    readings = list(readings_of_fleet(40 * window, devices=10))

    async def scenario() -> None:
        async with FakeBroker() as broker:
            ingestor, session = await ingest_from(broker, FLUSH_INTERVAL_MS="2000")
            started = time.monotonic()
            async with asyncio.timeout(60):
                await hand_out(session, readings, window)
            assert time.monotonic() - started < 40
            assert await asyncio.to_thread(metric, ingestor, "wattline_mqtt_window_messages") == window
            assert await asyncio.to_thread(metric, ingestor, "wattline_flushes_total", trigger="interval") == 3
            lines = [line for line in ingestor.output().splitlines() if "ahead of our acknowledgement" in line]
            assert len(lines) == 1
            assert f"the broker sends {window} messages" in lines[0]
            assert "max_inflight_messages" in lines[0]
            ingestor.kill()

    asyncio.run(scenario())
    assert_stored_once(database_url, readings)


def test_a_broker_that_keeps_to_no_window_is_held_to_ours(ingest_from: IngestFrom, database_url: str) -> None:
    """As Mosquitto before 2.0.15, which sends a whole window more for each PUBACK."""
    readings = list(readings_of_fleet(3000, devices=10))

    async def scenario() -> None:
        async with FakeBroker() as broker:
            ingestor, session = await ingest_from(broker, MAX_INFLIGHT="100")
            for number, reading in enumerate(readings, start=1):
                session.send(packet_of(reading, number))
            for number in range(1, len(readings) + 1):
                assert (await session.expect(mqtt5.PubAckPacket)).packet_id == number
            assert await asyncio.to_thread(metric, ingestor, "wattline_mqtt_window_messages") == 100
            await asyncio.to_thread(assert_books_balance, ingestor)
            ingestor.kill()

    asyncio.run(scenario())
    assert_stored_once(database_url, readings)


def test_qos_2_is_once_in_effect_across_reconnects(ingest_from: IngestFrom, database_url: str) -> None:
    readings = list(readings_of_fleet(4, devices=4))
    exactly_once = {"qos": mqtt5.QoS.EXACTLY_ONCE}

    async def scenario() -> None:
        async with FakeBroker() as broker:
            ingestor, session = await ingest_from(broker, FLUSH_INTERVAL_MS="10")
            session.send(packet_of(readings[0], 1, **exactly_once), packet_of(readings[1], 2, **exactly_once))
            assert (await session.expect(mqtt5.PubRecPacket)).packet_id == 1
            assert (await session.expect(mqtt5.PubRecPacket)).packet_id == 2
            session.send(mqtt5.PubRelPacket(1))
            assert (await session.expect(mqtt5.PubCompPacket)).packet_id == 1
            session.send(packet_of(readings[2], 3, **exactly_once))
            assert (await session.expect(mqtt5.PubRecPacket)).packet_id == 3
            session.reset()
            # The broker has read the PUBREC of 2, not that of 3; 1 is free.
            session = await broker.subscribed(session_present=True)
            session.send(
                mqtt5.PubRelPacket(2),
                packet_of(readings[2], 3, duplicate=True, **exactly_once),
                packet_of(readings[3], 1, **exactly_once),
            )
            assert (await session.expect(mqtt5.PubCompPacket)).packet_id == 2
            assert (await session.expect(mqtt5.PubRecPacket)).packet_id == 3
            assert (await session.expect(mqtt5.PubRecPacket)).packet_id == 1
            session.send(mqtt5.PubRelPacket(3), mqtt5.PubRelPacket(1))
            assert (await session.expect(mqtt5.PubCompPacket)).packet_id == 3
            assert (await session.expect(mqtt5.PubCompPacket)).packet_id == 1
            await asyncio.to_thread(assert_books_balance, ingestor)
            assert await asyncio.to_thread(metric, ingestor, "wattline_readings_duplicate_total") == 1
            assert await asyncio.to_thread(metric, ingestor, "wattline_mqtt_reconnects_total") == 1
            ingestor.kill()

    asyncio.run(scenario())
    assert_stored_once(database_url, readings)


def test_what_an_older_subscription_with_qos_2_left_in_our_session(
    start_ingestor: Callable[..., WattlineProcess], database_url: str, broker: Broker, publisher: Device
) -> None:
    subscribe_with_qos_2(broker.port, "wattline-ingestor")
    readings = list(readings_of_fleet(200, devices=10))
    publish_with(publisher, readings[:100], qos=2)
    publish_with(publisher, readings[100:], qos=1)
    publisher.wait_acknowledged()
    ingestor = start_ingestor()
    wait_until(lambda: metric(ingestor, "wattline_readings_committed_total") == len(readings), what="all are stored")
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="all are acknowledged")
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0
    assert ingestor.stop() == 0
    again = start_ingestor()
    publish_with(publisher, (more := list(readings_of_fleet(300, devices=10))[200:]), qos=2)
    wait_until(lambda: metric(again, "wattline_readings_committed_total") == len(more), what="the new ones are stored")
    assert metric(again, "wattline_readings_received_total") == len(more), "nothing came a second time"
    assert_stored_once(database_url, readings + more)


def publish_with(publisher: Device, readings: list[Published], *, qos: int) -> None:
    for kind, payload in readings:
        (publisher.meter if kind == "meter" else publisher.vehicle)(payload, qos=qos)


def subscribe_with_qos_2(port: int, client_id: str) -> None:
    """As an ingestor of another make would have: its session stays."""

    async def scenario() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(mqtt5.ConnectPacket(client_id, session_expiry_interval=600).write())
        wanted = mqtt5.TopicFilter("v1/telemetry/#", max_qos=mqtt5.QoS.EXACTLY_ONCE)
        writer.write(mqtt5.SubscribePacket(1, [wanted]).write())
        received = b""
        async with asyncio.timeout(30):
            while mqtt5.SubAckPacket not in (kinds := _kinds(received)):
                received += await reader.read(4096)
        assert kinds == [mqtt5.ConnAckPacket, mqtt5.SubAckPacket]
        writer.write(mqtt5.DisconnectPacket().write())
        await writer.drain()
        await reader.read()
        writer.close()

    asyncio.run(scenario())


def _kinds(received: bytes) -> list[type]:
    kinds, view = [], memoryview(received)
    while view:
        try:
            packet, size = mqtt5.read(view)
        except IndexError:
            break
        kinds.append(type(packet))
        view = view[size:]
    return kinds

"""Two ingestors: in one share group, where either may die, and by mistake with one client id, where one must go."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable

import mqtt5
import pytest

from tests.devices import Device, meter_reading, readings_of_fleet
from tests.fake_broker import FakeBroker, Session
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.flushes import held_before_commit
from tests.faults.load import Load, publish_all
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async

StartIngestor = Callable[..., WattlineProcess]


@pytest.fixture
def pair(start_ingestor: StartIngestor) -> tuple[WattlineProcess, WattlineProcess]:
    first, second = (
        start_ingestor(MQTT_SHARE_GROUP="pair", MQTT_CLIENT_ID=name, FLUSH_INTERVAL_MS="10", FLUSH_MAX_ROWS="1000")
        for name in "ab"
    )
    return first, second


def test_one_of_a_share_group_killed_and_back_later(
    pair: tuple[WattlineProcess, WattlineProcess], database_url: str, publisher: Device
) -> None:
    killed, survivor = pair
    with Load(publisher, 1000) as load:
        load.wait_published(1000)
        killed.kill()
        load.wait_published(1000)
        before = metric(survivor, "wattline_readings_committed_total")
        load.wait_published(500)
        assert metric(survivor, "wattline_readings_committed_total") > before
        killed.start()
        killed.wait_ready()
        load.wait_published(500)
        published = load.stop()
    assert_stored_once(database_url, published, timeout=15)
    for ingestor in pair:
        assert assert_books_balance(ingestor) > 0


def test_two_writers_of_the_same_devices(
    pair: tuple[WattlineProcess, WattlineProcess], database_url: str, publisher: Device
) -> None:
    """The broker gives them readings in turn: first they contest each status, then, with repetitions, each reading."""
    readings = list(readings_of_fleet(10_000, devices=1000))
    random.Random(20260131).shuffle(readings)  # else one would get the meters and the other the vehicles

    def wait_received(count: int) -> None:
        received = "wattline_readings_received_total"
        wait_until(lambda: sum(metric(one, received) for one in pair) == count, what=f"{count} are received")

    with held_before_commit(database_url):
        publish_all(publisher, readings)
        wait_received(len(readings))
    publish_all(publisher, [reading for reading in readings[:2000] for _ in range(3)])
    wait_received(len(readings) + 6000)
    assert min(assert_books_balance(one) for one in pair) > len(readings) / 3
    assert_stored_once(database_url, readings)
    for ingestor in pair:
        # A flush that is held for longer than its deadline is another matter: a slow machine publishes for so long.
        assert "deadlock" not in ingestor.output()


def test_two_ingestors_with_one_client_id_lose_nothing_and_say_so(
    start_ingestor: StartIngestor, database_url: str, publisher: Device
) -> None:
    """Mosquitto before 2.0.15 just cuts the older connection, so each takes the session from the other, for ever."""
    first = start_ingestor(MQTT_CLIENT_ID="the-only-one")
    with Load(publisher, 500) as load:
        load.wait_published(500)
        second = start_ingestor(MQTT_CLIENT_ID="the-only-one")
        wait_until(
            lambda: "does another client use the client id 'the-only-one'?" in first.output() or not first.running,
            what="the first one complains, or ends",
        )
        assert (first.stop() == 0) if first.running else (first.wait() == 1)
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert_books_balance(second)
    assert "Traceback" not in first.output() + second.output()


def test_an_ingestor_whose_session_is_taken_over_ends(
    ingest_from: Callable[..., Awaitable[tuple[WattlineProcess, Session]]], database_url: str
) -> None:
    async def scenario() -> None:
        async with FakeBroker() as broker:
            ingestor, session = await ingest_from(broker, MQTT_CLIENT_ID="the-only-one")
            payload = json.dumps(reading).encode()
            session.send(
                mqtt5.PublishPacket("v1/telemetry/meter/M-1", payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1),
                mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER),
            )
            await wait_until_async(lambda: not ingestor.running)
        assert ingestor.wait() == 1
        complaints = [line for line in ingestor.output().splitlines() if " ERROR " in line]
        assert len(complaints) == 1
        assert "'the-only-one'" in complaints[0]
        assert "MQTT_CLIENT_ID" in complaints[0]
        assert "Traceback" not in ingestor.output()

    reading = meter_reading("M-1")
    asyncio.run(scenario())
    assert_stored_once(database_url, [("meter", reading)])

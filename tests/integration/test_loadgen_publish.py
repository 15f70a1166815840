"""The publisher against a real Mosquitto, with paho-mqtt as the independent subscriber that counts."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import mqtt5
import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from config.settings import load_settings
from loadgen import publisher
from loadgen import run as run_module
from loadgen.counts import Counts
from loadgen.evidence import Evidence
from loadgen.fleet import make_fleet, timestamp_text
from loadgen.progress import Progress
from loadgen.run import Run, run_fleet
from loadgen.schedule import Schedule
from mqtt.errors import LinkRefused
from tests.backends import Broker
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async
from wattline.cli import main

Start = Callable[..., WattlineProcess]
Key = tuple[str, str]


class Subscriber:
    """A paho client with a session that survives the broker; counts what it received, by device and timestamp."""

    def __init__(self, port: int) -> None:
        self.received: Counter[Key] = Counter()
        self.subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="counting", protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=properties)

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe("v1/telemetry/#", qos=1)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        payload = json.loads(message.payload)
        device = payload["meterId"] if "/meter/" in message.topic else payload["vehicleId"]
        assert message.topic.endswith(f"/{device}")
        assert message.qos == 1
        assert not message.retain
        self.received[device, payload["timestamp"]] += 1

    @classmethod
    @contextmanager
    def on(cls, port: int) -> Iterator[Subscriber]:
        subscriber = cls(port)
        subscriber._client.loop_start()
        try:
            assert subscriber.subscribed.wait(10)
            yield subscriber
        finally:
            subscriber._client.disconnect()
            subscriber._client.loop_stop()


def new_run(*, devices: int, interval: float, duration: float, connections: int = 4) -> Run:
    points, counts = make_fleet({"meter": devices, "vehicle": devices}, "LOAD", Random(1)), Counts()
    schedule = Schedule(devices, interval, duration)
    return Run(points, schedule, connections, Random(1), counts, Evidence(points), Progress(counts, duration))


def keys(run: Run, *, acknowledged_only: bool) -> set[Key]:
    assert run.evidence is not None
    return {
        (device_id, timestamp_text(ts_us))
        for devices in run.evidence.devices.values()
        for device_id, device in devices.items()
        for ts_us, acknowledged in zip(device.stamps, device.acknowledged, strict=True)
        if acknowledged or not acknowledged_only
    }


def test_every_turn_of_every_device_arrives_once(broker: Broker) -> None:
    run = new_run(devices=20, interval=0.5, duration=1.0)
    with Subscriber.on(broker.port) as subscriber:
        asyncio.run(run_fleet(run, load_settings(mqtt_url=broker.url)))
        wait_until(lambda: len(subscriber.received) == 80, 10, "all readings have arrived")
    assert (run.counts.published, run.counts.acknowledged, run.counts.published_again) == (80, 80, 0)
    assert set(subscriber.received) == keys(run, acknowledged_only=True)
    assert set(subscriber.received.values()) == {1}
    assert set(Counter(device for device, _ in subscriber.received).values()) == {2}


def test_a_broker_that_restarts_in_the_middle_loses_nothing_that_it_acknowledged(broker: Broker) -> None:
    run = new_run(devices=100, interval=0.5, duration=4.0)

    async def restart_in_the_middle() -> None:
        running = asyncio.create_task(run_fleet(run, load_settings(mqtt_url=broker.url)))
        await wait_until_async(lambda: run.counts.acknowledged >= 400, 10, "the first readings")
        broker.stop()
        made = keys(run, acknowledged_only=False)
        await wait_until_async(lambda: keys(run, acknowledged_only=False) > made, 10, "readings that have to wait")
        broker.start()
        await running

    with Subscriber.on(broker.port) as subscriber:
        asyncio.run(restart_in_the_middle())
        acknowledged = keys(run, acknowledged_only=True)
        wait_until(lambda: acknowledged <= set(subscriber.received), what="all acknowledged readings have arrived")
    assert run.counts.unacknowledged == 0
    assert run.counts.acknowledged == len(acknowledged) == 2 * (100 * 8 - run.counts.left_out)
    assert set(subscriber.received) == keys(run, acknowledged_only=False)


def test_what_the_broker_discards_is_not_acknowledged(broker: Broker) -> None:
    run = new_run(devices=5, interval=0.5, duration=0.5)
    asyncio.run(run_fleet(run, load_settings(mqtt_url=broker.url)))
    assert keys(run, acknowledged_only=True) == set()
    ((reason, count),) = run.counts.refused.items()
    assert (run.counts.published, run.counts.acknowledged, run.counts.unacknowledged) == (count, 0, 0)
    assert "nobody is subscribed" in reason


def test_a_broker_that_goes_away_for_good_ends_a_timed_run_with_a_true_count(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "DRAIN_SECONDS_TIMED", 0.3)
    run = new_run(devices=10, interval=0.2, duration=1.0)

    async def lose_the_broker() -> None:
        running = asyncio.create_task(run_fleet(run, load_settings(mqtt_url=broker.url)))
        await wait_until_async(lambda: run.counts.acknowledged >= 20, 10, "the first readings")
        broker.stop()
        await running

    with Subscriber.on(broker.port) as subscriber:
        asyncio.run(lose_the_broker())
        assert run.counts.unacknowledged + run.counts.not_sent > 0
        acknowledged = keys(run, acknowledged_only=True)
        assert len(acknowledged) == run.counts.acknowledged
        broker.start()
        wait_until(lambda: acknowledged <= set(subscriber.received), what="all acknowledged readings have arrived")


def test_a_broker_that_will_not_serve_us_any_more_ends_the_run_with_its_reason(broker: Broker) -> None:
    """In the broker's place comes one that does not speak MQTT 5: no waiting helps."""
    run = new_run(devices=10, interval=0.2, duration=30.0)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        code = mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        writer.write(mqtt5.ConnAckPacket(reason_code=code).write())
        writer.close()

    async def change_the_broker() -> None:
        running = asyncio.create_task(run_fleet(run, load_settings(mqtt_url=broker.url)))
        await wait_until_async(lambda: run.counts.acknowledged >= 20, 10, "the first readings")
        broker.stop()
        async with await asyncio.start_server(refuse, "127.0.0.1", broker.port):
            with pytest.raises(LinkRefused, match="does not speak MQTT 5"):
                await asyncio.wait_for(running, 15)

    with Subscriber.on(broker.port):
        asyncio.run(change_the_broker())
    assert run.counts.seconds > 0
    assert run.counts.acknowledged >= 20


def test_who_is_held_up_for_long_leaves_turns_out_instead_of_piling_up(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "OUTSTANDING_MAX", 4)
    monkeypatch.setattr(publisher, "WAITING_MAX", 4)
    run = new_run(devices=10, interval=0.1, duration=2.0, connections=2)
    while_away = 2 * (4 + 2 * 4)

    async def hold_up() -> None:
        running = asyncio.create_task(run_fleet(run, load_settings(mqtt_url=broker.url)))
        await wait_until_async(lambda: run.counts.acknowledged >= 40, 10, "the first readings")
        broker.stop()
        before = len(keys(run, acknowledged_only=False))
        await asyncio.sleep(0.5)  # the outage itself, five intervals long
        assert len(keys(run, acknowledged_only=False)) - before <= while_away
        broker.start()
        await running

    with Subscriber.on(broker.port):
        asyncio.run(hold_up())
    assert run.counts.left_out >= 20
    assert run.counts.acknowledged == 2 * (200 - run.counts.left_out)


def test_no_broker_at_the_start_of_a_timed_run(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.stop()
    monkeypatch.setattr(run_module, "CONNECT_SECONDS_MAX", 0.5)
    monkeypatch.setenv("MQTT_URL", broker.url)
    assert main(["loadgen", "--duration", "1"]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith(f"wattline: no connection to a broker at {broker.url}")
    assert "MQTT_URL" in last_line


def test_an_endless_run_waits_for_the_broker_and_stops_cleanly(start_wattline: Start, broker: Broker) -> None:
    broker.stop()
    loadgen = start_wattline("loadgen", "--interval", "1", "--prefix", "", MQTT_URL=broker.url)
    wait_until(lambda: "no connection to a broker" in loadgen.output(), 10, "it says that there is no broker")
    broker.start()
    with Subscriber.on(broker.port) as subscriber:
        wait_until(lambda: "METER-001" in {device for device, _ in subscriber.received}, what="readings arrive")
        assert loadgen.stop() == 0
    assert "unacknowledged 0" in loadgen.output()


def test_what_is_acknowledged_and_not_stored_is_lost(start_wattline: Start, broker: Broker, database_url: str) -> None:
    """A subscriber takes the readings and stores nothing."""
    environment = {"MQTT_URL": broker.url, "DATABASE_URL": database_url}
    assert start_wattline("migrate", **environment).wait() == 0
    with Subscriber.on(broker.port):
        options = ("--meters", "3", "--vehicles", "2", "--duration", "1", "--interval", "1", "--verify")
        loadgen = start_wattline("loadgen", *options, "--verify-timeout", "0.5", **environment)
        assert loadgen.wait() == 1
    assert "verified 5 acknowledged readings: lost 5, duplicated 0, wrong 5" in loadgen.output()
    assert "lost: LOAD-METER-001 at" in loadgen.output()


def test_an_ingestor_passes_the_verification_also_when_the_run_is_interrupted(
    start_wattline: Start, broker: Broker, database_url: str
) -> None:
    environment = {"MQTT_URL": broker.url, "DATABASE_URL": database_url}
    start_wattline("ingest", **environment).wait_ready()
    options = ("--meters", "12", "--vehicles", "10", "--interval", "0.2", "--duration", "60", "--verify")
    loadgen = start_wattline("loadgen", *options, **environment)
    with psycopg.connect(database_url, autocommit=True) as connection:
        total = "SELECT (SELECT count(*) FROM meter_readings_history) + (SELECT count(*) FROM vehicle_readings_history)"

        def stored() -> int:
            row = connection.execute(total).fetchone()
            return 0 if row is None else int(row[0])

        wait_until(lambda: stored() > 50, what="some readings are stored")
        loadgen.signal(signal.SIGINT)
        assert loadgen.wait() == 0
        assert f"verified {stored()} acknowledged readings: lost 0, duplicated 0, wrong 0" in loadgen.output()
    assert "published" in loadgen.output()

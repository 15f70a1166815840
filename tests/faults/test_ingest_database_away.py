"""PostgreSQL away: the ingestor keeps what it has, stays connected to the broker, and goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from tests.backends import Broker, Database
from tests.devices import Device, device, meter_reading
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]

OUTAGE_SECONDS = 10.0
KEEPALIVE_SECONDS = 5
FLOOD_ARRAYS = 300  # 32 MB of payloads; as rows in memory, three times that
FLOOD_BYTES_KEPT_MAX = 16_000_000


@pytest.fixture
def database(postgres_factory: Callable[[], Database]) -> Database:
    """A server of the test's own, to stop and kill."""
    return postgres_factory()


def is_ready(ingestor: WattlineProcess) -> bool:
    return get_status(f"{ingestor.metrics_url}/readyz") == 200


def test_postgresql_stopped_for_10_seconds(
    start_ingestor: StartIngestor, database: Database, publisher: Device
) -> None:
    url = database.url_of("energy_db")
    ingestor = start_ingestor(DATABASE_URL=url)
    with Load(publisher, 500) as load:
        load.wait_published(500)
        database.stop()
        stopped = time.monotonic()
        wait_until(lambda: not is_ready(ingestor), what="not ready without a database")
        wait_until(lambda: time.monotonic() - stopped > OUTAGE_SECONDS, OUTAGE_SECONDS + 5)
        assert not is_ready(ingestor)
        assert get_status(f"{ingestor.metrics_url}/healthz") == 200
        assert metric(ingestor, "wattline_inflight_messages") > OUTAGE_SECONDS * 100
        assert metric(ingestor, "wattline_mqtt_connected") == 1
        database.start()
        wait_until(lambda: is_ready(ingestor), 10, "ready again by itself")
        load.wait_published(500)
        published = load.finish(url)
    assert_stored_once(url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0
    assert "Traceback" not in ingestor.output()


def test_postgresql_killed_under_load(start_ingestor: StartIngestor, database: Database, publisher: Device) -> None:
    url = database.url_of("energy_db")
    ingestor = start_ingestor(DATABASE_URL=url, FLUSH_INTERVAL_MS="10")
    with Load(publisher, 1000) as load:
        for _ in range(3):
            load.wait_published(1000)
            database.kill()
            wait_until(lambda: not is_ready(ingestor), what="not ready without a database")
            database.start()
            wait_until(lambda: is_ready(ingestor), 10, "ready again by itself")
        published = load.finish(url)
    assert_stored_once(url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0


def test_neither_database_nor_broker_at_the_start(
    start_wattline: Callable[..., WattlineProcess], database: Database, broker: Broker, publisher: Device
) -> None:
    url = database.url_of("energy_db")
    database.stop()
    broker.stop()
    ingestor = start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url)

    def waits_for(text: str) -> bool:
        return text in ingestor.output() and get_status(f"{ingestor.metrics_url}/readyz") == 503

    wait_until(lambda: waits_for(f"PostgreSQL at 127.0.0.1:{database.port}/energy_db: nothing listens there"))
    database.start()
    wait_until(lambda: waits_for(f"no connection to a broker at {broker.url}"))
    broker.start()
    wait_until(lambda: is_ready(ingestor), 15, "ready by itself")
    with Load(publisher, 500) as load:
        load.wait_published(100)
        published = load.finish(url)
    assert_stored_once(url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert "Traceback" not in ingestor.output()


def test_a_flood_with_qos_0_while_the_database_is_away(
    start_ingestor: StartIngestor, database: Database, broker: Broker, publisher: Device
) -> None:
    """It may cost messages with QoS 0, but neither memory nor the connection, nor a message with QoS 1.

    Reading pauses, and with it the answers to pings: for longer than the keepalive, and nobody may mind.
    """
    url = database.url_of("energy_db")
    limits = {"MAX_INFLIGHT": "2000", "MAX_PENDING_BYTES": "2000000"}
    ingestor = start_ingestor(DATABASE_URL=url, MQTT_KEEPALIVE_SECONDS=str(KEEPALIVE_SECONDS), **limits)
    process = psutil.Process(ingestor.pid)
    flood = [meter_reading("FLOOD", voltage=number) for number in range(1000)]
    with device(broker.port) as flooder:
        database.stop()
        before = process.memory_info().rss
        with Load(publisher, 100) as load:
            for _ in range(FLOOD_ARRAYS):
                flooder.publish("v1/telemetry/meter/FLOOD", flood, qos=0)
            flooder.wait_acknowledged()
            paused = wait_until(lambda: pauses_at(ingestor, load), 10, "reading pauses")
            paused_since = time.monotonic()
            wait_until(lambda: time.monotonic() - paused_since > 1.6 * KEEPALIVE_SECONDS, 20)
            assert metric(ingestor, "wattline_readings_pending") == paused < FLOOD_ARRAYS * 1000 / 10
            assert process.memory_info().rss - before < FLOOD_BYTES_KEPT_MAX
            database.start()
            wait_until(lambda: is_ready(ingestor), 10, "ready again by itself")
            published = load.finish(url)
    assert_stored_once(url, published, perhaps=[("meter", reading) for reading in flood])
    assert_books_balance(ingestor)
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0
    assert process.memory_info().rss - before < FLOOD_BYTES_KEPT_MAX


def pauses_at(ingestor: WattlineProcess, load: Load) -> float | None:
    """Readings pending, if they are more than one message of the flood and do not grow while the load goes on."""
    before = metric(ingestor, "wattline_readings_pending")
    load.wait_published(50)
    return before if metric(ingestor, "wattline_readings_pending") == before > 1000 else None

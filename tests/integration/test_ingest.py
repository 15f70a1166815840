"""From a device to the tables: what is published with MQTT is stored, once, and acknowledged after its COMMIT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.backends import Broker
from tests.devices import device, meter_reading, vehicle_reading
from tests.processes import WattlineProcess
from tests.waiting import wait_until


@pytest.fixture
def ingestor(start_wattline: Callable[..., WattlineProcess], database_url: str, broker: Broker) -> WattlineProcess:
    process = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)
    process.wait_ready()
    return process


@pytest.fixture
def query(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield lambda sql, *parameters: connection.execute(sql, parameters).fetchall()


def test_a_reading_of_each_kind_is_stored_with_its_microseconds(
    ingestor: WattlineProcess, broker: Broker, query: Callable[..., Any]
) -> None:
    at = datetime.now(UTC).replace(microsecond=123456)
    with device(broker.port) as publisher:
        publisher.meter(meter_reading(at=at))
        publisher.vehicle(vehicle_reading(at=at, soc=75.5))
        publisher.wait_acknowledged()
        wait_until(lambda: len(query("SELECT FROM vehicle_status")) == 1, 10, "the vehicle has a status")
    assert query("SELECT meter_id, ts, kwh_consumed_ac, voltage FROM meter_readings_history") == [
        {"meter_id": "METER-001", "ts": at, "kwh_consumed_ac": 0.1834, "voltage": 238.4}
    ]
    assert query("SELECT vehicle_id, soc, kwh_delivered_dc, battery_temp, last_reading FROM vehicle_status") == [
        {"vehicle_id": "VEH-001", "soc": 75.5, "kwh_delivered_dc": 0.1544, "battery_temp": 31.5, "last_reading": at}
    ]

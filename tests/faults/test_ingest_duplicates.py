"""The same reading more than once: stored once, and the first one stored wins; with other values it is a conflict."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from tests.devices import Device, readings_of_fleet
from tests.faults.counting import Published, assert_books_balance, assert_stored_once
from tests.faults.load import publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess

READINGS = 10_000


def altered(reading: Published) -> Published:
    """A reading of that device and time with other values."""
    kind, payload = reading
    changes: dict[str, Any] = {"kwhConsumedAc": 999.0} if kind == "meter" else {"kwhDeliveredDc": 999.0}
    return kind, payload | changes


def publish_arrays(device: Device, readings: list[Published]) -> None:
    """One array for each device, newest reading first, as a device might send that catches up."""

    def topic(reading: Published) -> str:
        kind, payload = reading
        return f"v1/telemetry/{kind}/{payload['meterId' if kind == 'meter' else 'vehicleId']}"

    for of_device, items in groupby(sorted(readings, key=topic), key=topic):
        device.publish(of_device, [payload for _, payload in items][::-1])


def test_10000_readings_published_again_and_again(
    start_ingestor: Callable[..., WattlineProcess], database_url: str, publisher: Device
) -> None:
    ingestor = start_ingestor()
    readings = list(readings_of_fleet(READINGS))
    first, late, second = readings[::2], readings[1::2][:100], readings[1::2][100:]
    publish_all(publisher, first)
    publisher.wait_acknowledged()
    # Whole batches of repetitions, batches half of them, and arrays that bring what is late between what is known.
    publish_all(publisher, [altered(reading) for reading in first])
    publisher.wait_acknowledged()
    publish_all(publisher, [pick for reading in first for pick in (reading, altered(reading))])
    publisher.wait_acknowledged()
    publish_all(publisher, [reading for pair in zip(second, map(altered, second), strict=True) for reading in pair])
    publisher.wait_acknowledged()
    publish_arrays(publisher, [altered(reading) for reading in first] + late)
    publisher.wait_acknowledged()
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    conflicts = 3 * len(first) + len(second)
    received = READINGS + len(first) + conflicts + 1
    assert assert_books_balance(ingestor) == received
    assert metric(ingestor, "wattline_readings_committed_total") == READINGS + 1
    assert metric(ingestor, "wattline_readings_duplicate_total") == len(first)
    assert metric(ingestor, "wattline_readings_rejected_total", reason="conflict") == conflicts
    assert metric(ingestor, "wattline_flush_failures_total") == 0

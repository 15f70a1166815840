"""A firmware's correction on the real program: annul, send again, while the ingestor goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.backends import Broker
from tests.devices import device, iso, meter_reading
from tests.faults.counting import assert_books_balance
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

T0 = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
WRONG, RIGHT = 183.4, 0.1834
COUNT = 20


@pytest.fixture
def query(database_url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield lambda sql: connection.execute(sql.encode()).fetchall()


def test_annul_and_send_again(
    start_wattline: Callable[..., WattlineProcess], database_url: str, broker: Broker, query: Callable[[str], list[Any]]
) -> None:
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)
    ingestor.wait_ready()
    settled = 0

    def publish(kwh: float) -> None:
        """Readings of those minutes; then wait until the ingestor has dealt with all of them."""
        nonlocal settled
        settled += COUNT
        with device(broker.port) as publisher:
            for minute in range(COUNT):
                publisher.meter(meter_reading(at=T0 + timedelta(minutes=minute), kwhConsumedAc=kwh))
            publisher.wait_acknowledged()
        wait_until(lambda: dealt_with() == settled, what="all that was published")

    def dealt_with() -> float:
        names = ("committed", "duplicate", "rejected")
        return sum(metric(ingestor, f"wattline_readings_{name}_total") for name in names)

    def stored() -> list[tuple[float, int]]:
        return query("SELECT kwh_consumed_ac, count(*)::int FROM meter_readings_history GROUP BY 1")

    publish(WRONG)
    publish(RIGHT)
    assert stored() == [(WRONG, COUNT)]
    assert metric(ingestor, "wattline_readings_rejected_total", reason="conflict") == COUNT
    stretch = ("--from", iso(T0), "--to", iso(T0 + timedelta(hours=1)), "--reason", "Wh for kWh")
    annulling = start_wattline("readings", "annul", "--device", "METER-001", *stretch, DATABASE_URL=database_url)
    assert annulling.wait() == 0, annulling.output()
    assert (stored(), query("SELECT FROM meter_status")) == ([], [])
    publish(WRONG)
    assert stored() == []
    publish(RIGHT)
    assert stored() == [(RIGHT, COUNT)]
    assert query("SELECT kwh_consumed_ac FROM meter_status") == [(RIGHT,)]
    publish(WRONG)
    assert stored() == [(RIGHT, COUNT)]
    assert metric(ingestor, "wattline_readings_duplicate_total", kind="meter") == 2 * COUNT
    assert_books_balance(ingestor)

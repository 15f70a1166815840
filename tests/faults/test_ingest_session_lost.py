"""A broker that has lost the ingestor's session: counted and told, and never cried for nothing."""

from __future__ import annotations

from collections.abc import Callable

from embedded.ports import free_ports
from tests.backends import Broker
from tests.devices import Device, readings_of_fleet
from tests.faults.counting import assert_stored_once
from tests.faults.load import publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

LOST = "wattline_mqtt_sessions_lost_total"


def test_a_lost_session_is_told_and_a_first_start_is_none(
    start_wattline: Callable[..., WattlineProcess],
    start_ingestor: Callable[..., WattlineProcess],
    broker_factory: Callable[[], Broker],
    database_url: str,
    publisher: Device,
) -> None:
    # A start that never saw a broker leaves nothing behind that could be missed.
    early = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=f"mqtt://127.0.0.1:{free_ports(1)[0]}")
    wait_until(lambda: "is it running? Check MQTT_URL" in early.output(), what="the early one complains")
    early.kill()
    first = start_ingestor()
    readings = list(readings_of_fleet(10))
    publish_all(publisher, readings)
    last = publish_last(publisher, database_url)
    assert metric(first, LOST) == 0
    assert first.stop() == 0
    again = start_ingestor()
    assert metric(again, LOST) == 0
    assert again.stop() == 0
    elsewhere = start_ingestor(MQTT_URL=broker_factory().url)
    assert metric(elsewhere, LOST) == 1
    (line,) = [line for line in elsewhere.output().splitlines() if "has lost our session" in line]
    assert " WARNING " in line
    assert "'wattline-ingestor'" in line
    assert_stored_once(database_url, [*readings, last])

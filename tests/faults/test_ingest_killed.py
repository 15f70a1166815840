"""`kill -9` of the ingestor: what it had received comes again, what it had stored is not stored again."""

from __future__ import annotations

from collections.abc import Callable

from tests.backends import Broker
from tests.devices import Device, readings_of_fleet
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import held_before_commit
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]

IN_FLIGHT = 20_000
KILLS = 4


def test_killed_with_20000_messages_in_flight_and_again_while_they_are_written(
    start_ingestor: StartIngestor, database_url: str, publisher: Device
) -> None:
    hoarder = start_ingestor(FLUSH_INTERVAL_MS="60000", FLUSH_MAX_ROWS="60000")
    in_flight = list(readings_of_fleet(IN_FLIGHT, prefix="IN-FLIGHT-"))
    publish_all(publisher, in_flight)
    wait_until(lambda: metric(hoarder, "wattline_inflight_messages") == IN_FLIGHT, what="20,000 messages are in flight")
    hoarder.kill()
    assert rows_in_history(database_url) == 0

    with Load(publisher, 500) as load:
        # Small batches, so that a kill finds some committed, some being written and most not begun.
        ingestor = start_ingestor(FLUSH_INTERVAL_MS="20", FLUSH_MAX_ROWS="500")
        for _ in range(KILLS):
            before = rows_in_history(database_url)
            wait_until(lambda before=before: rows_in_history(database_url) > before, what="more readings are stored")
            ingestor.kill()
            ingestor.start()
        ingestor.wait_ready()
        published = load.finish(database_url)
    assert_stored_once(database_url, in_flight + published)
    assert_books_balance(ingestor)


def test_killed_before_a_commit(start_ingestor: StartIngestor, database_url: str, publisher: Device) -> None:
    ingestor = start_ingestor()
    readings = list(readings_of_fleet(500))
    with held_before_commit(database_url) as wait_for_flush:
        publish_all(publisher, readings)
        wait_for_flush()
        ingestor.kill()
    assert rows_in_history(database_url) == 0
    ingestor.start()
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    assert metric(ingestor, "wattline_readings_duplicate_total") == 0
    assert assert_books_balance(ingestor) == len(readings) + 1


def test_killed_between_commit_and_acknowledgement(
    start_ingestor: StartIngestor,
    database_url: str,
    broker: Broker,
    publisher: Device,
    proxy_factory: Callable[[int], TcpProxy],
) -> None:
    proxy = proxy_factory(broker.port)
    ingestor = start_ingestor(MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}")
    proxy.blackhole(to_client=False)
    readings = list(readings_of_fleet(500))
    publish_all(publisher, readings)
    wait_until(lambda: rows_in_history(database_url) == len(readings), 10, "everything is committed")
    ingestor.kill()
    proxy.cut()
    proxy.restore()

    ingestor.start()
    ingestor.wait_ready()
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    assert metric(ingestor, "wattline_readings_duplicate_total") == len(readings)
    assert assert_books_balance(ingestor) == len(readings) + 1

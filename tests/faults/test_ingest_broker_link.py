"""The broker, or the way to it, fails under load: what is unacknowledged comes again and is stored once."""

from __future__ import annotations

from collections.abc import Callable

from tests.backends import Broker
from tests.devices import Device, readings_of_fleet
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import held_before_commit
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.proxy import TcpProxy
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]
ProxyFactory = Callable[[int], TcpProxy]

CUTS = 4


def wait_reconnected(ingestor: WattlineProcess, times: int) -> None:
    wait_until(lambda: metric(ingestor, "wattline_mqtt_reconnects_total") == times, what=f"reconnect {times}")


def test_the_broker_restarted_under_load(
    start_ingestor: StartIngestor, database_url: str, broker: Broker, publisher: Device
) -> None:
    ingestor = start_ingestor(FLUSH_INTERVAL_MS="50")
    with Load(publisher, 1000) as load:
        for restart in (1, 2):
            load.wait_published(500)
            broker.stop()
            wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 503, what="not ready without a broker")
            broker.start()
            wait_reconnected(ingestor, restart)
        assert get_status(f"{ingestor.metrics_url}/readyz") == 200
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) >= len(published)


def test_the_connection_cut_during_flushes(
    start_ingestor: StartIngestor, database_url: str, broker: Broker, publisher: Device, proxy_factory: ProxyFactory
) -> None:
    proxy = proxy_factory(broker.port)
    ingestor = start_ingestor(MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}", FLUSH_INTERVAL_MS="50")
    with Load(publisher, 1000) as load:
        for cut in range(1, CUTS + 1):
            load.wait_published(100)
            with held_before_commit(database_url) as wait_for_flush:
                wait_for_flush()
                proxy.cut()
                wait_until(lambda: metric(ingestor, "wattline_mqtt_connected") == 0, what="it has noticed")
            wait_reconnected(ingestor, cut)
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    # The batch of each cut was committed and could not be acknowledged.
    assert metric(ingestor, "wattline_readings_duplicate_total") >= CUTS
    assert assert_books_balance(ingestor) > len(published)


def test_a_connection_that_loses_its_acknowledgements(
    start_ingestor: StartIngestor, database_url: str, broker: Broker, publisher: Device, proxy_factory: ProxyFactory
) -> None:
    proxy = proxy_factory(broker.port)
    ingestor = start_ingestor(MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}")
    readings = list(readings_of_fleet(1000))
    proxy.blackhole(to_client=False)
    publish_all(publisher, readings)
    wait_until(lambda: rows_in_history(database_url) == len(readings), 10, "everything is committed")
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="everything is acknowledged, in vain")
    proxy.cut()
    proxy.restore()
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    assert metric(ingestor, "wattline_readings_duplicate_total") == len(readings)
    assert assert_books_balance(ingestor) == 2 * len(readings) + 1


def test_a_half_dead_connection_is_given_up(
    start_ingestor: StartIngestor, database_url: str, broker: Broker, publisher: Device, proxy_factory: ProxyFactory
) -> None:
    proxy = proxy_factory(broker.port)
    ingestor = start_ingestor(MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}", MQTT_KEEPALIVE_SECONDS="5")
    with Load(publisher, 500) as load:
        load.wait_published(500)
        proxy.blackhole()
        wait_until(lambda: metric(ingestor, "wattline_mqtt_connected") == 0, what="it gives up")
        assert "has been silent for 5.0 s" in ingestor.output()
        proxy.restore()
        wait_reconnected(ingestor, 1)
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert_books_balance(ingestor)

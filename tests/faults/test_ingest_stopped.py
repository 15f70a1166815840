"""SIGTERM at any time: exit status 0 within 10 s; what is in hand is written and acknowledged, or comes again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest

from postgres.locks import AdvisoryLock
from tests.backends import Broker, Database
from tests.devices import Device, readings_of_fleet
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import wait_until_blocked
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]
ProxyFactory = Callable[[int], TcpProxy]

STOP_SECONDS_MAX = 10.0
QUICKLY = 3.0
BACKLOG = 40_000
STOPS = 5


def through(proxy: TcpProxy, url: str) -> str:
    """The address of a database by way of a proxy."""
    return urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()


@pytest.fixture
def ways(proxy_factory: ProxyFactory, postgres_server: Database, broker: Broker) -> tuple[TcpProxy, TcpProxy]:
    """The ways to the database and to the broker."""
    return proxy_factory(postgres_server.port), proxy_factory(broker.port)


def test_in_the_middle_of_a_backlog_nothing_is_delivered_twice(
    start_ingestor: StartIngestor, database_url: str, publisher: Device
) -> None:
    """A small window, so that more is under way to the ingestor at the very moment it goes."""
    ingestor = start_ingestor(MAX_INFLIGHT="1000", FLUSH_MAX_ROWS="500")
    assert ingestor.stop(STOP_SECONDS_MAX) == 0
    backlog = list(readings_of_fleet(BACKLOG, prefix="BACKLOG-"))
    publish_all(publisher, backlog)
    with Load(publisher, 500) as load:
        for _ in range(STOPS):
            before = rows_in_history(database_url)
            ingestor.start()
            wait_until(lambda before=before: rows_in_history(database_url) > before, what="more readings are stored")
            assert metric(ingestor, "wattline_readings_duplicate_total") == 0
            assert ingestor.stop(STOP_SECONDS_MAX) == 0
        assert rows_in_history(database_url) < BACKLOG
        ingestor.start()
        ingestor.wait_ready()
        published = load.finish(database_url)
    assert_stored_once(database_url, backlog + published)
    assert metric(ingestor, "wattline_readings_duplicate_total") == 0
    assert "unacknowledged" not in ingestor.output()


def test_a_batch_that_is_not_due_is_written(
    start_ingestor: StartIngestor, database_url: str, publisher: Device
) -> None:
    ingestor = start_ingestor(FLUSH_INTERVAL_MS="60000")
    readings = list(readings_of_fleet(1000))
    publish_all(publisher, readings)
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == len(readings), 10, "all of them are in hand")
    assert rows_in_history(database_url) == 0
    assert ingestor.stop(STOP_SECONDS_MAX) == 0
    assert_stored_once(database_url, readings)


def test_with_the_database_away_and_with_everything_silent(
    start_ingestor: StartIngestor,
    database_url: str,
    postgres_factory: Callable[[], Database],
    publisher: Device,
    ways: tuple[TcpProxy, TcpProxy],
) -> None:
    """Two ingestors on two databases, stopped at once. One finds nobody there; of the other, a flush, a chore
    and the goodbye to the broker wait for answers that never come.
    """
    (to_database, to_broker), database = ways, postgres_factory()
    urls = (database.url_of("energy_db"), database_url)
    away = start_ingestor(DATABASE_URL=urls[0], MQTT_CLIENT_ID="away")
    broker_url = f"mqtt://127.0.0.1:{to_broker.port}"
    silent = start_ingestor(DATABASE_URL=through(to_database, urls[1]), MQTT_URL=broker_url, MQTT_CLIENT_ID="silent")
    assert silent.stop() == 0
    readings = list(readings_of_fleet(1000))
    with psycopg.connect(urls[1]) as connection:
        connection.execute("LOCK TABLE rejected_messages")
        silent.start()
        silent.wait_ready()
        wait_until_blocked(urls[1], "wattline quarantine")
        database.stop()
        to_database.blackhole()
        publish_all(publisher, readings)
        for ingestor in (away, silent):
            wait_until(lambda one=ingestor: metric(one, "wattline_inflight_messages") == len(readings), 10)
        to_broker.blackhole()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for ingestor in (away, silent):
            ingestor.signal(signal.SIGTERM)
        for ingestor in (away, silent):
            assert ingestor.wait(deadline - time.monotonic()) == 0
            assert "stopping without the database" in ingestor.output()
            assert "1000 readings in 1000 messages stay unacknowledged" in ingestor.output()

    database.start()
    for way in ways:
        way.cut()
        way.restore()
    for ingestor in (away, silent):
        ingestor.start()
        ingestor.wait_ready()
    last = publish_last(publisher, urls[0])
    for ingestor, url in zip((away, silent), urls, strict=True):
        assert_stored_once(url, [*readings, last], timeout=10)
        assert_books_balance(ingestor)
        assert metric(ingestor, "wattline_readings_duplicate_total") == 0


def test_while_waiting_for_a_database(
    start_wattline: Callable[..., WattlineProcess],
    postgres_factory: Callable[[], Database],
    broker: Broker,
    proxy_factory: ProxyFactory,
) -> None:
    database = postgres_factory()
    url = database.url_of("energy_db")
    proxy = proxy_factory(database.port)
    ingestor = start_wattline("ingest", DATABASE_URL=through(proxy, url), MQTT_URL=broker.url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [int(AdvisoryLock.MIGRATIONS)])
        wait_until_blocked(url, "wattline ingest start")
        assert ingestor.stop(QUICKLY) == 0

        ingestor.start()
        wait_until_blocked(url, "wattline ingest start")
        proxy.blackhole()
        assert ingestor.stop(QUICKLY) == 0
    proxy.cut()

    accepted = proxy.connections_accepted
    ingestor.start()
    wait_until(lambda: proxy.connections_accepted > accepted, 10, "it waits for an answer")
    assert ingestor.stop(QUICKLY) == 0

    proxy.stop()
    ingestor.start()
    wait_until(lambda: "nothing listens there" in ingestor.output(), 10, "it waits for a server")
    assert ingestor.stop(QUICKLY) == 0
    assert "Traceback" not in ingestor.output()

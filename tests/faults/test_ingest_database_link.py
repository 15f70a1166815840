"""The way to PostgreSQL fails, also where it matters most: around COMMIT, when nobody can know what became of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.backends import Database
from tests.devices import Device, readings_of_fleet
from tests.faults.conftest import Sql
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import held_in_commit, make_gate
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.proxy import TcpProxy
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]

CUTS = 25


@pytest.fixture
def proxy(proxy_factory: Callable[[int], TcpProxy], postgres_server: Database) -> TcpProxy:
    return proxy_factory(postgres_server.port)


@pytest.fixture
def ingestor(start_ingestor: StartIngestor, database_url: str, proxy: TcpProxy) -> WattlineProcess:
    """An ingestor that reaches PostgreSQL through the proxy, and loses patience with it soon."""
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()
    return start_ingestor(DATABASE_URL=f"{url}&connect_timeout=2&tcp_user_timeout=2000", FLUSH_INTERVAL_MS="50")


def test_cut_at_random_moments(
    ingestor: WattlineProcess, database_url: str, publisher: Device, proxy: TcpProxy
) -> None:
    moments = random.Random(20260131)
    with Load(publisher, 1000) as load:
        for _ in range(CUTS):
            load.wait_published(moments.randrange(20, 200))
            proxy.cut()
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) == len(published)
    # A cut that meets no session, or one that is just being made, fails nothing.
    assert metric(ingestor, "wattline_flush_failures_total", error="transient") > CUTS / 10
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0


def test_cut_in_a_commit_that_succeeds(
    ingestor: WattlineProcess, database_url: str, publisher: Device, proxy: TcpProxy, sql: Sql
) -> None:
    make_gate(database_url)
    readings = list(readings_of_fleet(100))
    with held_in_commit(database_url) as wait_for_flush:
        publisher.publish("v1/telemetry/meter/M-1", "nonsense")
        publish_all(publisher, readings)
        wait_for_flush()
        proxy.cut()
        # The next attempt waits in the database for the outcome of the first.
        wait_until(lambda: metric(ingestor, "wattline_flush_failures_total") == 1, what="it has noticed")
        assert rows_in_history(database_url) == 0
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    assert sql("SELECT count(*) FROM rejected_messages") == [(1,)]
    assert metric(ingestor, "wattline_readings_duplicate_total") >= 1
    assert assert_books_balance(ingestor) == len(readings) + 2


def test_cut_in_a_commit_that_fails(
    ingestor: WattlineProcess, database_url: str, publisher: Device, proxy: TcpProxy, sql: Sql
) -> None:
    make_gate(database_url)
    readings = list(readings_of_fleet(100))
    with held_in_commit(database_url) as wait_for_flush:
        publish_all(publisher, readings)
        backend = wait_for_flush()
        proxy.cut()
        assert sql("SELECT pg_terminate_backend(%s, 5000)", backend) == [(True,)]
        assert rows_in_history(database_url) == 0
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*readings, last])
    assert metric(ingestor, "wattline_readings_duplicate_total") == 0
    assert assert_books_balance(ingestor) == len(readings) + 1


def test_a_database_that_falls_silent(
    ingestor: WattlineProcess, database_url: str, publisher: Device, proxy: TcpProxy
) -> None:
    """First the silence ends, then the connection does: neither costs anything."""
    with Load(publisher, 500) as load:
        load.wait_published(200)
        proxy.blackhole()
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 503, 15, "not ready while nothing commits")
        proxy.restore()
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, 10, "ready again by itself")

        proxy.blackhole()
        load.wait_published(200)
        proxy.cut()
        wait_until(lambda: "does not answer in time" in ingestor.output(), 10, "it says so")
        proxy.restore()
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0

"""A worker of a Citus cluster dies, again and again: what was acknowledged is stored, and once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest

from tests.backends import Broker
from tests.citus import CITUS_URL, CitusCluster, needs_citus, worker_url
from tests.databases import a_database, migrated_template
from tests.devices import Device
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.load import Load
from tests.processes import WattlineProcess
from tests.waiting import wait_until

KILLS = 4


@pytest.fixture
def cluster() -> CitusCluster:
    assert CITUS_URL
    return CitusCluster(CITUS_URL)


@pytest.fixture
def spread_url(cluster: CitusCluster) -> Iterator[str]:
    with a_database(cluster, migrated_template(cluster)) as url:
        yield url


def crash(cluster: CitusCluster, number: int) -> None:
    """`kill -9` of a backend there: the server ends all others, and recovers as after a power cut."""
    with psycopg.connect(worker_url(cluster, number, "postgres"), autocommit=True) as worker:
        pid = worker.info.backend_pid
        with suppress(psycopg.OperationalError):
            worker.execute(f"COPY (SELECT 1) TO PROGRAM 'kill -9 {pid}'".encode())


@needs_citus
@pytest.mark.timeout(300)
def test_nothing_is_lost_and_nothing_stored_twice(
    cluster: CitusCluster,
    spread_url: str,
    start_wattline: Callable[..., WattlineProcess],
    broker: Broker,
    publisher: Device,
) -> None:
    ingestor = start_wattline(
        "ingest", DATABASE_URL=spread_url, MQTT_URL=broker.url, FLUSH_INTERVAL_MS="50", FLUSH_MAX_ROWS="500"
    )
    ingestor.wait_ready()
    with Load(publisher, 300) as load:
        before = 0
        for kill in range(KILLS):
            wait_until(lambda before=before: stored_now(spread_url) > before, 120, "more readings are stored")
            before = stored_now(spread_url)
            crash(cluster, kill % len(cluster.workers))
        wait_until(lambda: recovered(spread_url), 120, "what was in doubt is decided")
        published = load.finish(spread_url, timeout=120)
    wait_until(lambda: recovered(spread_url), 60, "what was in doubt is decided")
    assert_stored_once(spread_url, published, timeout=60)
    assert_books_balance(ingestor)


def stored_now(url: str) -> int:
    """0 while a worker is away."""
    try:
        return rows_in_history(url)
    except psycopg.Error:
        return 0


def recovered(url: str) -> bool:
    """Whether nothing is left of commits that a worker did not hear of; Citus looks by itself once a minute."""
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT recover_prepared_transactions()")
            return connection.execute("SELECT count(*) FROM pg_dist_transaction").fetchone() == (0,)
    except psycopg.Error:
        return False

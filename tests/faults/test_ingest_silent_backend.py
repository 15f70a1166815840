"""A backend that answers nobody although its connection lives: stopped by SIGSTOP, as a hung disk would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.devices import Device, meter_reading, readings_of_fleet
from tests.faults.conftest import Sql
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import held_in_commit, make_gate
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]

pytestmark = pytest.mark.skipif(
    os.environ.get("TEST_BACKEND") == "containers", reason="a backend in a container has no pid here"
)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def has_failed(ingestor: WattlineProcess, times: int) -> bool:
    return metric(ingestor, "wattline_flush_failures_total") > times


@pytest.fixture
def ingestor(start_ingestor: StartIngestor) -> WattlineProcess:
    return start_ingestor(FLUSH_TIMEOUT_SECONDS="2", FLUSH_INTERVAL_MS="50")


def test_stopped_between_and_in_the_middle_of_flushes(
    ingestor: WattlineProcess, database_url: str, publisher: Device, sql: Sql
) -> None:
    """Whatever it was at, commits go on without it: it held no lock that anybody needs, or lets go of it in time."""
    backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'wattline ingest' ORDER BY backend_start DESC"
    with Load(publisher, 500) as load:
        load.wait_published(200)
        for times in range(3):
            with stopped(sql(backend)[0][0]):
                wait_until(partial(has_failed, ingestor, times), 30, "it gives up")
            wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, 30, "ready again by itself")
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert "no answer to a batch for 2 s" in ingestor.output()
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0


def test_stopped_while_idle(ingestor: WattlineProcess, database_url: str, publisher: Device, sql: Sql) -> None:
    """It holds no lock: everything goes on while it is still stopped."""
    first = publish_last(publisher, database_url)
    ((pid,),) = sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'wattline ingest'")
    with stopped(pid):
        readings = list(readings_of_fleet(200))
        publish_all(publisher, readings)
        wait_until(lambda: rows_in_history(database_url) == 201, 30, "all are stored")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, 10, "ready")
    assert_stored_once(database_url, [first, *readings])


def test_stopped_in_commit(ingestor: WattlineProcess, database_url: str, publisher: Device, sql: Sql) -> None:
    """It holds the locks of its rows: those wait and are told, and all others go on."""
    make_gate(database_url)
    readings = [("meter", meter_reading(f"STUCK-{number}")) for number in range(10)]
    with held_in_commit(database_url) as wait_for_flush:
        publish_all(publisher, readings)
        pid = wait_for_flush()
        with stopped(pid):
            wait_until(lambda: f"perhaps pid {pid} (wattline ingest)" in ingestor.output(), 60, "it says who")
            assert get_status(f"{ingestor.metrics_url}/readyz") == 503
        sql("SELECT pg_terminate_backend(%s, 5000)", pid)
    last = publish_last(publisher, database_url, 60)
    assert_stored_once(database_url, [*readings, last])
    assert assert_books_balance(ingestor) == len(readings) + 1

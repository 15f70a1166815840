"""A backend that answers nobody although its connection lives: stopped by SIGSTOP, as a hung disk would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.devices import Device, meter_reading, readings_of_fleet
from tests.faults.conftest import Sql
from tests.faults.counting import assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import GATE, held_in_commit
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
                wait_until(partial(has_failed, ingestor, times), what="it gives up")
            wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, what="ready again by itself")
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
        wait_until(lambda: rows_in_history(database_url) == 201, what="all are stored")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, 10, "ready")
    assert_stored_once(database_url, [first, *readings])


def test_stopped_in_commit(ingestor: WattlineProcess, database_url: str, publisher: Device, sql: Sql) -> None:
    """It holds the locks of its rows: those devices wait, the log says for whom, and all others go on."""
    sql(f"""
        CREATE FUNCTION pass_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON meter_readings_history DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.meter_id LIKE 'STUCK%') EXECUTE FUNCTION pass_the_gate();
    """)
    start = datetime.now(UTC) - timedelta(minutes=1)
    stuck = [("meter", meter_reading(f"STUCK-{number}", start)) for number in range(10)]
    others = list(readings_of_fleet(200))
    publish_all(publisher, stuck)
    wait_until(lambda: rows_in_history(database_url) == 10, what="the devices are known")
    stuck += (more := [("meter", meter_reading(f"STUCK-{number}")) for number in range(10)])
    with held_in_commit(database_url) as wait_for_flush:
        publish_all(publisher, more)
        pid = wait_for_flush()
        os.kill(pid, signal.SIGSTOP)
    try:
        more = [("meter", meter_reading(f"STUCK-{number}")) for number in range(5)]
        publish_all(publisher, [*others[:100], *more, *others[100:]])
        stuck += more
        wait_until(lambda: rows_in_history(database_url) == 10 + 200, 60, "all others are stored")
        assert get_status(f"{ingestor.metrics_url}/readyz") == 503
        assert f"perhaps pid {pid} (wattline ingest)" in ingestor.output()
        assert metric(ingestor, "wattline_readings_pending") == 15
    finally:
        os.kill(pid, signal.SIGCONT)
    last = publish_last(publisher, database_url, 60)
    assert_stored_once(database_url, [*stuck, *others, last], timeout=30)
    wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, what="ready again")
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="everything is acknowledged")
    assert assert_books_balance(ingestor) == len(stuck) + 200 + 1
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0

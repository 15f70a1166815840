"""`wattline ingest --workers 2`: killed, told to read its settings, stopped, and started again with one worker less."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import psutil

from tests.backends import Broker
from tests.devices import Device
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load
from tests.metrics import books, metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

PER_SECOND = 500
COMMITTED = "wattline_readings_committed_total"
REMEMBERED = "SELECT client_id, filter FROM mqtt_subscriptions ORDER BY 1"


def worker_processes(group: WattlineProcess) -> dict[int, psutil.Process]:
    """By number."""
    found = [child for child in psutil.Process(group.pid).children() if "--worker" in child.cmdline()]
    return {int(child.cmdline()[child.cmdline().index("--worker") + 1]): child for child in found}


def test_two_workers_and_then_one(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    publisher: Device,
    sql: Callable[..., list[Any]],
) -> None:
    group = start_wattline("ingest", "--workers", "2", DATABASE_URL=database_url, MQTT_URL=broker.url)
    group.wait_ready()
    with Load(publisher, PER_SECOND) as load:
        for worker in "12":
            wait_until(lambda worker=worker: metric(group, COMMITTED, worker=worker) > 0, what=f"worker {worker}")
        killed = worker_processes(group)[2]
        killed.kill()
        wait_until(lambda: get_status(f"{group.metrics_url}/readyz") == 503, what="/readyz is red")
        assert get_status(f"{group.metrics_url}/healthz") == 200
        group.wait_ready()
        assert worker_processes(group)[2].pid != killed.pid
        wait_until(lambda: metric(group, "wattline_worker_restarts_total", worker="2") == 1, what="its restart")
        assert "worker 2 was ended by SIGKILL; restarting it" in group.output()
        group.signal(signal.SIGHUP)
        for origin in ("", " (worker 1)", " (worker 2)"):
            line = f"read at the next connect to the broker{origin}\n"
            wait_until(lambda line=line: line in group.output(), what=f"SIGHUP has reached{origin or ' the group'}")
        load.wait_published(PER_SECOND)
        received, settled = books(group)  # each worker's are read between two entries, so the sum adds up at any time
        assert received == settled > 0
        assert group.stop() == 0
        assert sql(REMEMBERED) == [
            (name, "$share/wattline-ingestor/v1/telemetry/#")
            for name in ("wattline-ingestor", "wattline-ingestor-worker-2")
        ]
        load.wait_published(PER_SECOND)

        one = start_wattline("ingest", "--workers", "1", DATABASE_URL=database_url, MQTT_URL=broker.url)
        one.wait_ready()
        wait_until(
            lambda: (
                sql("SELECT client_id, filter FROM mqtt_subscriptions") == [("wattline-ingestor", "v1/telemetry/#")]
            ),
            60,
            "worker 2 has left",
        )
        published = load.stop()
    assert_stored_once(database_url, published, timeout=30)
    assert assert_books_balance(one) > 0
    assert metric(one, "wattline_worker_up") == 1
    assert one.stop() == 0
    assert "Traceback" not in group.output() + one.output()

"""The database away, cut off or silent: 503 within 3 s, nothing hangs, and the API recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.api_client import get
from tests.api_process import VehicleRow, prepare, prepared_database, running_api, store
from tests.backends import Database
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

PROMISED_SECONDS = 3.0
STATUS = "/v1/telemetry/vehicle/VEH-001/status"
PATHS = (STATUS, "/v1/analytics/performance/VEH-001", "/readyz")


@pytest.fixture
def behind_proxy(
    postgres_server: Database, proxy_factory: Callable[[int], TcpProxy], tmp_path: Path
) -> Iterator[tuple[WattlineProcess, TcpProxy, str]]:
    """An API that reaches its database through a proxy, and the database's own URL."""
    proxy = proxy_factory(postgres_server.port)
    with prepared_database(postgres_server) as url:
        store(url, vehicles=[VehicleRow("VEH-001", datetime.now(UTC), 1.0)])
        through = url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        assert through != url
        with running_api(tmp_path, through) as process:
            warm_up(process)
            yield process, proxy, url


def ask(process: WattlineProcess, path: str) -> int:
    """The status of an answer that came within the promised time, in the form of the contract."""
    response = get(process.http_url + path, timeout=PROMISED_SECONDS + 5)
    # Without the making of a client, which takes CPU time; and a starved machine gives the answer late.
    assert response.elapsed.total_seconds() < 2 * PROMISED_SECONDS
    if response.status_code == 503:
        assert response.headers["retry-after"].isdigit()
        assert response.json()["success"] is False
    return response.status_code


def ask_at_once(process: WattlineProcess, times: int) -> list[int]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda number: ask(process, PATHS[number % len(PATHS)]), range(times)))


def warm_up(process: WattlineProcess) -> None:
    """Until the pool has several connections, so that several can be lost."""
    wait_until(lambda: ask_at_once(process, 12) == [200] * 12, 10, "the pool is warm")


def test_the_database_stopped_and_started(postgres_factory: Callable[[], Database], tmp_path: Path) -> None:
    database = postgres_factory()
    url = database.url_of("energy_db")
    prepare(url)
    store(url, vehicles=[VehicleRow("VEH-001", datetime.now(UTC), 1.0)])
    with running_api(tmp_path, url) as process:
        warm_up(process)
        database.stop()
        stopped = time.monotonic()
        assert ask_at_once(process, 12) == [503] * 12
        # Long enough for a pool that waits twice as long after each attempt to be late.
        wait_until(lambda: ask(process, STATUS) == 503 and time.monotonic() - stopped > 3.5, 10, "3.5 s of outage")
        database.start()
        # 2 s on a quiet machine; a pool that doubles its waiting would be at 4 s or more by now.
        wait_until(lambda: ask(process, STATUS) == 200, 3.5, "status again")
        assert ask_at_once(process, 12) == [200] * 12
        assert process.output().count("does not serve us") == 1
        assert process.output().count("serves us again") == 1
        database.kill()
        database.start()
        wait_until(lambda: ask(process, STATUS) == 200, 4, "status after a crash")
        assert process.stop() == 0
    assert "Traceback" not in process.output()


def test_connections_that_were_cut_are_replaced_unseen(
    behind_proxy: tuple[WattlineProcess, TcpProxy, str],
) -> None:
    process, proxy, url = behind_proxy
    proxy.cut()
    assert ask_at_once(process, 12) == [200] * 12
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert ask_at_once(process, 12) == [200] * 12


def test_a_silent_network_is_503_in_time_and_recovers(
    behind_proxy: tuple[WattlineProcess, TcpProxy, str],
) -> None:
    process, proxy, _ = behind_proxy
    proxy.blackhole()
    assert ask_at_once(process, 12) == [503] * 12
    assert ask(process, STATUS) == 503
    proxy.restore()
    wait_until(lambda: ask_at_once(process, 12) == [200] * 12, 6, "status again")
    assert "Traceback" not in process.output()


def test_a_table_that_is_locked_is_503_in_time(behind_proxy: tuple[WattlineProcess, TcpProxy, str]) -> None:
    process, _, url = behind_proxy
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE vehicle_status")
        assert ask(process, STATUS) == 503
    assert ask(process, STATUS) == 200
    assert "a query failed with 57014" in process.output()


def test_a_query_that_fails_is_503_and_one_line_in_the_log(
    behind_proxy: tuple[WattlineProcess, TcpProxy, str],
) -> None:
    process, _, url = behind_proxy
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE vehicle_status RENAME TO elsewhere")
        assert "wattline migrate" in get(process.http_url + STATUS).text
        connection.execute(
            "CREATE VIEW vehicle_status AS SELECT vehicle_id, 1 / (soc - soc) AS soc, kwh_delivered_dc, battery_temp,"
            " last_reading, last_updated FROM elsewhere"
        )
        assert [ask(process, STATUS) for _ in range(5)] == [503] * 5
    assert process.output().count("a query failed with") == 1


def test_a_stop_while_requests_wait_ends_in_time(behind_proxy: tuple[WattlineProcess, TcpProxy, str]) -> None:
    process, proxy, _ = behind_proxy
    proxy.blackhole()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, process, STATUS) for _ in range(4)]
        wait_until(lambda: proxy_is_asked(process), 3, "the requests wait")
        assert process.stop(8) == 0
        assert [each.result() for each in waiting] == [503] * 4
    assert "Traceback" not in process.output()


def proxy_is_asked(process: WattlineProcess) -> bool:
    """All connections of the pool are in use, and four clients connected beside the one that looks."""
    text = httpx.get(f"{process.http_url}/metrics").text
    return "wattline_api_pool_connections_idle 0.0" in text and "wattline_http_connections 5.0" in text


def test_a_fleet_that_takes_long_is_computed_to_its_end(behind_proxy: tuple[WattlineProcess, TcpProxy, str]) -> None:
    """Whoever asks is told to come back within the promised time, and finds it computed."""
    process, _, url = behind_proxy
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE vehicle_hourly IN ACCESS EXCLUSIVE MODE")
        assert ask(process, "/v1/analytics/fleet?hours=744") == 503
        assert ask(process, STATUS) == 200
        computing = get(process.http_url + "/v1/analytics/fleet?hours=744", timeout=PROMISED_SECONDS + 5)
        assert "still being computed" in computing.json()["message"]
    wait_until(lambda: ask(process, "/v1/analytics/fleet?hours=744") == 200, 10, "the fleet is computed")

"""SIGHUP at running processes: API and ingestor read their settings again, the load generator ends as with Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.api_client import api_client
from tests.api_process import prepare, running_api
from tests.backends import Broker
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

STATUS = "/v1/telemetry/meter/M/status"


def hang_up(process: WattlineProcess) -> str:
    """SIGHUP; the line that it logs about it."""
    before = process.output()
    process.signal(signal.SIGHUP)
    output = wait_until(lambda: "SIGHUP: " in (more := process.output()[len(before) :]) and more, what="its line")
    return str(output)


def test_the_api_takes_new_tokens_and_keeps_the_old_ones_where_a_line_is_wrong(
    tmp_path: Path, database_url: str
) -> None:
    prepare(database_url)
    env = tmp_path / ".env"
    with (
        running_api(tmp_path, database_url) as process,
        api_client(process.http_url, headers={"Authorization": "Bearer s3cret"}, timeout=30) as client,
    ):

        def without_token() -> int | None:
            return get_status(process.http_url + STATUS)

        assert without_token() == 404
        env.write_text("API_READ_TOKENS=s3cret\nLOG_LEVEL=DEBUG\n")
        assert "changed API_READ_TOKENS, LOG_LEVEL" in hang_up(process)
        wait_until(lambda: without_token() == 401, what="the new rules")
        assert client.get(STATUS).status_code == 404
        wait_until(lambda: f"GET {STATUS}" in process.output(), what="the access log of DEBUG")
        env.write_text('API_READ_TOKENS="s3cret')
        assert "everything stays as it was: .env: line 1" in hang_up(process)
        assert without_token() == 401
        assert client.get(STATUS).status_code == 404
        env.write_text("LOG_LEVEL=ERROR")
        assert "API_READ_TOKENS (unset now)" in hang_up(process)
        wait_until(lambda: without_token() == 404, what="reading is open")
        assert process.stop() == 0
        assert "s3cret" not in process.output()


def test_the_ingestor_goes_on_with_another_level(
    tmp_path: Path, database_url: str, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    process = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)
    process.wait_ready()
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\nMAX_INFLIGHT=100\n")
    assert "changed LOG_LEVEL; a restart is needed for MAX_INFLIGHT" in hang_up(process)
    (tmp_path / ".env").write_text("LOG_LEVEL=LOUD")
    assert "everything stays as it was: LOG_LEVEL: " in hang_up(process)
    assert get_status(f"{process.metrics_url}/readyz") == 200
    assert process.stop() == 0


def test_a_closed_terminal_ends_the_load_generator_in_order(
    broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    process = start_wattline("loadgen", "--meters", "2", "--vehicles", "0", "--interval", "1", MQTT_URL=broker.url)
    wait_until(lambda: "to the broker at" in process.output(), what="its start")
    wait_until(lambda: "connected" in process.output() or "acknowledged" in process.output(), what="its work")
    process.signal(signal.SIGHUP)
    assert process.wait() == 0
    assert "SIGHUP: stopping" in process.output()

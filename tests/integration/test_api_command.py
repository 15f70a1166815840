"""`wattline api` as a process: how it starts, what it says when it cannot, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api_client import api_client, get
from tests.api_process import prepare, running_api
from tests.backends import Database
from tests.processes import WattlineProcess, get_status
from tests.waiting import PATIENCE_SECONDS, wait_until

Start = Callable[..., WattlineProcess]
NOWHERE = "postgresql://someone:secret-word@127.0.0.1:1/nothing"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def run_api(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wattline", "api", *arguments],
        cwd=folder,
        env={"DATABASE_URL": NOWHERE, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path, taken_port: int) -> None:
    result = run_api(tmp_path, PORT=str(taken_port))
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(rf"wattline: PORT: {taken_port} on 127\.0\.0\.1 is taken; .*\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--host", "192.0.2.1", "--port", "0"), 1, r"wattline: HOST: 192\.0\.2\.1 is not an address of this machine"),
        (("--host", "no.such.host.invalid"), 1, r"wattline: HOST: 'no\.such\.host\.invalid' is neither .*"),
        (("--port", "65536"), 2, r"wattline: PORT: .*65535"),
        (("--port", "http"), 2, r"wattline: PORT: .*integer.*"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, line: str
) -> None:
    result = run_api(tmp_path, *arguments)
    assert result.returncode == status
    assert re.fullmatch(line + "\n", result.stderr)


def test_port_0_is_any_free_port_and_its_url_is_printed(start_wattline: Start) -> None:
    process = start_wattline("api", "--port", "0", "--host", "localhost", DATABASE_URL=NOWHERE)
    match = wait_until(lambda: re.search(r"^http://localhost:(\d+)$", process.output(), re.MULTILINE), 10, "the URL")
    assert match[1] != "0"
    assert get_status(f"{match[0]}/healthz") == 200
    assert get_status(f"http://127.0.0.1:{match[1]}/healthz") == 200


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(start_wattline: Start, sign: signal.Signals) -> None:
    process = start_wattline("api", DATABASE_URL=NOWHERE)
    wait_until(lambda: get_status(f"{process.http_url}/healthz") == 200, 10, "it serves")
    with api_client(process.http_url) as client:
        client.get("/healthz")  # a connection that is kept alive holds nobody up
        process.signal(sign)
        assert process.wait(8) == 0
    assert "Traceback" not in process.output()


@pytest.mark.empty_database
def test_without_a_database_it_starts_says_so_and_recovers(
    tmp_path: Path, postgres_factory: Callable[[], Database]
) -> None:
    database = postgres_factory()
    url = database.url_of("energy_db")
    prepare(url)
    database.stop()
    process = WattlineProcess("api", folder=tmp_path, DATABASE_URL=url)
    process.start()
    try:
        wait_until(lambda: get_status(f"{process.http_url}/healthz") == 200, 10, "it serves")
        with api_client(process.http_url, timeout=3) as client:
            response = client.get("/readyz")
            assert response.status_code == 503
            assert response.headers["retry-after"].isdigit()
            (problem,) = response.json()["errors"]
            assert problem["field"] == "database"
            assert "refused" in problem["message"]
            assert client.get("/v1/telemetry/meter/M/status").status_code == 503
            database.start()
            wait_until(lambda: client.get("/readyz").status_code == 200, what="ready by itself")
            assert client.get("/v1/telemetry/meter/M/status").status_code == 404
    finally:
        process.kill()
    assert "Traceback" not in process.output()


def test_no_secret_reaches_log_or_answer(start_wattline: Start) -> None:
    process = start_wattline("api", DATABASE_URL=NOWHERE, LOG_LEVEL="DEBUG")
    wait_until(lambda: get_status(f"{process.http_url}/healthz") == 200, 10, "it serves")
    answer = get(f"{process.http_url}/readyz", timeout=3)
    assert answer.status_code == 503
    assert "GET /readyz" in process.output()  # at DEBUG there is an access log
    assert "secret-word" not in process.output() + answer.text


@pytest.mark.empty_database
def test_a_database_without_schema_is_not_ready(tmp_path: Path, database_url: str, start_wattline: Start) -> None:
    process = start_wattline("api", DATABASE_URL=database_url)
    wait_until(lambda: get_status(f"{process.http_url}/healthz") == 200, 10, "it serves")
    for path in ("/readyz", "/v1/telemetry/vehicle/VEH-001/status", "/v1/analytics/performance/VEH-001"):
        response = get(process.http_url + path)
        assert response.status_code == 503
        assert "wattline migrate" in response.text
    prepare(database_url)
    assert get_status(f"{process.http_url}/readyz") == 200
    assert "access" not in process.output()
    assert "Traceback" not in process.output()


def test_an_empty_convention_gives_no_vehicle_a_meter(tmp_path: Path, database_url: str) -> None:
    prepare(database_url)
    with running_api(tmp_path, database_url, METER_ID_CONVENTION="") as process:
        assert get_status(f"{process.http_url}/v1/analytics/performance/VEH-001") == 404

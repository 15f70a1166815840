"""loadgen's ways to load a system, against a real Mosquitto, PostgreSQL and ingestor, in small numbers."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from config.settings import Settings
from embedded.ports import LOOPBACK, free_ports
from loadgen import command
from loadgen import run as run_module
from loadgen.run import Run, run_fleet
from loadgen.verify import Findings, verify
from tests.backends import Broker, Database, new_broker
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async
from wattline.cli import main

_numbers = itertools.count(1)
FLEET = ("--meters", "20", "--vehicles", "20")


@dataclass(frozen=True)
class System:
    """A broker, and a database into which an ingestor stores what comes to it."""

    broker: Broker
    environment: dict[str, str]

    def rows(self, query: str, *parameters: object) -> list[Any]:
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, postgres_server: Database) -> Iterator[System]:
    """One for all of these tests, which tell their devices apart by `prefix`: starting one takes longer than most."""
    folder = tmp_path_factory.mktemp("modes")
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(postgres_server.url_of("postgres"), autocommit=True))
        connection.execute("CREATE DATABASE test_loadgen_modes TEMPLATE template0")
        stack.callback(connection.execute, "DROP DATABASE test_loadgen_modes WITH (FORCE)")
        broker = new_broker(folder / "broker")
        broker.start()
        stack.callback(broker.stop)
        environment: dict[str, Any] = {
            "MQTT_URL": broker.url,
            "DATABASE_URL": postgres_server.url_of("test_loadgen_modes"),
        }
        ingest = WattlineProcess("ingest", folder=folder, **environment)
        stack.callback(ingest.kill)
        ingest.start()
        ingest.wait_ready()
        yield System(broker, environment)


@pytest.fixture
def prefix() -> str:
    """What the test's own devices begin with."""
    return f"T{next(_numbers):02d}"


@pytest.fixture
def loadgen(
    system: System, prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`loadgen(options...)`: exit status and report of a run with `--json`."""
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["loadgen", *FLEET, "--prefix", prefix, *options, "--json"])
        captured = capsys.readouterr()
        sys.stderr.write(captured.err)  # for a test that also reads the log
        return status, json.loads(captured.out)

    return run


def test_as_fast_as_it_goes_with_every_fault_is_verified_exactly(
    loadgen: Callable[..., tuple[int, dict[str, Any]]], system: System, prefix: str
) -> None:
    shares = ("--duplicates", "0.1", "--late", "0.1", "--malformed", "0.1")
    status, report = loadgen("--max", "--messages", "3000", *shares, "--verify")
    assert status == 0
    assert report["verified"] == {
        "acknowledged": report["acknowledged"],
        "lost": 0,
        "duplicated": 0,
        "wrong": 0,
        "examples": [],
    }
    assert report["acknowledged"] == 3000 - report["malformed"]
    assert report["messages"] == 3000 + report["duplicates"]
    assert min(report["duplicates"], report["late"], report["malformed"]) > 200
    assert report["committedMilliseconds"]["missing"] == 0
    assert report["pubackMilliseconds"]["count"] == report["acknowledged"]
    ((late,),) = system.rows(
        "SELECT count(*) FROM meter_readings_history WHERE ts < now() - interval '50 min' AND meter_id LIKE %s",
        f"{prefix}-%",
    )
    assert late > 100
    ((kept, reason),) = system.rows("SELECT count(DISTINCT payload), min(reason_code) FROM rejected_messages")
    assert kept > 0
    assert reason.startswith("invalid_")


def test_devices_that_ask_are_told_of_every_reading(loadgen: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    shares = ("--duplicates", "0.1", "--late", "0.1", "--malformed", "0.1")
    status, report = loadgen("--max", "--messages", "500", *shares, "--receipts", "--verify")
    assert (status, report["unacknowledged"], report["refused"]) == (0, 0, {})
    assert report["acknowledged"] == report["verified"]["acknowledged"] == 500 - report["malformed"]
    assert report["receiptMilliseconds"]["count"] == report["acknowledged"]
    assert report["duplicates"] > 20


def test_an_open_loop_keeps_its_rate(loadgen: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    status, report = loadgen("--rate", "1000", "--duration", "1", "--verify", "--mqtt-version", "3.1.1")
    assert status == 0
    assert report["acknowledged"] == report["verified"]["acknowledged"] == 1000
    assert 0.9 < report["seconds"] < 6
    assert report["committedMilliseconds"]["count"] > 10
    assert report["committedMilliseconds"]["p50"] >= report["pubackMilliseconds"]["p50"]


def test_a_backfill_stores_a_minute_a_reading_and_a_second_one_is_told_apart(
    loadgen: Callable[..., tuple[int, dict[str, Any]]], system: System, prefix: str
) -> None:
    status, report = loadgen("--hours", "1", "--verify")
    assert status == 0
    assert report["verified"]["acknowledged"] == 40 * 60
    ((count, first, last),) = system.rows(
        "SELECT count(*), min(ts) - now(), max(ts) - min(ts) FROM vehicle_readings_history WHERE vehicle_id = %s",
        f"{prefix}-VEH-007",
    )
    assert count == 60
    assert -3700 < first.total_seconds() < -3590
    assert last.total_seconds() == 59 * 60
    status, report = loadgen("--hours", "1", "--verify")
    assert status == 1
    assert "choose another --prefix" in report["error"]


def test_a_connection_for_each_device(loadgen: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    status, report = loadgen("--connections", "40", "--max", "--messages", "400", "--verify")
    assert status == 0
    assert report["verified"]["acknowledged"] == 400


def test_a_broker_that_goes_in_the_middle_ends_with_a_true_report(
    loadgen: Callable[..., tuple[int, dict[str, Any]]],
    system: System,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was acknowledged is stored once the broker is back; what was not is said, and the status is 1."""

    async def lose_the_broker(run: Run, settings: Settings) -> None:
        running = asyncio.create_task(run_fleet(run, settings))
        query = "SELECT count(*) FROM meter_readings_history WHERE meter_id LIKE %s"
        await wait_until_async(lambda: system.rows(query, f"{prefix}-%")[0][0] > 100, what="some readings are stored")
        system.broker.stop()
        await running

    def verify_once_it_is_back(*arguments: Any) -> Findings:
        system.broker.start()
        return verify(*arguments)

    monkeypatch.setattr(run_module, "DRAIN_SECONDS_TIMED", 0.5)
    monkeypatch.setattr(command, "run_fleet", lose_the_broker)
    monkeypatch.setattr(command, "verify", verify_once_it_is_back)
    status, report = loadgen("--max", "--duration", "5", "--verify")
    assert status == 1
    assert report["acknowledged"] == report["verified"]["acknowledged"] > 100
    assert report["unacknowledged"] > 0
    assert report["published"] == report["acknowledged"] + report["unacknowledged"]
    assert (report["verified"]["lost"], report["verified"]["duplicated"], report["verified"]["wrong"]) == (0, 0, 0)
    log = capsys.readouterr().err
    assert "gave up waiting" in log
    assert "no connection to a broker" in log


def test_an_interrupted_endless_run_reports(
    start_wattline: Callable[..., WattlineProcess], system: System, prefix: str
) -> None:
    loadgen = start_wattline("loadgen", *FLEET, "--prefix", prefix, "--rate", "200", **system.environment)
    wait_until(lambda: "publishing to" in loadgen.output(), what="it has begun")
    loadgen.signal(signal.SIGINT)
    assert loadgen.wait() == 0
    assert "loadgen itself:" in loadgen.output()


def test_without_a_broker_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "CONNECT_SECONDS_MAX", 0.3)
    monkeypatch.setenv("MQTT_URL", f"mqtt://{LOOPBACK}:{free_ports(1)[0]}")
    assert main(["loadgen", "--max", "--messages", "10", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == 0
    assert report["error"].startswith("no connection to a broker at")

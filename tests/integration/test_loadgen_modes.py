"""loadgen's ways to load a system, against a real Mosquitto, PostgreSQL and ingestor, in small numbers."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from loadgen import run as run_module
from tests.backends import Broker
from tests.processes import WattlineProcess
from tests.waiting import wait_until
from wattline.cli import main

Start = Callable[..., WattlineProcess]
FLEET = ("--meters", "20", "--vehicles", "20")


@pytest.fixture
def environment(start_wattline: Start, broker: Broker, database_url: str) -> dict[str, str]:
    """Where an ingestor listens and stores."""
    environment = {"MQTT_URL": broker.url, "DATABASE_URL": database_url}
    start_wattline("ingest", **environment).wait_ready()
    return environment


@pytest.fixture
def loadgen(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`loadgen(options...)`: exit status and report of a run with `--json`."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["loadgen", *FLEET, *options, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def test_as_fast_as_it_goes_with_every_fault_is_verified_exactly(loadgen, environment) -> None:
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
    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*) FROM meter_readings_history WHERE ts < now() - interval '50 min'")
        assert row.fetchone()[0] > 100
        row = connection.execute("SELECT count(DISTINCT payload), min(reason_code) FROM rejected_messages")
        kept, reason = row.fetchone()
        assert kept > 0
        assert reason.startswith("invalid_")


def test_an_open_loop_keeps_its_rate(loadgen) -> None:
    status, report = loadgen("--rate", "1000", "--duration", "1", "--verify", "--mqtt-version", "3.1.1")
    assert status == 0
    assert report["acknowledged"] == report["verified"]["acknowledged"] == 1000
    assert 0.9 < report["seconds"] < 6
    assert report["committedMilliseconds"]["count"] > 10
    assert report["committedMilliseconds"]["p50"] >= report["pubackMilliseconds"]["p50"]


def test_a_backfill_stores_a_minute_a_reading_and_a_second_one_is_told_apart(loadgen, environment) -> None:
    status, report = loadgen("--hours", "1", "--verify")
    assert status == 0
    assert report["verified"]["acknowledged"] == 40 * 60
    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        count, first, last = connection.execute(
            "SELECT count(*), min(ts) - now(), max(ts) - min(ts) FROM vehicle_readings_history "
            "WHERE vehicle_id = 'LOAD-VEH-007'"
        ).fetchone()
    assert count == 60
    assert -3700 < first.total_seconds() < -3590
    assert last.total_seconds() == 59 * 60
    status, report = loadgen("--hours", "1", "--verify")
    assert status == 1
    assert "choose another --prefix" in report["error"]


def test_a_connection_for_each_device(loadgen) -> None:
    status, report = loadgen("--connections", "40", "--max", "--messages", "400", "--verify")
    assert status == 0
    assert report["verified"]["acknowledged"] == 400


def test_a_broker_that_goes_in_the_middle_ends_with_a_true_report(
    start_wattline: Start, broker: Broker, environment: dict[str, str]
) -> None:
    """What was acknowledged is stored once the broker is back; what was not is said, and the status is 1."""
    loadgen = start_wattline("loadgen", *FLEET, "--max", "--duration", "2", "--json", "--verify", **environment)
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        query = "SELECT count(*) FROM meter_readings_history"
        wait_until(lambda: connection.execute(query).fetchone()[0] > 100, 20, "some readings are stored")
    broker.stop()
    wait_until(lambda: "gave up waiting" in loadgen.output(), 30, "it gives up")
    broker.start()
    assert loadgen.wait(60) == 1
    (line,) = [line for line in loadgen.output().splitlines() if line.startswith("{")]
    report = json.loads(line)
    assert report["acknowledged"] == report["verified"]["acknowledged"] > 100
    assert report["unacknowledged"] > 0
    assert report["published"] == report["acknowledged"] + report["unacknowledged"]
    assert (report["verified"]["lost"], report["verified"]["duplicated"], report["verified"]["wrong"]) == (0, 0, 0)
    assert "no connection to a broker" in loadgen.output()


def test_an_interrupted_endless_run_reports(start_wattline: Start, environment: dict[str, str]) -> None:
    loadgen = start_wattline("loadgen", *FLEET, "--rate", "200", **environment)
    wait_until(lambda: "publishing to" in loadgen.output(), 20, "it has begun")
    loadgen.signal(signal.SIGINT)
    assert loadgen.wait() == 0
    assert "loadgen itself:" in loadgen.output()


def test_without_a_broker_the_report_says_so(broker, monkeypatch, capsys) -> None:
    broker.stop()
    monkeypatch.setattr(run_module, "CONNECT_SECONDS_MAX", 0.3)
    monkeypatch.setenv("MQTT_URL", broker.url)
    assert main(["loadgen", "--max", "--messages", "10", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == 0
    assert report["error"].startswith("no connection to a broker at")

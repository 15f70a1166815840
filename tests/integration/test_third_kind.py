"""A third kind of reading takes two files, its declaration and its migration: everything else follows from MQTT to CSV.

The program is copied, the two blocks of docs/recipes.md are put in, and the real commands run from the copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import psycopg
import pytest

from tests.backends import Broker, Database, new_broker
from tests.devices import device, iso
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.recipes import block
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
ROOMS = (
    "config",
    "telemetry",
    "mqtt",
    "postgres",
    "serving",
    "ledger",
    "ingestor",
    "analytics_api",
    "loadgen",
    "embedded",
    "wattline",
)
KIND = "inverter"


def copy_with_a_third_kind(folder: Path) -> None:
    """The program with a kind more."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    declared = folder / "telemetry" / "kinds.py"
    text = declared.read_text(encoding="utf-8")
    before, kinds, after = text.partition("KINDS: tuple[Kind, ...] = (METER, VEHICLE")
    assert kinds
    declared.write_text(f"{before}{block('python')}\n{kinds}, INVERTER{after}", encoding="utf-8")
    schema = folder / "ingestor" / "schema"
    number = len(list(schema.glob("0*.sql"))) + 1
    (schema / f"{number:04}_inverter.sql").write_text(block("sql"), encoding="utf-8")


@dataclass(frozen=True)
class System:
    """Everything that runs, with a kind more."""

    folder: Path
    broker: Broker
    ingest: WattlineProcess
    api: WattlineProcess
    environment: dict[str, str]

    def attempt(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wattline", *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", **self.environment, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(query.encode()).fetchall()

    def run(self, *arguments: str, **settings: str) -> str:
        """What a command prints that ends well."""
        done = self.attempt(*arguments, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str, **headers: str) -> httpx.Response:
        response = httpx.get(f"{self.api.http_url}{path}", headers=headers, timeout=30)
        assert response.status_code == 200, response.text
        return response


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, postgres_server: Database) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("third-kind")
    copy_with_a_third_kind(folder)
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(postgres_server.url_of("postgres"), autocommit=True))
        connection.execute("CREATE DATABASE test_third_kind TEMPLATE template0")
        stack.callback(connection.execute, "DROP DATABASE test_third_kind WITH (FORCE)")
        broker = new_broker(folder / "broker")
        broker.start()
        stack.callback(broker.stop)
        url = postgres_server.url_of("test_third_kind")
        environment: dict[str, Any] = {"MQTT_URL": broker.url, "DATABASE_URL": url, "PYTHONPATH": str(folder)}
        environment["API_WRITE_LOOPBACK"] = "1"
        ingest, api = (WattlineProcess(name, folder=folder, **environment) for name in ("ingest", "api"))
        for process in (ingest, api):
            stack.callback(process.kill)
            process.start()
            process.wait_ready()
        yield System(folder, broker, ingest, api, environment)


@pytest.fixture(scope="module")
def loaded(system: System) -> dict[str, Any]:
    """What `wattline loadgen --inverters 5 --verify` says, with faults of every sort."""
    options = ("--meters", "1", "--vehicles", "1", "--inverters", "5", "--max", "--messages", "1400")
    faults = ("--late", "0.1", "--duplicates", "0.1", "--malformed", "0.1", "--json")
    return json.loads(system.run("loadgen", *options, *faults, "--verify", "--verify-timeout", "90"))


def test_it_is_stored_once_and_verified(system: System, loaded: dict[str, Any]) -> None:
    verified = loaded["verified"]
    assert (verified["lost"], verified["duplicated"], verified["wrong"]) == (0, 0, 0)
    assert loaded["malformed"] > 0
    ((devices, readings),) = system.rows(f"SELECT count(DISTINCT inverter_id), count(*) FROM {KIND}_readings_history")
    assert devices == 5
    assert readings > 800
    assert system.rows("SELECT count(*) FROM inverter_status") == [(5,)]
    refused = system.rows("SELECT reason_code FROM rejected_messages WHERE topic LIKE 'v1/telemetry/inverter/%'")
    assert {code for (code,) in refused} >= {"invalid_json", "invalid_shape", "invalid_value"}
    assert metric(system.ingest, "wattline_readings_committed_total", kind=KIND) == readings


def test_its_hours_are_summed(system: System, loaded: dict[str, Any]) -> None:
    ((hour,),) = system.rows("SELECT date_trunc('hour', now())::text")
    before = f"FROM inverter_readings_history WHERE ts < '{hour}'"
    ((late, energy, power),) = system.rows(f"SELECT count(*), sum(kwh_generated_ac), sum(ac_power) {before}")
    assert late > 0  # those of an hour ago
    columns = "coalesce(sum(readings), 0), sum(kwh_generated_ac), sum(ac_power_sum)"
    sums = f"SELECT {columns} FROM inverter_hourly WHERE hour < '{hour}'"
    wait_until(lambda: system.rows(sums)[0][0] == late, 60, "the hours that are over are summed")
    assert system.rows(sums)[0][1:] == pytest.approx((energy, power))


def test_it_is_answered_and_described(system: System, loaded: dict[str, Any]) -> None:
    listed = system.get("/v1/telemetry/inverter?limit=2").json()
    assert [one["inverterId"] for one in listed["data"]] == ["LOAD-INV-001", "LOAD-INV-002"]
    assert listed["nextCursor"]
    status = system.get("/v1/telemetry/inverter/LOAD-INV-001/status").json()["data"]
    assert list(status) == ["inverterId", "kwhGeneratedAc", "acPower", "panelTemp", "lastReading", "lastUpdated"]
    table = system.get("/v1/telemetry/inverter/LOAD-INV-001/history", accept="text/csv").text.splitlines()
    assert "kwhGeneratedAc,acPower,panelTemp" in table[0]
    assert len(table) > 100
    with httpx.stream("GET", f"{system.api.http_url}/v1/stream", timeout=30) as stream:
        event = next(json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {"))
    assert [one["inverterId"] for one in event["inverters"]]
    stale = system.get("/v1/telemetry/inverter?staleSeconds=3600").json()
    assert stale["data"] == []
    described = system.get("/openapi.json").json()
    for model, answer in (
        ("InverterStatusPage", listed),
        ("InverterStatusAnswer", system.get("/v1/telemetry/inverter/LOAD-INV-001/status").json()),
        ("InverterReadingPage", system.get("/v1/telemetry/inverter/LOAD-INV-001/history").json()),
    ):
        schema = {"$ref": f"#/components/schemas/{model}", "components": described["components"]}
        jsonschema_rs.validator_for(schema).validate(answer)
    assert {f"/v1/telemetry/inverter{end}" for end in ("", "/{inverterId}/status", "/{inverterId}/history")} <= set(
        described["paths"]
    )
    assert "acPower" in described["components"]["schemas"]["InverterStatus"]["properties"]


def test_its_readings_can_be_annulled_and_restored_and_its_devices_forgotten(
    system: System, loaded: dict[str, Any]
) -> None:
    of_one = "SELECT * FROM inverter_readings_history WHERE inverter_id = 'LOAD-INV-002' ORDER BY ts"
    status = "SELECT inverter_id, last_reading, panel_temp FROM inverter_status ORDER BY 1"
    before = system.rows(of_one), system.rows(status)
    stretch = ("--from", "2026-01-01", "--to", "2126-01-01", "--reason", "a test")
    assert "annulled" in system.run("readings", "annul", "--device", "LOAD-INV-002", *stretch)
    assert system.rows(of_one) == []
    assert len(system.rows(status)) == len(before[1]) - 1
    ((number,),) = system.rows("SELECT max(id)::text FROM annulments WHERE kind = 'inverter'")
    assert "restored" in system.run("readings", "restore", "--id", number)
    assert (system.rows(of_one), system.rows(status)) == before
    assert "forgot 1 inverter" in system.run("device", "forget", "--kind", "inverter", "LOAD-INV-005")
    assert len(system.rows(status)) == len(before[1]) - 1


def test_it_can_be_posted_and_published_by_hand(system: System) -> None:
    example = {"inverterId": "POSTED", "kwhGeneratedAc": 0.5, "acPower": 1.5, "panelTemp": -7.5}
    now = system.rows("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")[0][0]
    with device(system.broker.port) as publisher:
        publisher.publish(f"v1/telemetry/inverter/{example['inverterId']}", {**example, "timestamp": now})
    seen = "SELECT kwh_generated_ac, ac_power, panel_temp FROM inverter_status WHERE inverter_id = 'POSTED'"
    wait_until(lambda: system.rows(seen) == [(0.5, 1.5, -7.5)], what="its status")
    later = {**example, "timestamp": now.replace("Z", ".5Z"), "panelTemp": 8}
    posted = httpx.post(f"{system.api.http_url}/v1/telemetry/inverter", json=later)
    assert (posted.status_code, posted.json()["data"]["inverterId"]) == (202, "POSTED")
    wait_until(lambda: system.rows(seen) == [(0.5, 1.5, 8.0)], what="the posted one")
    refused = httpx.post(f"{system.api.http_url}/v1/telemetry/inverter", json={**later, "acPower": -1})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "acPower")


def test_its_old_days_are_dropped(system: System, loaded: dict[str, Any]) -> None:
    days = "SELECT count(*) FROM inverter_readings_history WHERE ts < now() - interval '4 days'"
    old = datetime.now(UTC) - timedelta(days=5)
    reading = {"inverterId": "OLD", "kwhGeneratedAc": 1, "acPower": 1, "panelTemp": 1, "timestamp": iso(old)}
    with device(system.broker.port) as publisher:
        publisher.publish("v1/telemetry/inverter/OLD", reading)
    wait_until(lambda: system.rows(days) == [(1,)], what="a reading of a day that had no partition")
    partition = f"SELECT to_regclass('inverter_readings_history_p{old:%Y%m%d}') IS NULL"
    assert system.rows(partition) == [(False,)]
    system.run("retention", "run", "--yes", RETENTION_DAYS="2")
    assert system.rows(partition) == [(True,)]


def test_without_its_tables_it_is_one_line(system: System, database_url: str) -> None:
    (migration,) = (system.folder / "ingestor" / "schema").glob("*_inverter.sql")
    aside = migration.rename(migration.with_suffix(".aside"))
    try:
        refused = system.attempt("ingest", DATABASE_URL=database_url, METRICS_PORT="0")
    finally:
        aside.rename(migration)
    assert refused.returncode == 1
    assert len([line for line in refused.stderr.splitlines() if "inverter_status" in line]) == 1
    assert "Traceback" not in refused.stderr

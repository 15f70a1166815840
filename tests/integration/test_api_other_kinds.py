"""A third kind of reading is served once it is declared and has its tables: every route, CSV, stream, description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema_rs
import psycopg
import pytest

from tests.api_process import prepared_database
from tests.backends import Database, new_broker
from tests.devices import iso
from tests.integration.test_api_schema import listening
from tests.inverter import INVERTER
from tests.processes import WattlineProcess
from tests.recipes import ROOT, block
from tests.waiting import wait_until

INVERTERS = "/v1/telemetry/inverter"
NOW = datetime.now(UTC)
STORED = {"inverterId": "INV-001", "kwhGeneratedAc": 0.5, "acPower": 5.25, "panelTemp": 40}


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API that knows INV-001 and INV-002, the second of which is silent; somebody listens at its broker."""
    folder = tmp_path_factory.mktemp("inverters")
    broker = new_broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    with prepared_database(postgres_server) as url, listening(broker.port):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(block("sql").encode())
        settings = {"DATABASE_URL": url, "MQTT_URL": broker.url, "API_WRITE_LOOPBACK": "1", "PYTHONPATH": str(ROOT)}
        migrating = WattlineProcess("migrate", folder=folder, module="tests.with_inverter", **settings)
        process = WattlineProcess("api", folder=folder, module="tests.with_inverter", **settings)
        try:
            migrating.start()  # the API's role may read the new tables
            assert migrating.wait() == 0, migrating.output()
            store(url)
            process.start()
            process.wait_ready()
            with httpx.Client(base_url=process.http_url, timeout=10) as client:
                yield client
            assert "acts as the role" in process.output()
            assert "Traceback" not in process.output()
        finally:
            process.kill()
            broker.stop()


def store(url: str) -> None:
    """What two inverters have reported."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE any_inverter_day PARTITION OF inverter_readings_history DEFAULT")
        for device, age in (("INV-001", timedelta()), ("INV-002", timedelta(hours=2))):
            connection.execute(
                "INSERT INTO inverter_status (inverter_id, kwh_generated_ac, ac_power, panel_temp, last_reading,"
                " last_updated) VALUES (%s, 0.5, 5.25, 40, %s, %s)",
                [device, NOW - age, NOW - age],
            )
            for minutes in (0, 1, 2):
                connection.execute(
                    "INSERT INTO inverter_readings_history (inverter_id, ts, kwh_generated_ac, ac_power, panel_temp)"
                    " VALUES (%s, %s, 0.5, 5.25, 40)",
                    [device, NOW - age - timedelta(minutes=minutes)],
                )


def assert_described(api: httpx.Client, model: str, answer: Any) -> None:
    """The answer is what the API's own description says of it."""
    document = api.get("/openapi.json").json()
    assert any("inverter" in path for path in document["paths"])
    schema = {"$ref": f"#/components/schemas/{model}", "components": document["components"]}
    jsonschema_rs.validator_for(schema).validate(answer)


def test_status(api: httpx.Client) -> None:
    answer = api.get(f"{INVERTERS}/INV-001/status").json()
    assert STORED.items() <= answer["data"].items()
    assert_described(api, "InverterStatusAnswer", answer)
    unknown = api.get(f"{INVERTERS}/INV-009/status")
    assert unknown.status_code == 404
    assert "inverter INV-009" in unknown.json()["message"]


def test_the_list_and_its_pages(api: httpx.Client) -> None:
    answer = api.get(INVERTERS, params={"limit": 1}).json()
    assert_described(api, "InverterStatusPage", answer)
    rest = api.get(INVERTERS, params={"limit": 1, "cursor": answer["nextCursor"]}).json()
    assert [each["inverterId"] for each in answer["data"] + rest["data"]] == ["INV-001", "INV-002"]
    stale = api.get(INVERTERS, params={"staleSeconds": 3600}).json()["data"]
    assert [each["inverterId"] for each in stale] == ["INV-002"]


def test_the_history_as_json_and_csv(api: httpx.Client) -> None:
    answer = api.get(f"{INVERTERS}/INV-001/history").json()
    assert_described(api, "InverterReadingPage", answer)
    assert len(answer["data"]) == 3
    lines = api.get(f"{INVERTERS}/INV-001/history", headers={"Accept": "text/csv"}).text.splitlines()
    assert lines[0] == "inverterId,kwhGeneratedAc,acPower,panelTemp,timestamp,ingestedAt"
    assert [line.split(",")[:4] for line in lines[1:]] == [["INV-001", "0.5", "5.25", "40"]] * 3


def test_the_stream(api: httpx.Client) -> None:
    with api.stream("GET", "/v1/stream") as answer:
        event = next(json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
    assert (event["totalInverters"], event["totalMeters"], event["silentDevices"]) == (2, 0, 1)
    assert event["inverters"] == [] or STORED.items() <= event["inverters"][0].items()  # it looks back 10 s


def test_posting(api: httpx.Client) -> None:
    reading = {**INVERTER.example, "timestamp": iso(NOW)}
    assert_described(api, "InverterReadings", [reading])
    wait_until(lambda: api.post(INVERTERS, json=reading).status_code == 202, 30, "the way to the broker")
    answer = api.post(INVERTERS, json=[reading, {**reading, "inverterId": "INV-002"}])
    assert_described(api, "InverterAccepted", answer.json())
    assert answer.json()["data"] == {"accepted": 2}
    refused = api.post(INVERTERS, json={**reading, "panelTemp": 201, "voltage": 230})
    assert refused.status_code == 400
    assert {problem["field"] for problem in refused.json()["errors"]} == {"panelTemp", "voltage"}

"""Readings over HTTP: what is answered 202 is stored, once; everything else is an error that says what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api_client import api_client
from tests.api_process import prepared_database, running_api
from tests.backends import Broker, Database
from tests.devices import device, meter_reading, vehicle_reading
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

METER, VEHICLE = "/v1/telemetry/meter", "/v1/telemetry/vehicle"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def database(postgres_server: Database) -> Iterator[str]:
    """A database that outlives the single test; each uses devices of its own."""
    with prepared_database(postgres_server) as url:
        yield url


@pytest.fixture
def api(database: str, broker: Any, tmp_path: Any) -> Iterator[httpx.Client]:
    """A client of an API that is connected to a broker to which nobody is subscribed."""
    with (
        running_api(tmp_path, database, MQTT_URL=broker.url) as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        wait_until(lambda: connected(client), what="the link to the broker")
        yield client
        assert "Traceback" not in process.output()


def connected(client: httpx.Client) -> bool:
    return "wattline_api_broker_connected 1.0" in client.get("/metrics").text


def count(url: str, table: str, device: str) -> int:
    column = "meter_id" if table.startswith("meter") else "vehicle_id"
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} LIKE %s", [device]).fetchone()
    assert row is not None
    return int(row[0])


def assert_try_later(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["success"] is False


def test_every_reading_that_was_accepted_is_stored_once(
    api: httpx.Client, database: str, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    start_wattline("ingest", DATABASE_URL=database, MQTT_URL=broker.url).wait_ready()
    singles = [meter_reading("GW-M-SINGLE", NOW - timedelta(seconds=second)) for second in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda reading: api.post(METER, json=reading), singles))
    assert [answer.status_code for answer in answers] == [202] * 200
    moment = NOW.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert answers[0].json()["data"] == {"meterId": "GW-M-SINGLE", "timestamp": moment}
    fleet = [vehicle_reading(f"GW-V-{number % 50}", NOW - timedelta(seconds=number)) for number in range(1000)]
    for _ in range(2):  # twice, and stored once
        answer = api.post(VEHICLE, json=fleet)
        assert (answer.status_code, answer.json()["data"]) == (202, {"accepted": 1000})
    wait_until(lambda: count(database, "vehicle_readings_history", "GW-V-%") == 1000, what="the array in the table")
    wait_until(lambda: count(database, "meter_readings_history", "GW-M-SINGLE") == 200, what="the singles")
    assert count(database, "meter_readings_history", "GW-M-%") == 200


def test_without_a_subscriber_nothing_is_accepted(api: httpx.Client) -> None:
    assert_try_later(api.post(METER, json=meter_reading()))
    assert_try_later(api.post(METER, json=[meter_reading("A"), meter_reading("B")]))


def test_bad_fields_are_all_named(api: httpx.Client) -> None:
    bad = meter_reading(voltage="high", surprise=1)
    del bad["kwhConsumedAc"]
    answer = api.post(METER, json=bad)
    assert answer.status_code == 400
    assert {error["field"] for error in answer.json()["errors"]} == {"voltage", "surprise", "kwhConsumedAc"}
    ahead = meter_reading(at=datetime.now(UTC) + timedelta(hours=1))
    answer = api.post(METER, json=[meter_reading(), 7, meter_reading(voltage=-1), ahead])
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["1", "2.voltage", "3.timestamp"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"meterId":"\xff"}', 400),
        (b'"text"', 400),
        (b"[]", 400),
        (b"[[" + b",".join([b"[]"] * 60_000) + b"]]", 400),
        (b" " * 1_000_001, 413),
        ([b" " * 100_000] * 11, 413),
    ],
    ids=["empty", "cut", "utf-8", "shape", "empty array", "nested", "large", "large and chunked"],
)
def test_bodies_that_are_no_reading(api: httpx.Client, content: bytes | list[bytes], status: int) -> None:
    body = content if isinstance(content, bytes) else iter(content)
    answer = api.post(METER, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["message"]


def test_an_array_may_be_as_long_as_its_bytes_let_it_be(
    api: httpx.Client, database: str, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    """Written as briefly as JSON allows: what the broker gets is longer, and must not be too long for the ingestor."""
    start_wattline("ingest", DATABASE_URL=database, MQTT_URL=broker.url).wait_ready()
    moments = [NOW - timedelta(seconds=second) for second in range(1_000_000)]
    readings, size = [], 2
    for moment in moments:
        stamp = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
        readings.append(f'{{"meterId":"GW-LONG","kwhConsumedAc":1,"voltage":1,"timestamp":"{stamp}"}}')
        size += len(readings[-1]) + 1
        if size > 999_900:
            break
    body = f"[{','.join(readings)}]"
    assert 999_000 < len(body) <= 1_000_000
    answer = api.post(METER, content=body, headers={"Content-Type": "application/json"}, timeout=30)
    assert (answer.status_code, answer.json()["data"]) == (202, {"accepted": len(readings)})
    wait_until(lambda: count(database, "meter_readings_history", "GW-LONG") == len(readings), what="all in the table")


def test_a_few_of_many_unknown_fields_are_named(api: httpx.Client) -> None:
    bad = meter_reading() | {f"f{number}": 1 for number in range(60_000)}
    answer = api.post(METER, json=bad)
    assert answer.status_code == 400
    assert 1 <= len(answer.json()["errors"]) <= 20


def test_the_same_settings_hold_for_http_and_mqtt(
    database: str, broker: Broker, start_wattline: Callable[..., WattlineProcess], tmp_path: Path
) -> None:
    """Seven digits and a small z are taken, unknown fields are left out and counted, energy has its limit."""
    rules = {"UNKNOWN_FIELDS": "ignore", "VEHICLE_MAX_KWH": "500", "MQTT_URL": broker.url}
    ingestor = start_wattline("ingest", DATABASE_URL=database, **rules)
    ingestor.wait_ready()
    stamp = NOW.strftime("%Y-%m-%dt%H:%M:%S.1234567z")
    more = vehicle_reading("RULES-HTTP", timestamp=stamp, rssi=-70)
    with running_api(tmp_path, database, **rules) as process, api_client(process.http_url, timeout=30) as client:
        wait_until(lambda: connected(client), what="the link to the broker")
        assert client.post(VEHICLE, json=more).status_code == 202
        answer = client.post(VEHICLE, json=vehicle_reading("RULES-HTTP", kwhDeliveredDc=98765))
        assert "VEHICLE_MAX_KWH" in answer.json()["errors"][0]["message"]
        assert 'wattline_api_readings_unknown_fields_total{kind="vehicle"} 1.0' in client.get("/metrics").text
    with device(broker.port) as publisher:
        publisher.vehicle(more | {"vehicleId": "RULES-MQTT"})
        publisher.vehicle(vehicle_reading("RULES-MQTT", kwhDeliveredDc=98765))
        publisher.wait_acknowledged()
    wait_until(lambda: count(database, "vehicle_readings_history", "RULES-%") == 2, what="both in the table")
    with psycopg.connect(database) as connection:
        stored = connection.execute("SELECT ts FROM vehicle_readings_history WHERE vehicle_id LIKE 'RULES-%'")
        assert {ts for (ts,) in stored} == {NOW.replace(microsecond=123456)}

    def refused() -> list[tuple[str, str]]:
        with psycopg.connect(database) as connection:
            found = connection.execute(
                "SELECT reason_code, reason FROM rejected_messages WHERE topic LIKE '%RULES-MQTT'"
            )
            return [(str(code), str(reason)) for code, reason in found]

    wait_until(lambda: refused() != [], what="the refusal in quarantine")
    ((code, reason),) = refused()
    assert (code, "VEHICLE_MAX_KWH" in reason) == ("invalid_value", True)
    assert metric(ingestor, "wattline_readings_unknown_fields_total", kind="vehicle") == 1


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/json; charset=latin-1"])
def test_only_json_is_taken(api: httpx.Client, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    assert api.post(METER, content=b"{}", headers=headers).status_code == 415


def test_while_the_broker_is_away_the_answer_is_quick_and_the_link_comes_back(
    database: str, broker_factory: Callable[[], Broker], tmp_path: Path
) -> None:
    broker = broker_factory()
    broker.stop()
    with (
        running_api(tmp_path, database, MQTT_URL=broker.url) as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        started = time.monotonic()
        assert_try_later(client.post(METER, json=meter_reading()))
        assert time.monotonic() - started < 3
        assert not connected(client)
        broker.start()
        wait_until(lambda: connected(client), what="the link to come back")


def test_a_broker_that_falls_silent_is_answered_for_in_time(
    database: str, broker: Broker, proxy_factory: Callable[[int], TcpProxy], tmp_path: Path
) -> None:
    proxy = proxy_factory(broker.port)
    with (
        running_api(tmp_path, database, MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}") as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        wait_until(lambda: connected(client), what="the link")
        proxy.blackhole()
        started = time.monotonic()
        assert_try_later(client.post(METER, json=meter_reading()))
        assert time.monotonic() - started < 3

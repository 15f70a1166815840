"""The lists of devices: every device once and in order whatever the page's size and whatever arrives in between."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_api.http.cursors import write_cursor
from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database

pytestmark = pytest.mark.citus_too

METERS = "/v1/telemetry/meter"
VEHICLES = "/v1/telemetry/vehicle"
NOW = datetime.now(UTC).replace(microsecond=123_987)
# In the order of their bytes, which is no language's.
IDS = sorted(f"{prefix}{number}" for prefix in ("METER-", "meter-", "Z.", "_", "a:") for number in range(5))
SILENT = {device_id for number, device_id in enumerate(IDS) if number % 3 == 0}


@pytest.fixture(scope="module")
def database_url(postgres_server: Database) -> Iterator[str]:
    with prepared_database(postgres_server) as url:
        ages = {device_id: timedelta(hours=2 if device_id in SILENT else 0) for device_id in IDS}
        store(
            url,
            meters=[MeterRow(device_id, NOW - age, 0.1834, 238.4) for device_id, age in ages.items()],
            vehicles=[VehicleRow("VEH-001", NOW, 0.1544, 75, 31.5), VehicleRow("VEH-002", NOW, 1.5, 50.5, -7.25)],
        )
        yield url


@pytest.fixture(scope="module")
def api(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        running_api(tmp_path_factory.mktemp("api"), database_url) as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        yield client
        assert "Traceback" not in process.output()


def page(api: httpx.Client, path: str, **parameters: object) -> dict[str, Any]:
    response = api.get(path, params={name: str(value) for name, value in parameters.items()})
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"success", "data", "nextCursor"}
    assert body["success"] is True
    return body


def refused_field(api: httpx.Client, path: str) -> str:
    response = api.get(path)
    assert response.status_code == 400
    (error,) = response.json()["errors"]
    return error["field"]


def test_the_objects_are_those_of_status(api: httpx.Client) -> None:
    body = page(api, VEHICLES)
    assert [each["vehicleId"] for each in body["data"]] == ["VEH-001", "VEH-002"]
    assert body["nextCursor"] is None
    for each in body["data"]:
        assert each == api.get(f"{VEHICLES}/{each['vehicleId']}/status").json()["data"]
    assert page(api, METERS)["data"][0] == api.get(f"{METERS}/{IDS[0]}/status").json()["data"]


@settings(deadline=None, max_examples=40)
@given(limits=st.lists(st.integers(1, len(IDS) + 1), min_size=1), silent=st.booleans())
def test_pages_of_any_size_hold_every_device_once(api: httpx.Client, limits: list[int], silent: bool) -> None:
    expected = [device_id for device_id in IDS if device_id in SILENT or not silent]
    parameters: dict[str, object] = {"staleSeconds": 3600} if silent else {}
    found: list[str] = []
    cursor: str | None = None
    for turn in range(len(IDS) + 1):
        limit = limits[turn % len(limits)]
        body = page(api, METERS, limit=limit, **parameters, **({} if cursor is None else {"cursor": cursor}))
        found += [each["meterId"] for each in body["data"]]
        cursor = body["nextCursor"]
        if cursor is None:
            break
        assert len(body["data"]) == limit
    assert cursor is None
    assert found == expected


def test_devices_that_come_or_report_in_between_move_no_other(api: httpx.Client, database_url: str) -> None:
    found, cursor = [], None
    for turn in range(20):
        body = page(api, METERS, limit=7, **({} if cursor is None else {"cursor": cursor}))
        found += [each["meterId"] for each in body["data"]]
        cursor = body["nextCursor"]
        if cursor is None:
            break
        store(database_url, meters=[MeterRow(f"{side}new-{turn}", NOW, 1.0) for side in ("0", "zz")])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM meter_status WHERE meter_id LIKE '%new-%'")
    assert [device_id for device_id in found if "new-" not in device_id] == IDS
    assert len(set(found)) == len(found)


def test_a_cursor_keeps_its_stale_seconds(api: httpx.Client) -> None:
    cursor = page(api, METERS, limit=1, staleSeconds=3600)["nextCursor"]
    rest = page(api, METERS, cursor=cursor)
    assert {each["meterId"] for each in rest["data"]} == SILENT - {min(SILENT)}
    assert refused_field(api, f"{METERS}?staleSeconds=60&cursor={cursor}") == "cursor"
    assert refused_field(api, f"{VEHICLES}?cursor={cursor}") == "cursor"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1&limit=1", "limit"),
        ("limit=%00", "limit"),
        ("limit=%FF", "limit"),
        ("limit=%ZZ", "limit"),
        ("staleSeconds=-1", "staleSeconds"),
        ("staleSeconds=1.5", "staleSeconds"),
        ("staleSeconds=31622401", "staleSeconds"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=nonsense", "cursor"),
        (f"cursor={'x' * 1001}", "cursor"),
        (f"cursor={write_cursor('meters', (None, 'a b'))}", "cursor"),
        (f"cursor={write_cursor('meters', (-1, 'A'))}", "cursor"),
        (f"cursor={write_cursor('meters', ('A',))}", "cursor"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_what_is_malformed_is_400_and_named(api: httpx.Client, query: str, field: str, accept: str) -> None:
    response = api.get(f"{METERS}?{query}", headers={"Accept": accept})
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_what_no_list_knows_is_400_and_named(api: httpx.Client) -> None:
    response = api.get(f"{METERS}?limit=5&color=red&prefix=A")
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == ["color", "prefix"]
    assert "staleSeconds" in response.json()["message"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/html", "application/json"),
        ("application/json, text/csv", "application/json"),
        ("text/csv;q=0.9, application/json", "application/json"),
        ("text/csv;q=0, */*", "application/json"),
        ("text/csv;q=nan, application/json;q=0.1", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        ("TEXT/CSV; header=present", "text/csv; charset=utf-8"),
        ("text/*", "text/csv; charset=utf-8"),
        ("*/*;q=0.5, text/csv", "text/csv; charset=utf-8"),
        ("application/json;q=0.2, text/csv;q=0.201", "text/csv; charset=utf-8"),
    ],
)
def test_the_kind_of_answer_follows_accept(api: httpx.Client, accept: str, media_type: str) -> None:
    for method in ("GET", "HEAD"):
        response = api.request(method, METERS, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"] == media_type
        assert "accept" in response.headers["vary"].lower()
        assert "content-length" not in response.headers or media_type == "application/json"


def test_csv_holds_the_same_as_json(api: httpx.Client) -> None:
    csv_only = {"Accept": "text/csv"}
    for path in (METERS, VEHICLES):
        objects = page(api, path)["data"]
        lines = api.get(path, headers=csv_only).text
        assert lines.startswith(",".join(objects[0]) + "\r\n")
        assert list(csv.DictReader(lines.splitlines())) == [
            {name: str(value) for name, value in each.items()} for each in objects
        ]
    assert len(api.get(METERS + "?limit=3", headers=csv_only).text.splitlines()) == 4
    silent = api.get(METERS + "?staleSeconds=3600", headers=csv_only).text.splitlines()[1:]
    assert [line.partition(",")[0] for line in silent] == sorted(SILENT)
    assert len(api.get(METERS + "?staleSeconds=31622400", headers=csv_only).text.splitlines()) == 1

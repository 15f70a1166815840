"""docs/answers.md: what its examples say is what the API answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database

PAGE = Path("docs/answers.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
WHOLE, LINKED, LOST, ALONE, FLEET = EXAMPLES
END = datetime(2026, 1, 31, 15, tzinfo=UTC)
MINUTES = [END - timedelta(minutes=minute) for minute in range(60, 0, -1)]
HALF = MINUTES[30]


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    with ExitStack() as stack:
        url = stack.enter_context(prepared_database(postgres_server))
        process = stack.enter_context(running_api(tmp_path_factory.mktemp("api"), url))
        client = stack.enter_context(api_client(process.http_url, timeout=30))
        for vehicle, meter_minutes in (("VEH-1", MINUTES), ("VEH-2", MINUTES), ("VEH-3", MINUTES[:30])):
            meter = vehicle.replace("VEH", "METER")
            store(
                url,
                [MeterRow(meter, at, 1.0) for at in meter_minutes],
                [VehicleRow(vehicle, at, 0.9) for at in MINUTES],
            )
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE meter_status SET usual_interval_seconds = 60")
            connection.execute("UPDATE vehicle_status SET usual_interval_seconds = 60")
        yield client, url


def performance(client: httpx.Client, vehicle: str, **asked: Any) -> dict[str, Any]:
    response = client.get(f"/v1/analytics/performance/{vehicle}", params=asked)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


def assert_has(answer: dict[str, Any], example: dict[str, Any]) -> None:
    assert {name: answer[name] for name in example} == example


def test_the_hour_of_a_vehicle_and_its_meter(api: tuple[httpx.Client, str]) -> None:
    client, _ = api
    data = performance(client, "VEH-1", hours=1, end=END.isoformat())
    assert_has(data, WHOLE)
    assert data["quality"]["status"] == "ok"


def test_a_link_that_ends_half_way(api: tuple[httpx.Client, str]) -> None:
    client, _ = api
    body = {"meterId": "METER-2", "validFrom": MINUTES[0].isoformat(), "validTo": HALF.isoformat()}
    assert client.put("/v1/vehicles/VEH-2/meter", json=body).status_code == 200
    assert_has(performance(client, "VEH-2", hours=1, end=END.isoformat()), LINKED)
    taken_back = client.delete("/v1/vehicles/VEH-2/meter", params={"validFrom": body["validFrom"]}).json()
    assert "follows its name again: meter METER-2" in taken_back["message"]
    assert_has(performance(client, "VEH-2", hours=1, end=END.isoformat()), WHOLE)


def test_a_meter_that_lost_the_last_half_of_the_hour(api: tuple[httpx.Client, str]) -> None:
    client, _ = api
    assert_has(performance(client, "VEH-3", hours=1, end=END.isoformat()), LOST)


def test_the_two_24_hours(api: tuple[httpx.Client, str]) -> None:
    client, _ = api
    end = ALONE["end"]
    assert performance(client, "VEH-1", hours=24, end=end)["period"] == ALONE
    assert client.get("/v1/analytics/fleet", params={"hours": 24, "end": end}).json()["data"]["period"] == FLEET

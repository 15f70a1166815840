"""Annulled readings over HTTP: as the command does it, for whoever may write, and described."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from analytics_api.description import ledger_schemas
from tests.api_process import MeterRow, VehicleRow, prepare, running_api, store

pytestmark = pytest.mark.citus_too

T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
ANNULMENTS = "/v1/readings/annulments"
STRANGER = {"Authorization": "Bearer stranger"}
WRITER = {"Authorization": "Bearer writer"}


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    prepare(database_url)
    store(
        database_url,
        [MeterRow("METER-1", T0 + timedelta(minutes=number), 0.25) for number in range(120)],
        [VehicleRow("VEH-1", T0 + timedelta(minutes=number), 0.2) for number in range(120)],
    )
    with (
        running_api(tmp_path, database_url, API_WRITE_TOKENS="writer") as process,
        httpx.Client(base_url=process.http_url, timeout=30) as client,
    ):
        yield client


def body(**more: object) -> dict[str, Any]:
    start, end = T0.isoformat(), (T0 + timedelta(hours=1)).isoformat()
    return {"deviceId": "METER-1", "from": start, "to": end, "reason": "Wh for kWh", "by": "Ada", **more}


def answers(client: httpx.Client) -> list[Any]:
    """All that is said of these devices."""
    end = (T0 + timedelta(hours=3)).isoformat().replace("+", "%2B")
    paths = (
        "/v1/telemetry/meter/METER-1/status",
        f"/v1/telemetry/meter/METER-1/history?from={T0.isoformat().replace('+', '%2B')}&to={end}&limit=1000",
        f"/v1/analytics/performance/VEH-1?hours=4&end={end}",
    )
    found = []
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["data"])
    return found


def test_they_leave_every_answer_and_come_back(api: httpx.Client) -> None:
    before = answers(api)
    tried = api.post(ANNULMENTS, json=body(dryRun=True), headers=WRITER).json()
    whose = {"id": None, "kind": "meter", "deviceId": "METER-1"}
    assert tried["data"] == {**whose, "readings": 60, "kwh": 15.0, "hours": 1, "statusChanged": False}
    assert answers(api) == before
    made = api.post(ANNULMENTS, json=body(kind="meter"), headers=WRITER).json()
    ledger_schemas.AnnulledAnswer.model_validate(made)
    assert made["data"] | {"id": None} == tried["data"]
    _, history, performance = answers(api)
    assert len(history) == 60
    assert performance["totalAcConsumed"] == before[2]["totalAcConsumed"] - 15
    listed = api.get(f"{ANNULMENTS}?deviceId=METER-1&kind=meter").json()
    ledger_schemas.AnnulmentPage.model_validate(listed)
    (one,) = listed["data"]
    assert (one["by"], one["reason"], one["readings"], one["restoredBy"]) == ("Ada", "Wh for kWh", 60, None)
    address = f"{ANNULMENTS}/{made['data']['id']}/restore"
    back = api.post(address, json={"by": "Bob"}, headers=WRITER).json()
    ledger_schemas.RestoredAnswer.model_validate(back)
    assert back["data"] == made["data"] | {"left": 0}
    assert answers(api) == before
    assert api.get(ANNULMENTS).json()["data"][0]["restoredBy"] == "Bob"
    again = api.post(address, json={"by": "Bob"}, headers=WRITER)
    assert (again.status_code, "nothing to restore" in again.json()["message"]) == (409, True)


@pytest.mark.parametrize(
    ("sent", "status", "fields"),
    [
        (body(deviceId="METER-9"), 404, set()),
        (body(kind="vehicle"), 404, set()),
        (body(kind="tram"), 400, {"kind"}),
        (body(to=T0.isoformat()), 400, {"to"}),
        (body(deviceId="Zähler", to="tomorrow"), 400, {"deviceId", "to"}),
        (body(to="2026-02-31T00:00:00Z"), 400, {"to"}),
        (body(reason="  ", by="two\nlines"), 400, {"reason", "by"}),
        ({"deviceId": "METER-1", "who": "me"}, 400, {"from", "to", "reason", "by", "who"}),
        ([], 400, {""}),
    ],
)
def test_what_is_refused_is_named(api: httpx.Client, sent: object, status: int, fields: set[str]) -> None:
    answer = api.post(ANNULMENTS, json=sent, headers=WRITER)
    assert answer.status_code == status, answer.text
    assert {problem["field"] for problem in answer.json()["errors"]} == fields
    assert "pattern" not in answer.text  # a rule in words, not as a pattern


def test_only_who_may_write_may_change_readings(api: httpx.Client) -> None:
    assert api.post(ANNULMENTS, json=body()).status_code == 401
    assert api.post(f"{ANNULMENTS}/1/restore", json={"by": "x"}, headers=STRANGER).status_code == 401
    for number, status in (("0", 400), ("x", 400), (f"{2**53}", 400), ("9" * 30, 400), ("7", 404)):
        assert api.post(f"{ANNULMENTS}/{number}/restore", json={"by": "x"}, headers=WRITER).status_code == status


def test_the_list_has_pages(api: httpx.Client) -> None:
    for number in range(5):
        start = T0 + timedelta(minutes=number)
        sent = body(**{"from": start.isoformat(), "to": (start + timedelta(minutes=1)).isoformat()})
        assert api.post(ANNULMENTS, json=sent, headers=WRITER).status_code == 200
    found, cursor = list[int](), ""
    while cursor is not None:
        page = api.get(f"{ANNULMENTS}?limit=2" + (f"&cursor={cursor}" if cursor else "")).json()
        found += [one["id"] for one in page["data"]]
        cursor = page["nextCursor"]
    assert found == sorted(found, reverse=True)
    assert len(found) == 5
    assert api.get(f"{ANNULMENTS}?deviceId=METER-9").json()["data"] == []
    assert api.get(f"{ANNULMENTS}?kind=tram").status_code == 400


@pytest.mark.one_server  # no worker lets that user in
def test_a_database_user_who_may_only_read_is_told_so(database_url: str, tmp_path: Path) -> None:
    prepare(database_url)
    store(database_url, [MeterRow("METER-1", T0, 0.25)])
    user = "annuls_nothing"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret' IN ROLE wattline_api".encode())
        try:
            settings = {"API_WRITE_TOKENS": "writer"}
            with running_api(tmp_path, f"{database_url}&user={user}&password=secret", **settings) as process:
                answer = httpx.post(f"{process.http_url}{ANNULMENTS}", json=body(), headers=WRITER, timeout=30)
            assert (answer.status_code, "wattline readings" in answer.json()["message"]) == (403, True)
        finally:
            connection.execute(f"DROP ROLE {user}".encode())

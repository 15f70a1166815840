"""A device is silent after three of its usual intervals, and after SILENT_AFTER_SECONDS: wherever it is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import psycopg
import pytest

from analytics_api.database.questions import Database
from analytics_api.live.stream import CHANGES
from config.settings import Settings
from ingestor.housekeeping import gauges
from ingestor.metrics import IngestMetrics
from postgres.connecting import connect
from telemetry.kinds import METER, VEHICLE
from tests.api_process import prepare, running_api

pytestmark = pytest.mark.citus_too

# Device: usual interval, seconds since its last sign of life.
FLEET: dict[str, tuple[float | None, int]] = {
    "MINUTE-10-s": (60, 10),
    "MINUTE-4-min": (60, 240),
    "MINUTE-6-min": (60, 360),
    "QUARTER-40-min": (900, 2400),
    "QUARTER-50-min": (900, 3000),
    "UNKNOWN-4-min": (None, 240),
    "UNKNOWN-6-min": (None, 360),
}
# By SILENT_AFTER_SECONDS.
SILENT = {
    30: ["MINUTE-4-min", "MINUTE-6-min", "QUARTER-50-min", "UNKNOWN-4-min", "UNKNOWN-6-min"],
    300: ["MINUTE-6-min", "QUARTER-50-min", "UNKNOWN-6-min"],
    3600: [],
}
INSERT = """
    INSERT INTO meter_status
    SELECT %s, 1, 230, moment, moment, %s FROM (SELECT now() - make_interval(secs => %s)) AS sign_of_life (moment)"""


def fill(url: str) -> None:
    prepare(url)
    with psycopg.connect(url, autocommit=True) as connection:
        for device_id, (interval, seconds) in FLEET.items():
            connection.execute(INSERT, [device_id, interval, seconds])


def test_gauge_and_stream_say_the_same(database_url: str) -> None:
    async def asked(silent_after: int) -> tuple[float, float | None]:
        metrics = IngestMetrics()
        async with await connect(database_url, autocommit=True) as session:
            await gauges.chore(silent_after, metrics, lambda: True).round(session)
        async with Database(database_url, "test") as database:
            rows = await database.rows(CHANGES, {"look_back": "1 s", "rows_max": 1, "silent_after": silent_after})
        streamed = sum(row[2][1] for row in rows if row[1] is None)
        counted = metrics.registry.get_sample_value("wattline_devices_silent", {"kind": METER.name})
        assert metrics.registry.get_sample_value("wattline_devices_silent", {"kind": VEHICLE.name}) == 0
        return streamed, counted

    fill(database_url)
    for silent_after, silent in SILENT.items():
        assert asyncio.run(asked(silent_after)) == (len(silent), len(silent))


def test_a_list_names_them(database_url: str, tmp_path: Path) -> None:
    fill(database_url)
    with (
        running_api(tmp_path, database_url, SILENT_AFTER_SECONDS="30") as process,
        httpx.Client(base_url=process.http_url, timeout=30) as api,
    ):
        for wanted, expected in (("true", SILENT[30]), ("false", sorted(set(FLEET) - set(SILENT[30])))):
            found, cursor = list[str](), ""
            while cursor is not None:
                page = api.get(f"/v1/telemetry/meter?silent={wanted}&limit=2" + (f"&cursor={cursor}" if cursor else ""))
                found += [device["meterId"] for device in page.json()["data"]]
                cursor = page.json()["nextCursor"]
            assert found == expected
        first = api.get("/v1/telemetry/meter?silent=true&limit=1").json()["nextCursor"]
        other = api.get(f"/v1/telemetry/meter?silent=false&cursor={first}")
        assert (other.status_code, other.json()["message"]) == (400, "cursor belongs to another silent")
        assert api.get("/v1/telemetry/meter?silent=1").status_code == 400
        assert len(api.get("/v1/telemetry/meter").json()["data"]) == len(FLEET)


def test_the_setting_is_five_minutes_unless_somebody_says_otherwise() -> None:
    assert Settings().silent_after_seconds == 300

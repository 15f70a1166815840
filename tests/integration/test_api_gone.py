"""Devices without a status, forgotten ones and those of which every reading was annulled: what is stored of them, and
what was, is answered; who was never seen is 404.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from ledger.annul import annul
from ledger.forget import forget
from ledger.stretch import Stretch
from postgres.connecting import connect
from telemetry.kinds import METER, VEHICLE, Kind
from tests.api_process import MeterRow, VehicleRow, prepare, running_api, store

pytestmark = pytest.mark.citus_too

T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
DEVICES = {"meter": "METER-1", "vehicle": "VEH-1"}


async def take_away(url: str, kind: Kind, how: str) -> None:
    device_id = DEVICES[kind.name]
    async with await connect(url, autocommit=True) as connection, connection.transaction():
        if how == "forgotten":
            await forget(connection, kind, [device_id], None, who="a test")
        else:
            stretch = Stretch(kind, device_id, T0, T0 + timedelta(hours=1))
            await annul(connection, stretch, reason="wrong", who="a test")


@pytest.mark.parametrize("how", ["forgotten", "annulled"])
def test_what_is_stored_of_a_device_without_a_status_is_answered(database_url: str, tmp_path: Path, how: str) -> None:
    prepare(database_url)
    minutes = [T0 + timedelta(minutes=number) for number in range(10)]
    store(
        database_url,
        [MeterRow("METER-1", minute, 1.0) for minute in minutes],
        [VehicleRow("VEH-1", minute, 0.9) for minute in minutes],
    )
    for kind in METER, VEHICLE:
        asyncio.run(take_away(database_url, kind, how))
    kept = {"forgotten": 10, "annulled": 0}[how]
    with (
        running_api(tmp_path, database_url) as process,
        httpx.Client(base_url=process.http_url, timeout=30) as client,
    ):
        for name, device_id in DEVICES.items():
            path = f"/v1/telemetry/{name}/{device_id}"
            assert len(client.get(f"{path}/history").json()["data"]) == kept
            table = client.get(f"{path}/history", headers={"Accept": "text/csv"})
            assert (table.status_code, len(table.text.splitlines())) == (200, kept + 1)
            status = client.get(f"{path}/status")
            assert (status.status_code, "has no status: it was forgotten" in status.json()["message"]) == (404, True)
            for nobody in client.get(f"{path}x/status"), client.get(f"{path}x/history"):
                assert (nobody.status_code, "was ever stored" in nobody.json()["message"]) == (404, True)
        data = client.get("/v1/analytics/performance/VEH-1").json()["data"]
        assert (data["totalAcConsumed"], data["totalDcDelivered"]) == (kept, kept * 0.9)
        assert data["quality"]["reasons"] == ([] if kept else ["annulled"])
        assert client.get("/v1/analytics/performance/VEH-1x").status_code == 404
        assert client.get("/v1/analytics/fleet").json()["data"]["totalVehicles"] == 0


def test_a_vehicle_whose_meter_was_annulled_whole_says_so(database_url: str, tmp_path: Path) -> None:
    """Its meter was seen, so it is known to have fed the vehicle; alone and in the fleet."""
    prepare(database_url)
    store(database_url, [MeterRow("METER-1", T0, 1.0)], [VehicleRow("VEH-1", T0, 0.9)])
    asyncio.run(take_away(database_url, METER, "annulled"))
    with (
        running_api(tmp_path, database_url) as process,
        httpx.Client(base_url=process.http_url, timeout=30) as client,
    ):
        alone = client.get("/v1/analytics/performance/VEH-1").json()["data"]
        (line,) = client.get("/v1/analytics/fleet/vehicles").json()["data"]
    for data in alone, line:
        assert (data["efficiencyRatio"], data["healthStatus"]) == (None, "UNKNOWN")
        assert (data["quality"]["status"], data["quality"]["reasons"]) == ("partial", ["annulled"])

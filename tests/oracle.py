"""What performance and fleet have to answer, added up reading by reading in plain Python, slowly.

It shares no statement and no rule with the API; what is compared to the last digit are counts and words, and what is
added up agrees but for the rounding of long sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

Row = tuple[Any, ...]
Stretch = tuple[datetime, datetime]

HOUR = timedelta(hours=1)
# No difference between sums of some hundred readings, and a digit of those that are shown.
RELATIVE = 1e-9
HALF_OF_4_DECIMALS = 1.01 * 0.5e-4
HALF_OF_2_DECIMALS = 1.01 * 0.5e-2


@dataclass(frozen=True)
class Stored:
    """Every row that an answer is made of, of one moment."""

    now: datetime
    meters: Sequence[Row]
    """(meter, ts, kWh)"""
    vehicles: Sequence[Row]
    """(vehicle, ts, kWh, °C)"""
    links: Sequence[Row]
    """(vehicle, meter, from, until or None)"""
    annulled: Sequence[Row]
    """(kind, device, ts)"""
    intervals: dict[tuple[str, str], float | None]
    """By (kind, device): those that have a status."""

    @classmethod
    async def read(cls, connection: AsyncConnection[Row]) -> Stored:
        """All there is; in a transaction that is REPEATABLE READ, of one moment."""

        async def rows(query: bytes) -> list[Row]:
            return await (await connection.execute(query)).fetchall()

        intervals = await rows(
            b"SELECT 'meter', meter_id, usual_interval_seconds FROM meter_status"
            b" UNION ALL SELECT 'vehicle', vehicle_id, usual_interval_seconds FROM vehicle_status"
        )
        return cls(
            (await rows(b"SELECT now()"))[0][0],
            await rows(b"SELECT meter_id, ts, kwh_consumed_ac FROM meter_readings_history"),
            await rows(b"SELECT vehicle_id, ts, kwh_delivered_dc, battery_temp FROM vehicle_readings_history"),
            await rows(b"SELECT vehicle_id, meter_id, valid_from, valid_to FROM vehicle_meter_links"),
            await rows(b"SELECT kind, device_id, ts FROM annulled_readings"),
            {(kind, device): seconds for kind, device, seconds in intervals},
        )

    def vehicle_ids(self) -> list[str]:
        """Those that have a status."""
        return [device for kind, device in self.intervals if kind == "vehicle"]


def expected(stored: Stored, vehicle_id: str, by_name: str | None, start: datetime, end: datetime) -> dict[str, Any]:
    """The answer about a vehicle over [start, end), its numbers not rounded. `by_name`: its meter by the convention."""
    feeds = _feeds(stored, vehicle_id, by_name, start, end)

    def is_fed(ts: datetime) -> bool:
        return any(since <= ts < until for _, (since, until) in feeds)

    def fed_by(meter_id: str, ts: datetime) -> bool:
        return any(meter_id == meter and since <= ts < until for meter, (since, until) in feeds)

    ac = [kwh for meter_id, ts, kwh in stored.meters if fed_by(meter_id, ts)]
    own = [row[1:] for row in stored.vehicles if row[0] == vehicle_id and start <= row[1] < end]
    paired = [kwh for ts, kwh, _ in own if is_fed(ts)]
    has_link = any(link[0] == vehicle_id or link[1] == by_name for link in stored.links)
    differs = len(paired) < len(own) and has_link
    ac_kwh, dc_kwh = math.fsum(ac), math.fsum(paired)
    ratio = dc_kwh / ac_kwh if ac_kwh > 0 else math.inf
    coverage = {
        "vehicle": _coverage(len(own), [(stored.intervals["vehicle", vehicle_id], (start, end))], stored.now),
        "meter": _coverage(
            len(ac), [(stored.intervals.get(("meter", meter)), stretch) for meter, stretch in feeds], stored.now
        ),
    }
    annulled = any(
        (kind == "vehicle" and device == vehicle_id and start <= ts < end) or (kind == "meter" and fed_by(device, ts))
        for kind, device, ts in stored.annulled
    )
    reasons = {
        "meter_gap": (coverage["meter"] or 1) < 0.9 or coverage["meter"] == 0,
        "vehicle_gap": (coverage["vehicle"] or 1) < 0.9 or coverage["vehicle"] == 0,
        "ratio_above_one": 1.02 < ratio < math.inf,
        "link_changed": differs,
        "annulled": annulled,
    }
    quality: dict[str, Any] = {
        "status": "impossible" if reasons["ratio_above_one"] else "partial" if any(reasons.values()) else "ok",
        "coverage": coverage,
        "reasons": [reason for reason, speaks in reasons.items() if speaks],
    }
    if differs:
        quality["paired"] = {"ac": ac_kwh, "dc": dc_kwh}
    return {
        "vehicleId": vehicle_id,
        "totalAcConsumed": ac_kwh,
        "totalDcDelivered": math.fsum(kwh for _, kwh, _ in own),
        "efficiencyRatio": ratio if ratio < math.inf else None,
        "avgBatteryTemp": math.fsum(celsius for _, _, celsius in own) / len(own) if own else None,
        "readingsCount": {"vehicle": len(own), "meter": len(ac)},
        "healthStatus": _health(ratio),
        "quality": quality,
    }


def assert_answers(answer: dict[str, Any], want: dict[str, Any]) -> None:
    """Every field of an answer is what it has to be; words where no rounding decides."""
    ratio = want["efficiencyRatio"]
    assert answer["vehicleId"] == want["vehicleId"]
    assert answer["readingsCount"] == want["readingsCount"]
    for name in ("totalAcConsumed", "totalDcDelivered", "efficiencyRatio"):
        assert answer[name] == _near(want[name]), name
    shown = answer["efficiencyRatio"]
    assert answer["efficiencyPercent"] == (None if shown is None else f"{shown:.2%}")
    temperature = want["avgBatteryTemp"]
    assert answer["avgBatteryTemp"] == (
        None if temperature is None else pytest.approx(temperature, rel=RELATIVE, abs=HALF_OF_2_DECIMALS)
    )
    assert {**answer["quality"], "coverage": None, "paired": None} == {
        **want["quality"],
        "coverage": None,
        "paired": None,
    }
    for side, share in want["quality"]["coverage"].items():
        assert answer["quality"]["coverage"][side] == _near(share), side
    assert answer["quality"].keys() == want["quality"].keys()
    for side, kwh in want["quality"].get("paired", {}).items():
        assert answer["quality"]["paired"][side] == _near(kwh), side
    if ratio is None or min(abs(ratio - edge) for edge in (0.7, 0.85, 1.02)) > 1e-8:
        assert answer["healthStatus"] == want["healthStatus"]


def expected_summary(vehicles: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the fleet's numbers have to be, its sums not rounded."""
    judged = [vehicle for vehicle in vehicles if vehicle["healthStatus"] != "UNKNOWN"]
    ac = math.fsum(vehicle["totalAcConsumed"] for vehicle in judged)
    dc = math.fsum(vehicle["quality"].get("paired", {"dc": vehicle["totalDcDelivered"]})["dc"] for vehicle in judged)
    count = {
        health: sum(vehicle["healthStatus"] == health for vehicle in vehicles)
        for health in ("CRITICAL", "WARNING", "HEALTHY", "UNKNOWN")
    }
    status = [vehicle["quality"]["status"] for vehicle in vehicles]
    return {
        "totalVehicles": len(vehicles),
        "averageEfficiency": math.fsum(each["efficiencyRatio"] for each in judged) / len(judged) if judged else None,
        "fleetEfficiency": dc / ac if judged else None,
        "criticalCount": count["CRITICAL"],
        "warningCount": count["WARNING"],
        "healthyCount": count["HEALTHY"],
        "unknownCount": count["UNKNOWN"],
        "impossibleCount": status.count("impossible"),
        "partialCount": status.count("partial"),
        "totalAcConsumed": math.fsum(vehicle["totalAcConsumed"] for vehicle in vehicles),
        "totalDcDelivered": math.fsum(vehicle["totalDcDelivered"] for vehicle in vehicles),
    }


def assert_summary(answer: dict[str, Any], want: dict[str, Any]) -> None:
    """Every field of the fleet's numbers but its period."""
    assert answer.keys() - {"period"} == want.keys()
    for name, value in want.items():
        assert answer[name] == (value if isinstance(value, int) else _near(value)), name


def _feeds(
    stored: Stored, vehicle_id: str, by_name: str | None, start: datetime, end: datetime
) -> list[tuple[str, Stretch]]:
    """Which meter fed the vehicle when, in [start, end)."""
    last = datetime.max.replace(tzinfo=UTC)
    found = [(meter, (since, until or last)) for vehicle, meter, since, until in stored.links if vehicle == vehicle_id]
    if by_name is not None:
        free: list[Stretch] = [(start, min([last, *(since for _, (since, _) in found)]))]
        for _, meter, since, until in stored.links:
            if meter == by_name:
                free = [
                    part
                    for begin, finish in free
                    for part in ((begin, min(finish, since)), (max(begin, until or last), finish))
                    if part[0] < part[1]
                ]
        found += [(by_name, stretch) for stretch in free]
    seen = {device for kind, device in stored.intervals if kind == "meter"}
    seen |= {meter for meter, ts, _ in stored.meters if start <= ts < end}
    seen |= {device for kind, device, ts in stored.annulled if kind == "meter" and start <= ts < end}
    clipped = [(meter, (max(since, start), min(until, end))) for meter, (since, until) in found if meter in seen]
    return [(meter, stretch) for meter, stretch in clipped if stretch[0] < stretch[1]]


def _coverage(received: int, parts: Sequence[tuple[float | None, Stretch]], now: datetime) -> float | None:
    wanted = 0.0
    for interval, (since, until) in parts:
        if interval is None:
            return None
        wanted += max(0.0, (min(until, now) - since).total_seconds()) / interval
    whole = math.floor(wanted + 1e-6)
    return min(1.0, received / whole) if whole else None


def _health(ratio: float) -> str:
    if ratio > 1.02:
        return "UNKNOWN"
    return "HEALTHY" if ratio >= 0.85 else "WARNING" if ratio >= 0.70 else "CRITICAL"


def _near(value: float | None) -> Any:
    return value if value is None else pytest.approx(value, rel=RELATIVE, abs=HALF_OF_4_DECIMALS)

"""Performance is what adding up the stored readings gives, whatever they are and wherever the window lies."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from analytics_api.analytics.pairs import MeterConvention
from analytics_api.analytics.performance import PERFORMANCE, performance_parameters
from analytics_api.http.parameters import Window
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import ensure_partitions
from postgres.connecting import connect
from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database

pytestmark = pytest.mark.citus_too

END = datetime(2026, 1, 31, 14, tzinfo=UTC)
HALF_OF_4_DECIMALS = 0.5e-4
HALF_OF_2_DECIMALS = 0.5e-2
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """The API and the database behind it."""

    client: httpx.Client
    url: str

    def performance(self, vehicle_id: str, hours: int, end: datetime = END) -> dict[str, object]:
        response = self.client.get(
            f"/v1/analytics/performance/{vehicle_id}", params={"hours": hours, "end": end.isoformat()}
        )
        assert response.status_code == 200, response.text
        data: dict[str, object] = response.json()["data"]
        return data


@pytest.fixture(scope="module")
def served(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url, METER_ID_CONVENTION="CAR.:BOX.") as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        yield Served(client, url)


# Times of readings, in seconds before the end of the window: dense around both of its ends and beyond them.
offsets = st.one_of(st.integers(-10, 10), st.integers(3590, 3610), st.integers(0, 3600))
energy = st.floats(min_value=0, max_value=1e6)
meter_readings = st.dictionaries(offsets, energy, max_size=12)
vehicle_readings = st.dictionaries(offsets, st.tuples(energy, st.floats(min_value=-100, max_value=200)), max_size=12)


@settings(deadline=None, max_examples=40)
@given(meter=meter_readings, vehicle=vehicle_readings)
@example(meter=dict.fromkeys(range(1, 25), 1.0), vehicle=dict.fromkeys(range(1, 25), (0.85, 20.0)))
@example(meter={0: 1.0, 3600: 2.0, 3601: 4.0}, vehicle={0: (8.0, 1.0), 3600: (16.0, 2.0), 3601: (32.0, 3.0)})
def test_the_answer_is_the_sum_of_the_rows(
    served: Served, meter: dict[int, float], vehicle: dict[int, tuple[float, float]]
) -> None:
    number = next(_numbers)
    at = {offset: END - timedelta(seconds=offset) for offset in (*meter, *vehicle)}
    known = VehicleRow(f"CAR.{number}", END - timedelta(days=9), 7.0)  # it has a status, whatever the example is
    store(
        served.url,
        meters=[MeterRow(f"BOX.{number}", at[offset], kwh) for offset, kwh in meter.items()],
        vehicles=[
            known,
            *(VehicleRow(f"CAR.{number}", at[s], kwh, battery_temp=temp) for s, (kwh, temp) in vehicle.items()),
        ],
    )
    data = served.performance(f"CAR.{number}", 1)

    inside = [offset for offset in at if 0 < offset <= 3600]  # [start, end)
    ac = math.fsum(meter[offset] for offset in inside if offset in meter)
    dc = math.fsum(vehicle[offset][0] for offset in inside if offset in vehicle)
    temperatures = [vehicle[offset][1] for offset in inside if offset in vehicle]
    assert data["readingsCount"] == {
        "vehicle": len(temperatures),
        "meter": sum(offset in meter for offset in inside),
    }
    assert data["totalAcConsumed"] == pytest.approx(ac, rel=1e-9, abs=1.01 * HALF_OF_4_DECIMALS)
    assert data["totalDcDelivered"] == pytest.approx(dc, rel=1e-9, abs=1.01 * HALF_OF_4_DECIMALS)
    mean = math.fsum(temperatures) / len(temperatures) if temperatures else None
    assert data["avgBatteryTemp"] == (mean and pytest.approx(mean, rel=1e-9, abs=1.01 * HALF_OF_2_DECIMALS))
    assert_judged(data, ac, dc)


def assert_judged(data: dict[str, object], ac: float, dc: float) -> None:
    if ac == 0 or not math.isfinite(dc / ac):
        assert (data["efficiencyRatio"], data["efficiencyPercent"], data["healthStatus"]) == (None, None, "UNKNOWN")
        return
    ratio = dc / ac
    if ratio > 1.02 + 1e-8:
        assert data["healthStatus"] == "UNKNOWN"
        assert data["quality"]["status"] == "impossible"  # type: ignore[index]
        return
    assert data["efficiencyRatio"] == pytest.approx(ratio, rel=1e-9, abs=1.01 * HALF_OF_4_DECIMALS)
    if min(abs(ratio - edge) for edge in (0.7, 0.85, 1.02)) > 1e-8:
        assert data["healthStatus"] == ("HEALTHY" if ratio > 0.85 else "WARNING" if ratio > 0.70 else "CRITICAL")


def test_24_hours_of_85_percent_are_healthy(served: Served) -> None:
    hours = [END - timedelta(hours=hour) for hour in range(24, 0, -1)]
    store(
        served.url,
        meters=[MeterRow("BOX.healthy", at, 1.0) for at in hours],
        vehicles=[VehicleRow("CAR.healthy", at, 0.85) for at in hours],
    )
    data = served.performance("CAR.healthy", 24)
    assert (data["totalAcConsumed"], data["totalDcDelivered"]) == (24, 20.4)
    assert (data["efficiencyPercent"], data["healthStatus"]) == ("85.00%", "HEALTHY")


def test_a_month_is_one_window(served: Served) -> None:
    days = [END - timedelta(days=day) for day in range(32, -1, -1)]
    store(served.url, vehicles=[VehicleRow("CAR.month", at, 1.0) for at in days])
    assert served.performance("CAR.month", 744)["totalDcDelivered"] == 31


def test_a_vehicle_outside_the_convention_has_no_meter(served: Served) -> None:
    at = END - timedelta(minutes=1)
    store(served.url, meters=[MeterRow("METER-5", at, 1.0)], vehicles=[VehicleRow("VEH-5", at, 0.9)])
    data = served.performance("VEH-5", 1)
    assert (data["totalAcConsumed"], data["totalDcDelivered"], data["healthStatus"]) == (0, 0.9, "UNKNOWN")


def linked(served: Served, vehicle_id: str, *feeds: tuple[str, datetime, datetime | None]) -> None:
    with psycopg.connect(served.url) as connection:
        connection.cursor().executemany(
            "INSERT INTO vehicle_meter_links VALUES (%s, %s, %s, %s)", [(vehicle_id, *feed) for feed in feeds]
        )


def test_a_meter_counts_while_it_feeds_the_vehicle(served: Served) -> None:
    """[valid_from, valid_to), to the microsecond; the meter of the convention counts before the first link only."""
    us, first, second = timedelta(microseconds=1), END - timedelta(minutes=40), END - timedelta(minutes=20)
    store(
        served.url,
        meters=[
            *(MeterRow("L.1", at, kwh) for at, kwh in ((first - us, 1), (first, 2), (second - us, 4), (second, 8))),
            *(MeterRow("L.2", at, kwh) for at, kwh in ((second - us, 16), (second, 32), (END - us, 64), (END, 128))),
            MeterRow("BOX.linked", first - us, 256),
            MeterRow("BOX.linked", first, 512),
        ],
        vehicles=[VehicleRow("CAR.linked", first, 1.0)],
    )
    linked(served, "CAR.linked", ("L.1", first, second), ("L.2", second, None))
    data = served.performance("CAR.linked", 1)
    assert (data["totalAcConsumed"], data["readingsCount"]) == (2 + 4 + 32 + 64 + 256, {"vehicle": 1, "meter": 5})


def test_links_outside_the_window_feed_nothing(served: Served) -> None:
    start = END - timedelta(hours=1)
    at = END - timedelta(minutes=30)
    store(
        served.url,
        meters=[MeterRow(meter_id, at, 1.0) for meter_id in ("O.1", "O.2", "BOX.outside")],
        vehicles=[VehicleRow("CAR.outside", at, 1.0)],
    )
    linked(served, "CAR.outside", ("O.1", start - timedelta(days=1), start), ("O.2", END, None))
    data = served.performance("CAR.outside", 1)
    assert (data["totalAcConsumed"], data["healthStatus"]) == (0, "UNKNOWN")


def test_a_link_from_today_on_leaves_yesterday_as_it_was(served: Served) -> None:
    """The ratio is that of the time with a meter, both sides of it: the end of a link is no jump in efficiency."""
    minutes = [END - timedelta(minutes=minute) for minute in range(60, 0, -1)]
    store(
        served.url,
        meters=[MeterRow("BOX.today", at, 1.0) for at in minutes],
        vehicles=[VehicleRow("CAR.today", at, 0.9) for at in minutes],
    )
    assert served.performance("CAR.today", 1)["efficiencyPercent"] == "90.00%"
    linked(served, "CAR.today", ("never.seen", minutes[50], None))
    data = served.performance("CAR.today", 1)
    assert (data["totalAcConsumed"], data["efficiencyPercent"]) == (50, "90.00%")
    linked(served, "CAR.today", ("BOX.today", minutes[30], minutes[40]))
    data = served.performance("CAR.today", 1)
    assert (data["totalAcConsumed"], data["totalDcDelivered"], data["efficiencyPercent"]) == (40, 54, "90.00%")
    assert data["quality"] == {
        "status": "partial",
        "coverage": {"vehicle": None, "meter": None},
        "reasons": ["link_changed"],
        "paired": {"ac": 40, "dc": 36},
    }


def test_a_meter_of_another_vehicle_does_not_count_by_its_name(served: Served) -> None:
    minutes = [END - timedelta(minutes=minute) for minute in range(60, 0, -1)]
    store(
        served.url,
        meters=[MeterRow("BOX.mine", at, 1.0) for at in minutes],
        vehicles=[VehicleRow(car, at, 0.8) for at in minutes for car in ("CAR.mine", "CAR.guest")],
    )
    linked(served, "CAR.guest", ("BOX.mine", minutes[10], minutes[20]))
    guest, mine = served.performance("CAR.guest", 1), served.performance("CAR.mine", 1)
    assert (guest["totalAcConsumed"], mine["totalAcConsumed"]) == (10, 50)
    assert (guest["efficiencyPercent"], mine["efficiencyPercent"]) == ("80.00%", "80.00%")


@pytest.mark.parametrize(
    ("meter_minutes", "reasons", "share"),
    [(60, [], 1.0), (54, [], 0.9), (53, ["meter_gap"], 0.8833), (0, ["meter_gap"], 0.0)],
)
def test_coverage_is_what_came_of_what_was_to_come(
    served: Served, meter_minutes: int, reasons: list[str], share: float
) -> None:
    number = f"gap{next(_numbers)}"
    minutes = [END - timedelta(minutes=minute) for minute in range(60, -1, -1)]
    store(
        served.url,
        meters=[MeterRow(f"BOX.{number}", at, 1.0) for at in [*minutes[:meter_minutes], END]],
        vehicles=[VehicleRow(f"CAR.{number}", at, 0.9) for at in minutes],
    )
    with psycopg.connect(served.url) as connection:
        for query in (
            "UPDATE meter_status SET usual_interval_seconds = 60 WHERE meter_id = %s",
            "UPDATE vehicle_status SET usual_interval_seconds = 60 WHERE vehicle_id = %s",
        ):
            assert connection.execute(query.encode(), [("BOX." if "meter" in query else "CAR.") + number]).rowcount == 1
    quality = served.performance(f"CAR.{number}", 1)["quality"]
    assert quality["coverage"] == {"vehicle": 1, "meter": share}  # type: ignore[index]
    assert [each for each in quality["reasons"] if each != "ratio_above_one"] == reasons  # type: ignore[index]


def test_a_link_makes_a_meter_of_any_name_count(served: Served) -> None:
    at = END - timedelta(hours=500)
    store(served.url, meters=[MeterRow("any", at, 2.0)], vehicles=[VehicleRow("any", at, 1.8)])
    linked(served, "any", ("any", at, at + timedelta(microseconds=1)))
    data = served.performance("any", 744)
    assert (data["totalAcConsumed"], data["efficiencyPercent"]) == (2, "90.00%")


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("linked_days", [0, 3], ids=["convention", "links"])
@pytest.mark.one_server  # its plan
def test_the_plan_reads_the_indexes_of_the_days_in_the_window(database_url: str, plan: str, linked_days: int) -> None:
    days = [END.replace(hour=0) - timedelta(days=number) for number in range(10)]

    async def prepare() -> None:
        async with await connect(database_url, autocommit=True) as connection:
            await migrate(connection)
            await ensure_partitions(connection, [day.date() for day in days])

    asyncio.run(prepare())
    period = Window(days[4], days[2])
    values = performance_parameters(MeterConvention("CAR.", "BOX."), "CAR.1", period)
    prepared = PERFORMANCE % {"vehicle_id": "$1", "meter_id": "$2", "start": "$3", "end": "$4"}
    with psycopg.connect(database_url, autocommit=True) as connection:
        # 20 devices, each once a minute in the first hour of each day.
        connection.execute(
            "INSERT INTO meter_readings_history SELECT 'BOX.' || device, day + minute * interval '1 minute', 1, 230"
            " FROM unnest(%s::timestamptz[]) AS day, generate_series(0, 59) minute, generate_series(0, 19) device",
            [days],
        )
        connection.execute(
            "INSERT INTO vehicle_readings_history SELECT replace(meter_id, 'BOX', 'CAR'), ts, 50, 0.9, 20"
            " FROM meter_readings_history"
        )
        connection.execute("INSERT INTO vehicle_status VALUES ('CAR.1', 50, 0.9, 20, %(end)s, %(end)s)", {"end": END})
        for number in range(linked_days):
            feed = ["CAR.1", f"BOX.{number}", days[4 - number], days[3 - number]]
            connection.execute("INSERT INTO vehicle_meter_links VALUES (%s, %s, %s, %s)", feed)
        connection.execute("VACUUM ANALYZE")
        connection.execute(sql.SQL("SET plan_cache_mode = {}").format(sql.Identifier(plan)))
        connection.execute(f"PREPARE performance (text, text, timestamptz, timestamptz) AS {prepared}".encode())
        execute = sql.SQL("EXECUTE performance ({}, {}, {}, {})").format(
            *(values[name] for name in ("vehicle_id", "meter_id", "start", "end"))
        )
        ((_, ac_kwh, dc_kwh, *_),) = connection.execute(execute).fetchall()
        lines = [line for (line,) in connection.execute(sql.SQL("EXPLAIN (ANALYZE, COSTS OFF) ") + execute).fetchall()]
    assert (dc_kwh, ac_kwh) == (pytest.approx(0.9 * 120), 120)
    assert any("$1" in line for line in lines) == (plan == "force_generic_plan")
    executed = [line for line in lines if "_readings_history_" in line and "never executed" not in line]
    assert executed
    assert all("Index Only Scan" in line for line in executed), "\n".join(lines)
    read = {day for day in days if any(f"{day:%Y%m%d}" in line or f"{day:%Y_%m_%d}" in line for line in executed)}
    assert read == {days[3], days[4]}, "\n".join(lines)

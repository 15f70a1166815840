"""How quickly are questions answered over a full day of the reference fleet (28.8 million rows)?

Loads the day itself, rolls it with wattline's own roller, then asks PostgreSQL wattline's own statements and the API
over HTTP. Server times are those of EXPLAIN ANALYZE, so that they are PostgreSQL's and not the network's; plans are
looked at as well: which partitions, and whether the index alone was enough.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import psycopg

from analytics_api.analytics.fleet_figures import FLEET, FLEET_SECONDS_MAX, FleetPeriod, fleet_parameters
from analytics_api.analytics.pairs import MeterConvention
from analytics_api.analytics.performance import PERFORMANCE, performance_parameters
from analytics_api.database.questions import FOR_MANY_ROWS, Query
from analytics_api.http.parameters import Window
from analytics_api.readings.status import NEWEST
from benchmarks.cpu import cpu_seconds
from benchmarks.day import DEVICES_MAX, DIGITS, HOURS, load_day, vacuum
from benchmarks.errors import BenchmarkError
from benchmarks.plans import QueryPlan, explain
from benchmarks.report import BLUE, GREY, ORANGE, Report, Row, add_output, report_for, say
from benchmarks.servers import Servers, servers, wait_ready
from embedded.ports import LOOPBACK, free_ports
from ingestor.hourly import hour_of, roll
from postgres.connecting import connect
from telemetry.kinds import VEHICLE

SUMMARY = "server time and requests a second over a full day of the reference fleet"
CONVENTION = MeterConvention("VEH-", "METER-")
ONE_DEVICE_TURNS = 200
FLEET_TURNS = 7
NEW_FLEET_TURNS = 3
HTTP_SECONDS = 10
HTTP_CONNECTIONS = 64
LOAD_RATE = 333
SUMS: tuple[LiteralString, ...] = ("meter_hourly", "vehicle_hourly", "hourly_invalidations")
HISTORIES: tuple[LiteralString, ...] = ("meter_readings_history", "vehicle_readings_history")

STATUS = NEWEST[VEHICLE.name]
# One vehicle's: the question, the API's statement, the bar in ms.
QUESTIONS: tuple[tuple[str, Query, float], ...] = (
    ("status", STATUS, 2.0),
    ("performance, 24 h", PERFORMANCE, 5.0),
)

# The same answer from the readings alone.
FLEET_FROM_RAW_ROWS: LiteralString = """
    SELECT vehicle_status.vehicle_id, ac.kwh, dc.kwh, dc.temperature, dc.readings, ac.readings
    FROM vehicle_status
    LEFT JOIN (
        SELECT vehicle_id, sum(kwh_delivered_dc) AS kwh, avg(battery_temp) AS temperature, count(*) AS readings
        FROM vehicle_readings_history WHERE ts >= %(start)s AND ts < %(end)s GROUP BY vehicle_id
    ) AS dc USING (vehicle_id)
    LEFT JOIN (
        SELECT meter_id, sum(kwh_consumed_ac) AS kwh, count(*) AS readings
        FROM meter_readings_history WHERE ts >= %(start)s AND ts < %(end)s GROUP BY meter_id
    ) AS ac ON ac.meter_id = %(meter_prefix)s || substr(vehicle_status.vehicle_id, length(%(vehicle_prefix)s) + 1)"""


# One reading of each device, within the last minutes.
NEW_METERS: LiteralString = """
    WITH new AS (
        INSERT INTO meter_readings_history (meter_id, ts, kwh_consumed_ac, voltage)
        SELECT 'METER-' || device, now() - device * interval '1 ms', 0.2, 230
        FROM generate_series(1, %(pairs)s) AS device
        RETURNING *
    )
    INSERT INTO meter_status (meter_id, kwh_consumed_ac, voltage, last_reading, last_updated)
    SELECT meter_id, kwh_consumed_ac, voltage, ts, now() FROM new"""
NEW_VEHICLES: LiteralString = """
    WITH new AS (
        INSERT INTO vehicle_readings_history (vehicle_id, ts, soc, kwh_delivered_dc, battery_temp)
        SELECT 'VEH-' || device, now() - device * interval '1 ms', 50, 0.18, 30
        FROM generate_series(1, %(pairs)s) AS device
        RETURNING *
    )
    INSERT INTO vehicle_status (vehicle_id, soc, kwh_delivered_dc, battery_temp, last_reading, last_updated)
    SELECT vehicle_id, soc, kwh_delivered_dc, battery_temp, ts, now() FROM new"""
TAKE_AWAY: LiteralString = "TRUNCATE meter_readings_history, vehicle_readings_history, meter_status, vehicle_status"


@dataclass(frozen=True)
class Day:
    """What was loaded."""

    url: str
    devices: int
    start: datetime

    @property
    def end(self) -> datetime:
        """The running hour's start: no reading is later."""
        return self.start + timedelta(hours=HOURS)

    def vehicle(self, rng: Random) -> str:
        """Any of them."""
        return f"VEH-{rng.randint(1, self.devices):0{DIGITS}}"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices", type=int, default=10_000, help="meters, and as many vehicles (default %(default)s)"
    )
    parser.add_argument(
        "--new-devices", type=int, default=100_000, help="meters and vehicles that have just come (default %(default)s)"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the tables; 0 when every plan read what it should and nothing else."""
    if not 1 <= args.devices <= DEVICES_MAX:
        raise BenchmarkError(f"--devices must be from 1 to {DEVICES_MAX}")
    report = report_for("queries", args)
    # Checkpoints of the load are not what is measured.
    with servers(max_wal_size="8GB") as both:
        day = Day(both.database.url, args.devices, hour_of(datetime.now(UTC)) - timedelta(hours=HOURS))
        with psycopg.connect(day.url, autocommit=True) as connection:
            _new_fleet(connection, args.new_devices, report)
        _load(day, report)
        with psycopg.connect(day.url, autocommit=True) as connection:
            clean = _one_device(connection, day, report)
            fleet = _fleet(connection, day, report)
        _http(both, day, report)
    with report.picture(2) as (left, right):
        one = report.tables["one device"]
        left.bar([str(row["question"]) for row in one], [float(row["median ms"]) for row in one], color=BLUE)
        left.set_ylabel("server time, median, ms")
        drawn = right.bar(list(fleet), list(fleet.values()), color=[BLUE, ORANGE, GREY])
        right.bar_label(drawn, [f"{value:,.0f}" for value in fleet.values()], fontsize=8)
        right.set_yscale("log")
        right.set_ylabel("fleet over 24 h, server time, median, ms")
    report.write()
    return 0 if clean else 1


def _new_fleet(connection: psycopg.Connection[Any], devices: int, report: Report) -> None:
    """The fleet's statement over devices that have just come: no statistics say how many there are."""
    say(f"{devices:,} devices come")
    for query in NEW_METERS, NEW_VEHICLES:
        connection.execute(query, {"pairs": devices // 2})
    parameters = fleet_parameters(CONVENTION, FleetPeriod(HOURS, datetime.now(UTC)))
    with _as_the_api(connection):
        times = [explain(connection, FLEET, parameters).milliseconds for _ in range(NEW_FLEET_TURNS)]
    connection.execute(TAKE_AWAY)
    report.table("fleet that has just come", [{"devices": devices, "slowest, ms": max(times)}], {"slowest, ms": ",.0f"})
    report.bar(f"fleet of {devices:,} devices right after they came, ms", max(times), 2500)


def _load(day: Day, report: Report) -> None:
    readings = 2 * day.devices * 60 * HOURS
    say(f"loading {readings:,} readings")
    began = time.monotonic()
    load_day(day.url, day.devices, day.start)
    loaded = time.monotonic()
    vacuum(day.url, HISTORIES)
    say("rolling the day")
    rolled_from = time.monotonic()
    asyncio.run(_roll_all(day.url))
    rolled = time.monotonic()
    vacuum(day.url, SUMS)
    report.note(
        f"loaded {readings:,} readings in {loaded - began:.0f} s; rolled in {rolled - rolled_from:.1f} s, "
        f"{(rolled - rolled_from) / readings * 1e6:.2f} µs a reading"
    )


async def _roll_all(url: str) -> None:
    async with await connect(url, autocommit=True) as connection:
        while (rolled := await roll(connection)) is None or rolled.more:
            pass


def _one_device(connection: psycopg.Connection[Any], day: Day, report: Report) -> bool:
    """Status and performance of a vehicle, over the whole day that is there."""
    rng = Random(1)
    window = Window(day.start, day.end)
    days = {f"{moment:%Y%m%d}" for moment in (day.start, day.end - timedelta(seconds=1))}
    rows: list[Row] = []
    clean = True
    for question, query, bar in QUESTIONS:
        plans: list[QueryPlan] = []
        for _ in range(ONE_DEVICE_TURNS):
            vehicle = day.vehicle(rng)
            parameters: Mapping[str, object] = (
                {"device_id": vehicle} if query is STATUS else performance_parameters(CONVENTION, vehicle, window)
            )
            plans.append(explain(connection, query, parameters))
        times = sorted(plan.milliseconds for plan in plans)
        history = [scan for plan in plans for scan in plan.scans if "_history" in scan[1]]
        outside = {table for _, table in history if table[-8:] not in days}
        not_index_only = {f"{kind} on {table}" for kind, table in history if kind != "Index Only Scan"}
        fetches = sum(plan.heap_fetches for plan in plans)
        clean = clean and not outside and not not_index_only
        rows.append(
            {
                "question": question,
                "median ms": statistics.median(times),
                "p99 ms": times[int(len(times) * 0.99)],
                "pages": statistics.median(plan.pages for plan in plans),
                "partitions": len({table for _, table in history}),
                "heap fetches": fetches,
            }
        )
        if outside or not_index_only:
            report.note(
                f"{question}: read outside its window {outside or 'nothing'}, not by index alone {not_index_only}"
            )
        report.bar(f"{question}: median of server time, ms", statistics.median(times), bar)
    report.table("one device", rows, {"median ms": ".2f", "p99 ms": ".2f"})
    return clean


def _fleet(connection: psycopg.Connection[Any], day: Day, report: Report) -> dict[str, float]:
    """The statement behind summary and table, in three states of the sums."""
    period = FleetPeriod(HOURS, day.end)
    parameters = fleet_parameters(CONVENTION, period)
    states: dict[str, float] = {}
    with _as_the_api(connection):
        states["after a roll"] = _median(connection, FLEET, parameters)
    # The worst minute of an hour: an hour of readings that no sum knows. The clock cannot be set, so the last full hour
    # takes the running one's place.
    last_hour = {"h": day.end - timedelta(hours=1)}
    connection.execute("INSERT INTO hourly_invalidations VALUES ('meter', %(h)s), ('vehicle', %(h)s)", last_hour)
    with _as_the_api(connection):
        states["worst minute"] = _median(connection, FLEET, parameters)
    connection.execute("DELETE FROM hourly_invalidations")
    states["raw rows"] = _median(connection, FLEET_FROM_RAW_ROWS, parameters, turns=2)
    report.table(
        f"fleet of {day.devices:,} vehicles, 24 h",
        [
            {"state": state, "median ms": value, "of raw rows": value / states["raw rows"]}
            for state, value in states.items()
        ],
        {"median ms": ",.1f", "of raw rows": ".3f"},
    )
    report.bar("fleet right after a roll, ms", states["after a roll"], 100)
    report.bar("fleet in the worst minute, ms", states["worst minute"], 300)
    return states


@contextmanager
def _as_the_api(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """With the settings that it gives to the fleet's statement."""
    with connection.transaction():
        connection.execute(FOR_MANY_ROWS, [f"{FLEET_SECONDS_MAX}s"])
        yield


def _median(
    connection: psycopg.Connection[Any],
    query: Query,
    parameters: Mapping[str, object],
    turns: int = FLEET_TURNS,
) -> float:
    return statistics.median(explain(connection, query, parameters).milliseconds for _ in range(turns))


def _http(both: Servers, day: Day, report: Report) -> None:
    """Clients that poll, while the ingest runs at the reference load."""
    wrk = shutil.which("wrk")
    if wrk is None:
        report.note("HTTP: skipped, there is no wrk on PATH (Debian and Ubuntu: apt-get install wrk)")
        return
    ingestor = both.ingestor()
    port = free_ports(1)[0]
    api = both.python("wattline", "api", HOST=LOOPBACK, PORT=str(port))
    wait_ready(api, port)
    sizes = ("--meters", str(day.devices), "--vehicles", str(day.devices))
    fleet = both.python("wattline", "loadgen", *sizes, "--rate", str(LOAD_RATE), "--prefix", "")
    script = both.folder / "poll.lua"
    rows: list[Row] = []
    for question, path in (
        ("status", '"/v1/telemetry/vehicle/VEH-" .. id .. "/status"'),
        ("performance, 24 h", '"/v1/analytics/performance/VEH-" .. id'),
        ("fleet, 24 h", '"/v1/analytics/fleet"'),
    ):
        say(f"HTTP: {question}, {HTTP_CONNECTIONS} connections")
        script.write_text(
            f"request = function() local id = string.format('%0{DIGITS}d', math.random(1, {day.devices}))\n"
            f"  return wrk.format('GET', {path}) end\n",
            encoding="ascii",
        )
        before = cpu_seconds(api.pid)
        done = _wrk(wrk, script, port)
        requests = done["requests"]
        rows.append(
            {
                "question": question,
                "requests/s": requests / done["seconds"],
                "p50 ms": done["50%"],
                "p99 ms": done["99%"],
                "API CPU µs": (cpu_seconds(api.pid) - before) / max(1, requests) * 1e6,
                "not 200": done["failed"],
            }
        )
    report.table(
        f"HTTP, {HTTP_CONNECTIONS} connections, one API process, ingest at {LOAD_RATE}/s",
        rows,
        {"requests/s": ",.0f", "p50 ms": ".1f", "p99 ms": ".1f", "API CPU µs": ".0f"},
    )
    report.bar("status polled, requests/s", float(rows[0]["requests/s"]), 2000, at_least=True)
    for child in (fleet, api, ingestor.child):
        both.stop(child)


def _wrk(wrk: str, script: Path, port: int) -> dict[str, float]:
    """Its report, in numbers; latencies in ms."""
    done = subprocess.run(
        (
            *(wrk, "-t1", f"-c{HTTP_CONNECTIONS}", f"-d{HTTP_SECONDS}", "--latency"),
            *("-s", str(script), f"http://{LOOPBACK}:{port}/"),
        ),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    total = re.search(r"(\d+) requests in ([\d.]+)s", done)
    if total is None:
        raise BenchmarkError(f"wrk said nothing that can be read:\n{done}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    latencies = {
        share: float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
        for share, value, unit in re.findall(r"(50%|99%)\s+([\d.]+)(us|ms|s)\b", done)
    }
    return {
        "requests": float(total[1]),
        "seconds": float(total[2]),
        "failed": float(failed[1]) if failed else 0.0,
        **latencies,
    }

"""What does a cluster cost? The same readings and questions on one server and on the Citus cluster of CITUS_URL.

The one server is the coordinator's own, in a database without the extension, so that version, settings and disk are the
same. Both take turns. Sums of a day are written as they are and only the last hour has readings: what is asked reads
nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from random import Random

from analytics_api.analytics.fleet_figures import FLEET, FLEET_SECONDS_MAX, FleetPeriod, fleet_parameters
from analytics_api.analytics.performance import PERFORMANCE, performance_parameters
from analytics_api.database.questions import FOR_MANY_ROWS
from analytics_api.http.parameters import Window
from analytics_api.readings.status import NEWEST
from benchmarks.queries import CONVENTION
from benchmarks.report import BLUE, ORANGE, Report, add_output, report_for, say
from ingestor.batch import Batch
from ingestor.hourly import hour_of
from ingestor.schema.distribution import SHARDS_DEFAULT, distribute
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.schema.up_to_date import bring_up_to_date
from ingestor.sink import Sink
from postgres.connecting import Session, connect
from telemetry.kinds import VEHICLE
from tests.citus import CITUS_URL, NOT_GIVEN, CitusCluster

SUMMARY = "flush, status, performance and fleet on one server and on a Citus cluster (CITUS_URL)"
HOURS = 24
BATCH_ROWS = 20_000
TURNS, FLEET_TURNS = 50, 3
TABLES = ("meter_readings_history", "vehicle_readings_history", "meter_status", "vehicle_status")

_SUMS = """
    INSERT INTO {kind}_hourly (hour, {kind}_id, {columns}, readings)
    SELECT %(start)s + hour * interval '1 hour', '{prefix}-' || device, {values}, 60
    FROM generate_series(0, %(hours)s - 1) AS hour CROSS JOIN generate_series(0, %(devices)s - 1) AS device"""
SUMS = (
    _SUMS.format(kind="meter", columns="kwh_consumed_ac", prefix="METER", values="6.0"),
    _SUMS.format(kind="vehicle", columns="kwh_delivered_dc, battery_temp_sum", prefix="VEH", values="5.2, 1800.0"),
)
INVALID = """
    INSERT INTO hourly_invalidations (kind, hour, place)
    SELECT kind, %s, place FROM hourly_places CROSS JOIN unnest('{meter,vehicle}'::text[]) AS kind"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="meters, and as many vehicles")
    parser.add_argument("--readings", type=int, default=200_000, help="that are flushed (default %(default)s)")
    parser.add_argument("--shards", type=int, default=SHARDS_DEFAULT, help="of the cluster (default %(default)s)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 also where there is no cluster."""
    if CITUS_URL is None:
        print(NOT_GIVEN)
        return 0
    report = report_for("citus", args)
    cluster = CitusCluster(CITUS_URL)
    with ExitStack() as stack:
        one = stack.enter_context(cluster.database(f"bench_{uuid.uuid4().hex}", spread=False))
        many = stack.enter_context(cluster.database(f"bench_{uuid.uuid4().hex}"))
        asyncio.run(_measured(args, {"one server": one, f"{len(cluster.workers)} workers": many}, report))
    report.write()
    return 0


async def _measured(args: argparse.Namespace, urls: dict[str, str], report: Report) -> None:
    end = hour_of(datetime.now(UTC))
    figures: dict[str, dict[str, float]] = {}
    sessions: dict[str, Session] = {}
    for name, url in urls.items():
        session = sessions[name] = await connect(url, autocommit=True)
        spread = None if name == "one server" else (lambda one: distribute(one, args.shards))
        await bring_up_to_date(session, name, spread)
        await ensure_partitions(session, [*days_ahead(end), (end - timedelta(hours=1)).date()])
        say(f"{name}: a day of {args.devices:,} pairs")
        for query in SUMS:
            parameters = {"start": end - timedelta(hours=HOURS), "hours": HOURS, "devices": args.devices}
            await session.execute(query.encode(), parameters)
        figures[name] = {"flush, readings/s": await _flushed(url, args, end)}
        for table in TABLES:
            await session.execute(f"ANALYZE {table}".encode())
        await session.execute("DELETE FROM hourly_invalidations")
    rng = Random(1)
    period, window = FleetPeriod(HOURS, end), Window(end - timedelta(hours=1), end)

    async def status(session: Session) -> None:
        await session.execute(NEWEST[VEHICLE.name], {"device_id": f"VEH-{rng.randrange(args.devices)}"})

    async def performance(session: Session) -> None:
        vehicle = f"VEH-{rng.randrange(args.devices)}"
        await session.execute(PERFORMANCE, performance_parameters(CONVENTION, vehicle, window), prepare=False)

    async def fleet(session: Session) -> None:
        async with session.transaction():
            await session.execute(FOR_MANY_ROWS, [f"{FLEET_SECONDS_MAX}s"])
            await session.execute(FLEET, fleet_parameters(CONVENTION, period), prepare=False)

    await _in_turn(sessions, "status, ms", status, TURNS, figures)
    await _in_turn(sessions, "performance, ms", performance, TURNS, figures)
    await _in_turn(sessions, "fleet from sums, ms", fleet, FLEET_TURNS, figures)
    for session in sessions.values():
        await session.execute(INVALID, [end - timedelta(hours=1)])
    await _in_turn(sessions, "fleet, last hour from readings, ms", fleet, FLEET_TURNS, figures)
    for session in sessions.values():
        await session.close()
    columns = next(iter(figures.values()))
    report.table("medians", [{"on": name, **row} for name, row in figures.items()], dict.fromkeys(columns, ",.1f"))
    with report.picture(1) as (axes,):
        for place, (name, color) in enumerate(zip(figures, (BLUE, ORANGE), strict=True)):
            values = [value for what, value in figures[name].items() if what.endswith("ms")]
            axes.bar([number + 0.4 * place for number in range(len(values))], values, 0.4, label=name, color=color)
        axes.set_xticks(range(4), ["status", "performance", "fleet", "fleet, worst"], fontsize=8)
        axes.set_yscale("log")
        axes.set_ylabel("median, ms, as a client sees it")
        axes.legend(fontsize=8, frameon=False)


async def _flushed(url: str, args: argparse.Namespace, end: datetime) -> float:
    """Readings a second through the ingestor's sink, over the last hour before `end`."""
    sink, seconds, end_us = Sink(url), 0.0, int(end.timestamp() * 1e6)
    for start in range(0, args.readings, BATCH_ROWS):
        batch = Batch()
        for number in range(start, min(start + BATCH_ROWS, args.readings), 2):
            device, ts_us = number // 2 % args.devices, end_us - 1 - (args.readings - number) * 15_000
            batch.rows["meter"].append((f"METER-{device}", ts_us, 0.1, 230.0))
            batch.rows["vehicle"].append((f"VEH-{device}", ts_us, 50.0, 0.087, 30.0))
        began = time.monotonic()
        await sink.store(batch)
        seconds += time.monotonic() - began
    await sink.close()
    return float(args.readings / seconds)


async def _in_turn(
    sessions: dict[str, Session],
    what: str,
    ask: Callable[[Session], Awaitable[None]],
    turns: int,
    figures: dict[str, dict[str, float]],
) -> None:
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(turns):
        for name, session in sessions.items():
            began = time.monotonic()
            await ask(session)
            times[name].append((time.monotonic() - began) * 1e3)
    for name, all_of_it in times.items():
        figures[name][what] = statistics.median(all_of_it)

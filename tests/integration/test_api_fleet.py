"""The fleet in numbers is what adding up the stored readings gives, whatever is summed, late, repeated or under way."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from analytics_api.analytics.fleet_figures import FLEET, FleetPeriod, VehicleFigures, fleet_parameters
from analytics_api.analytics.meters import MeterConvention
from analytics_api.http.cursors import microseconds, write_cursor
from ingestor.batch import Batch
from ingestor.hourly import HOUR, HOUR_US, hour_of, roll
from ingestor.schema.partitions import ensure_partitions
from ingestor.sink import Sink
from postgres.connecting import connect
from tests.api_client import api_client, async_api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database
from tests.waiting import wait_until, wait_until_async

CONVENTION = MeterConvention("VEH-", "METER-")
# An hour that is over: the roller may have summed what is the running hour of the periods here.
RUNNING = hour_of(datetime.now(UTC)) - HOUR
HALF_OF_4_DECIMALS = 1.01 * 0.5e-4
TABLES = (
    "meter_readings_history, vehicle_readings_history, meter_status, vehicle_status, meter_hourly, vehicle_hourly,"
    " hourly_invalidations, vehicle_meter_links"
)
_numbers = itertools.count(1)

Row = tuple[object, ...]


@dataclass(frozen=True)
class World:
    """A database, what writes to it, and the API in front of it."""

    runner: asyncio.Runner
    sink: Sink
    connection: AsyncConnection[Row]
    client: httpx.Client
    url: str

    def execute(self, query: str, parameters: Any = None) -> None:
        self.runner.run(self.connection.execute(query.encode(), parameters))


@pytest.fixture(scope="module")
def world(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url, METER_ID_CONVENTION="VEH-:METER-") as process,
        api_client(process.http_url, timeout=10) as client,
        asyncio.Runner() as runner,
    ):
        sink, connection = Sink(url), runner.run(connect(url, autocommit=True))
        yield World(runner, sink, connection, client, url)
        runner.run(sink.close())
        runner.run(connection.close())


@pytest.fixture
def empty(world: World) -> World:
    world.execute(f"TRUNCATE {TABLES}")
    return world


async def raw_figures(connection: AsyncConnection[Row], period: FleetPeriod) -> dict[str, VehicleFigures]:
    """The same from nothing but readings and links, reading by reading."""

    async def rows(query: str) -> list[Row]:
        return await (await connection.execute(query.encode(), [period.start, period.end])).fetchall()

    meters = await rows("SELECT meter_id, ts, kwh_consumed_ac FROM meter_readings_history WHERE ts >= %s AND ts < %s")
    vehicles = await rows(
        "SELECT vehicle_id, kwh_delivered_dc, battery_temp FROM vehicle_readings_history WHERE ts >= %s AND ts < %s"
    )
    links = await (await connection.execute(b"SELECT * FROM vehicle_meter_links")).fetchall()
    known = await (await connection.execute(b"SELECT vehicle_id FROM vehicle_status")).fetchall()
    figures = {}
    for (vehicle_id,) in known:
        feeds = [link[1:] for link in links if link[0] == vehicle_id] or [
            (CONVENTION.meter_of(str(vehicle_id)), period.start, None)
        ]
        fed = [
            kwh
            for meter_id, ts, kwh in meters
            if any(meter_id == meter and ts >= since and (until is None or ts < until) for meter, since, until in feeds)  # type: ignore[operator]
        ]
        own = [row[1:] for row in vehicles if row[0] == vehicle_id]
        temperature = math.fsum(each for _, each in own) / len(own) if own else None
        row = (vehicle_id, math.fsum(fed), math.fsum(kwh for kwh, _ in own), temperature, len(own), len(fed))  # type: ignore[arg-type]
        figures[str(vehicle_id)] = VehicleFigures.of(row)
    return figures


async def assert_exact(connection: AsyncConnection[Row], period: FleetPeriod) -> dict[str, VehicleFigures]:
    """FLEET and the readings, in one snapshot; the result is the readings'."""
    async with connection.transaction():
        await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = await (await connection.execute(FLEET, fleet_parameters(CONVENTION, period))).fetchall()
        expected = await raw_figures(connection, period)
    figures = {row[0]: VehicleFigures.of(row) for row in found}
    assert len(found) == len(figures)
    assert figures.keys() == expected.keys()
    for vehicle_id, want in expected.items():
        have = figures[vehicle_id]
        assert (have.vehicle_readings, have.meter_readings) == (want.vehicle_readings, want.meter_readings), vehicle_id
        assert have.ac_kwh == pytest.approx(want.ac_kwh, rel=1e-9, abs=0)
        assert have.dc_kwh == pytest.approx(want.dc_kwh, rel=1e-9, abs=0)
        assert have.temperature == (want.temperature and pytest.approx(want.temperature, rel=1e-9, abs=1e-7))
    return expected


def pages(world: World, limit: int, **parameters: Any) -> list[dict[str, object]]:
    """The table, page by page, all of one period."""
    found: list[dict[str, object]] = []
    periods = set()
    while True:
        response = world.client.get("/v1/analytics/fleet/vehicles", params={"limit": limit, **parameters})
        assert response.status_code == 200, response.text
        assert len(response.json()["data"]) <= limit
        found += response.json()["data"]
        periods.add(response.json()["period"]["end"])
        if (cursor := response.json()["nextCursor"]) is None:
            assert len(periods) == 1
            return found
        parameters = {**parameters, "cursor": cursor}


def assert_table(found: Sequence[dict[str, object]], expected: dict[str, VehicleFigures]) -> None:
    assert sorted(str(row["vehicleId"]) for row in found) == sorted(expected)
    for row in found:
        want = expected[str(row["vehicleId"])]
        assert row["totalAcConsumed"] == pytest.approx(want.ac_kwh, rel=1e-9, abs=HALF_OF_4_DECIMALS)
        assert row["totalDcDelivered"] == pytest.approx(want.dc_kwh, rel=1e-9, abs=HALF_OF_4_DECIMALS)
        assert row["readingsCount"] == {"vehicle": want.vehicle_readings, "meter": want.meter_readings}
        assert row["healthStatus"] == want.efficiency.health
    ratios = [row["efficiencyRatio"] for row in found]
    known = [ratio for ratio in ratios if ratio is not None]
    assert known == sorted(known)  # type: ignore[type-var]
    assert ratios == known + [None] * (len(ratios) - len(known))


# Moments in microseconds after the start of the running hour: dense at the edges of hours.
moments = st.builds(
    lambda hour, us: hour * HOUR_US + us,
    st.integers(-5, 0),
    st.one_of(st.sampled_from([0, 1, HOUR_US // 2, HOUR_US // 2 + 1, HOUR_US - 1]), st.integers(0, HOUR_US - 1)),
)
device = st.integers(0, 3)
kwh = st.floats(min_value=0.001, max_value=1000)
readings = st.lists(st.tuples(device, moments, kwh, st.floats(min_value=-100, max_value=200)), max_size=8)
steps = st.one_of(
    st.tuples(st.just("store"), st.tuples(readings, readings)),
    st.tuples(st.just("again"), st.tuples(readings, readings)),
    st.tuples(st.just("roll"), st.integers(1, 12)),
    st.tuples(st.just("distrust"), st.tuples(st.sampled_from(["meter", "vehicle"]), st.integers(-5, 0))),
)
links = st.lists(st.tuples(device, device, moments, st.none() | st.integers(1, 3 * HOUR_US)), max_size=5)


def batch_of(meters: list[tuple[int, int, float, float]], vehicles: list[tuple[int, int, float, float]]) -> Batch:
    start = microseconds(RUNNING)
    return Batch(
        rows={
            "meter": [(f"METER-{number}", start + us, energy, 230.0) for number, us, energy, _ in meters],
            "vehicle": [
                (f"VEH-{number}", start + us, 50.0, energy, celsius) for number, us, energy, celsius in vehicles
            ],
        }
    )


async def play(world: World, story: list[tuple[str, Any]]) -> None:
    batches = []
    for step, what in story:
        if step == "roll":
            await roll(world.connection, what)
        elif step == "distrust":
            kind, hour = what
            await world.connection.execute(
                b"INSERT INTO hourly_invalidations (kind, hour) VALUES (%s, %s)", [kind, RUNNING + hour * HOUR]
            )
        else:
            batches.append(batch_of(*what))
            if step == "again":  # what came before comes once more, among new readings
                for kind, rows in batches[0].rows.items():
                    batches[-1].rows[kind] += rows
                batches[-1].may_be_stored = True
            await world.sink.store(batches[-1])


async def link(connection: AsyncConnection[Row], vehicle: int, meter: int, us: int, length: int | None) -> None:
    """One that overlaps another is left out, as the API would."""
    since = RUNNING + timedelta(microseconds=us)
    until = None if length is None else since + timedelta(microseconds=length)
    await connection.execute(
        b"INSERT INTO vehicle_meter_links VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [f"VEH-{vehicle}", f"METER-{meter}", since, until],
    )


@settings(deadline=None, max_examples=30)
@given(story=st.lists(steps, min_size=2, max_size=8), linked=links, hours=st.integers(1, 5), limit=st.integers(1, 5))
def test_the_figures_are_the_sums_of_the_rows(
    world: World,
    story: list[tuple[str, object]],
    linked: list[tuple[int, int, int, int | None]],
    hours: int,
    limit: int,
) -> None:
    world.execute(f"TRUNCATE {TABLES}")
    for each in linked:
        world.runner.run(link(world.connection, *each))
    world.runner.run(play(world, story))
    # An end of its own, so that no computed fleet answers for it.
    period = FleetPeriod(hours, RUNNING + timedelta(minutes=30, microseconds=next(_numbers)))
    expected = world.runner.run(assert_exact(world.connection, period))
    first = write_cursor("fleet efficiency asc", [hours, microseconds(period.end), -1.0, "-"])
    assert_table(pages(world, limit, cursor=first), expected)


def test_the_figures_are_exact_while_writers_and_a_roller_are_at_work(empty: World) -> None:
    period = FleetPeriod(4, RUNNING + timedelta(minutes=30))
    writing = True

    async def write(seed: int) -> None:
        rng, sink = Random(seed), Sink(empty.url)
        for _ in range(20):
            made = [
                [(rng.randrange(4), rng.randrange(-5 * HOUR_US, HOUR_US), rng.random(), 20.0) for _ in range(10)]
                for _ in range(2)
            ]
            batch = batch_of(*made)
            batch.may_be_stored = rng.random() < 0.2
            await sink.store(batch)
        await sink.close()

    async def keep_rolling() -> int:
        rolled = 0
        async with await connect(empty.url, autocommit=True) as mine:
            while writing:
                outcome = await roll(mine)
                rolled += outcome.hours if outcome else 0
        return rolled

    async def keep_looking() -> int:
        looks = 0
        async with await connect(empty.url, autocommit=True) as mine:
            while writing:
                await assert_exact(mine, period)
                looks += 1
        return looks

    async def story() -> None:
        nonlocal writing
        for number in range(3):
            await link(empty.connection, number, number + 1, -2 * HOUR_US + number, HOUR_US)
        # Beside the partition for any day, attaching one for a day waits for all readers, and may deadlock with them.
        async with await connect(empty.url, autocommit=True) as mine:
            await ensure_partitions(mine, {(RUNNING + timedelta(hours=hours)).date() for hours in (-5, 0, 1)})
        async with asyncio.TaskGroup() as group:
            rolling, looking = group.create_task(keep_rolling()), group.create_task(keep_looking())
            await asyncio.wait([group.create_task(write(seed)) for seed in range(2)])
            writing = False
        assert rolling.result() > 5
        assert looking.result() > 5
        assert len(await assert_exact(empty.connection, period)) == 4

    empty.runner.run(story())


def test_the_summary_and_its_table(empty: World) -> None:
    at = RUNNING + timedelta(minutes=5)
    ac = {"VEH-1": 10.0, "VEH-2": 20.0, "VEH-3": 30.0, "VEH-4": 0.0}
    dc = {"VEH-1": 9.0, "VEH-2": 15.0, "VEH-3": 15.0, "VEH-4": 5.0, "LORRY": 7.0}
    store(
        empty.url,
        [MeterRow(vehicle_id.replace("VEH", "METER"), at, energy) for vehicle_id, energy in ac.items()],
        [VehicleRow(vehicle_id, at, energy) for vehicle_id, energy in dc.items()],
    )
    empty.execute("INSERT INTO hourly_invalidations VALUES ('meter', %s), ('vehicle', %s)", [RUNNING, RUNNING])
    summary = empty.client.get("/v1/analytics/fleet", params={"hours": 30}).json()["data"]
    period = summary.pop("period")
    assert summary == {
        "totalVehicles": 5,
        "averageEfficiency": round((0.9 + 0.75 + 0.5) / 3, 4),
        "fleetEfficiency": round(39 / 60, 4),
        "criticalCount": 1,
        "warningCount": 1,
        "healthyCount": 1,
        "unknownCount": 2,
        "totalAcConsumed": 60,
        "totalDcDelivered": 51,
    }
    start, end = (datetime.fromisoformat(period[name]) for name in ("start", "end"))
    assert start == hour_of(end) - 30 * HOUR
    for limit in (1, 2, 3, 100):
        order = [row["vehicleId"] for row in pages(empty, limit, hours=30)]
        assert order == ["VEH-3", "VEH-2", "VEH-1", "LORRY", "VEH-4"]
        order = [row["vehicleId"] for row in pages(empty, limit, hours=30, order="desc")]
        assert order == ["VEH-1", "VEH-2", "VEH-3", "LORRY", "VEH-4"]
    order = [row["vehicleId"] for row in pages(empty, 2, hours=30, sort="totalDcDelivered", order="desc")]
    assert order == ["VEH-2", "VEH-3", "VEH-1", "LORRY", "VEH-4"]


def test_an_empty_fleet_and_a_month(empty: World) -> None:
    response = empty.client.get("/v1/analytics/fleet", params={"hours": 744})
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert (data["totalVehicles"], data["averageEfficiency"], data["fleetEfficiency"]) == (0, None, None)
    store(empty.url, vehicles=[VehicleRow("VEH-1", RUNNING, 1.0)])
    assert empty.client.get("/v1/analytics/fleet", params={"hours": 743}).json()["data"]["unknownCount"] == 1
    assert empty.client.get("/v1/analytics/fleet", params={"hours": 745}).status_code == 400


def test_one_computed_fleet_answers_for_all_who_ask(empty: World) -> None:
    """The statement is held up by a lock while twenty ask; one of them waits in PostgreSQL, all get its answer."""
    held_up = b"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'vehicle_status'::regclass"

    async def waiting() -> int:
        (row,) = await (await empty.connection.execute(held_up)).fetchall()
        return int(str(row[0]))

    async def story() -> list[httpx.Response]:
        async with (
            async_api_client(empty.client.base_url, timeout=10) as client,
            await connect(empty.url, autocommit=True) as other,
        ):
            async with other.transaction():
                await other.execute(b"LOCK TABLE vehicle_status IN ACCESS EXCLUSIVE MODE")
                asked = [
                    asyncio.create_task(client.get("/v1/analytics/fleet", params={"hours": 17})) for _ in range(20)
                ]
                await wait_until_async(waiting, what="the statement")
                assert await waiting() == 1
            return await asyncio.gather(*asked)

    answers = empty.runner.run(story())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["data"]["period"]["end"] for answer in answers}) == 1
    again = empty.client.get("/v1/analytics/fleet", params={"hours": 17}).json()["data"]
    assert again == answers[0].json()["data"]
    table = empty.client.get("/v1/analytics/fleet/vehicles", params={"hours": 17}).json()
    assert table["period"] == again["period"]


def test_a_fleet_that_takes_too_long_is_not_now(empty: World) -> None:
    with psycopg.connect(empty.url) as other:
        other.execute("LOCK TABLE vehicle_status IN ACCESS EXCLUSIVE MODE")
        response = empty.client.get("/v1/analytics/fleet", params={"hours": 18})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.elapsed < timedelta(seconds=3)
    after = wait_until(lambda: empty.client.get("/v1/analytics/fleet", params={"hours": 18}).status_code == 200)
    assert after

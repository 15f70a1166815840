"""The fleet in numbers is what adding up the stored readings gives, whatever is summed, late, repeated or under way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from psycopg.errors import LockNotAvailable

from analytics_api.analytics.figures import VehicleFigures
from analytics_api.analytics.fleet_figures import FLEET, FleetPeriod, fleet_parameters
from analytics_api.analytics.pairs import MeterConvention
from analytics_api.analytics.performance import PERFORMANCE, performance_parameters
from analytics_api.http.cursors import microseconds, write_cursor
from analytics_api.http.parameters import Window
from ingestor.batch import Batch
from ingestor.hourly import HOUR, HOUR_US, hour_of, roll
from ingestor.schema.partitions import ensure_partitions
from ingestor.sink import Sink
from ledger.annul import annul
from ledger.forget import forget
from ledger.restore import restore
from ledger.stretch import LedgerError, NothingThereError, Stretch
from postgres.connecting import connect
from telemetry.kinds import KINDS, Kind
from tests.api_client import api_client, async_api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database
from tests.oracle import Stored, assert_answers, assert_summary, expected, expected_summary
from tests.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.citus_too

CONVENTION = MeterConvention("VEH-", "METER-")
# An hour that is over: the roller may have summed what is the running hour of the periods here.
RUNNING = hour_of(datetime.now(UTC)) - HOUR
TOLERANCE = 0.02
TABLES = (
    "meter_readings_history, vehicle_readings_history, meter_status, vehicle_status, meter_hourly, vehicle_hourly,"
    " hourly_invalidations, vehicle_meter_links, annulments, annulled_readings, forgotten_devices"
)
WORST_FIRST = ("impossible", "partial", "ok", "CRITICAL", "WARNING", "HEALTHY", "UNKNOWN")
_numbers = itertools.count(1)

Row = tuple[Any, ...]


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


async def assert_exact(connection: AsyncConnection[Row], period: FleetPeriod) -> list[dict[str, Any]]:
    """FLEET, and PERFORMANCE of each vehicle, beside the rows themselves, in one snapshot; the result is the rows'."""
    async with connection.transaction():
        await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = await (await connection.execute(FLEET, fleet_parameters(CONVENTION, period))).fetchall()
        window = Window(period.start, period.end)
        alone = {}
        for row in found:
            values = performance_parameters(CONVENTION, row[0], window)
            (alone[row[0]],) = await (await connection.execute(PERFORMANCE, values)).fetchall()
        stored = await Stored.read(connection)
    assert sorted(row[0] for row in found) == sorted(stored.vehicle_ids())
    expectations = []
    for row in found:
        want = expected(stored, row[0], CONVENTION.meter_of(row[0]), period.start, period.end)
        assert_answers(VehicleFigures.of(row, TOLERANCE).as_json(), want)
        assert_answers(VehicleFigures.of(alone[row[0]], TOLERANCE).as_json(), want)
        expectations.append(want)
    return expectations


def pages(world: World, limit: int, **parameters: Any) -> list[dict[str, Any]]:
    """The table, page by page, all of one period."""
    found: list[dict[str, Any]] = []
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


def assert_table(found: Sequence[dict[str, Any]], expectations: Sequence[dict[str, Any]]) -> None:
    """The rows, each as expected, worst first and the unknown last."""
    by_id = {want["vehicleId"]: want for want in expectations}
    assert sorted(row["vehicleId"] for row in found) == sorted(by_id)
    for row in found:
        assert_answers(row, by_id[row["vehicleId"]])
    unknown = [row["healthStatus"] == "UNKNOWN" for row in found]
    assert unknown == sorted(unknown)
    ratios = [row["efficiencyRatio"] for row in found if row["healthStatus"] != "UNKNOWN"]
    assert ratios == sorted(ratios)


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
    st.tuples(st.just("annul"), st.tuples(st.sampled_from(KINDS), device, moments, st.integers(1, 3 * HOUR_US))),
    st.tuples(st.just("restore"), st.integers(1, 3)),
    st.tuples(st.just("forget"), st.tuples(st.sampled_from(KINDS), device)),
)
intervals = st.dictionaries(
    st.tuples(st.sampled_from(KINDS), device), st.sampled_from([1200.0, 1800.0, 3600.0, 3590.0, 5e4]), max_size=8
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
    batches: list[Batch] = []
    annulled: list[int] = []
    for step, what in story:
        if step == "roll":
            await roll(world.connection, what)
        elif step == "distrust":
            kind, hour = what
            await world.connection.execute(
                b"INSERT INTO hourly_invalidations (kind, hour) VALUES (%s, %s)", [kind, RUNNING + hour * HOUR]
            )
        elif step == "annul":
            kind, number, us, length = what
            since = RUNNING + timedelta(microseconds=us)
            stretch = Stretch(kind, f"{kind.id_prefix}{number}", since, since + timedelta(microseconds=length))
            async with world.connection.transaction():
                with suppress(NothingThereError):
                    annulled.append((await annul(world.connection, stretch, reason="wrong", who="me")).annulment_id)
        elif step == "forget":
            kind, number = what
            async with world.connection.transaction():
                await forget(world.connection, kind, [f"{kind.id_prefix}{number}"], None, who="me")
        elif step == "restore":
            for annulment_id in annulled[-what:]:
                async with world.connection.transaction():
                    with suppress(LedgerError):
                        await restore(world.connection, annulment_id, who="me")
        else:
            batches.append(batch_of(*what))
            if step == "again":  # what came before comes once more, among new readings
                for name, rows in batches[0].rows.items():
                    batches[-1].rows[name] += rows
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


async def learned(connection: AsyncConnection[Row], usual: dict[tuple[Kind, int], float]) -> None:
    for (kind, number), seconds in usual.items():
        query = kind.sql("UPDATE {status} SET usual_interval_seconds = %s WHERE {id} = %s")
        await connection.execute(query, [seconds, f"{kind.id_prefix}{number}"])


@settings(deadline=None, max_examples=40)
@given(
    story=st.lists(steps, min_size=2, max_size=8),
    linked=links,
    usual=intervals,
    hours_and_limit=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_the_figures_are_those_of_the_rows(
    world: World,
    story: list[tuple[str, Any]],
    linked: list[tuple[int, int, int, int | None]],
    usual: dict[tuple[Kind, int], float],
    hours_and_limit: tuple[int, int],
) -> None:
    """Links that move, gaps, late and repeated readings, conflicts, annulments, restores, devices that are
    forgotten: every field of the fleet,
    its table and of each vehicle alone.
    """
    hours, limit = hours_and_limit
    world.execute(f"TRUNCATE {TABLES}")
    for each in linked:
        world.runner.run(link(world.connection, *each))
    world.runner.run(play(world, story))
    world.runner.run(learned(world.connection, usual))
    # An end of its own, so that no computed fleet answers for it.
    period = FleetPeriod(hours, RUNNING + timedelta(minutes=30, microseconds=next(_numbers)))
    expectations = world.runner.run(assert_exact(world.connection, period))
    asked: dict[str, Any] = {"hours": hours, "end": period.end.isoformat()}
    response = world.client.get("/v1/analytics/fleet", params=asked)
    assert response.status_code == 200, response.text
    assert_summary(response.json()["data"], expected_summary(expectations))
    assert_table(pages(world, limit, **asked), expectations)
    for name, word_of in {
        "quality": lambda want: want["quality"]["status"],
        "health": lambda want: want["healthStatus"],
    }.items():
        for words in {word_of(want) for want in expectations}, ("impossible", "partial"), ("WARNING",):
            if (name == "quality" and words == ("WARNING",)) or (name == "health" and "partial" in words):
                continue
            some = pages(world, limit, **asked, **{name: ",".join(words)}) if words else []
            assert_table(some, [want for want in expectations if word_of(want) in words])
        for order, sign in {"asc": 1, "desc": -1}.items():
            found = [row["vehicleId"] for row in pages(world, limit, sort=name, order=order, **asked)]
            places = {want["vehicleId"]: WORST_FIRST.index(word_of(want)) for want in expectations}
            unknown = WORST_FIRST.index("UNKNOWN")  # last in both
            assert found == sorted(
                places, key=lambda vehicle: (places[vehicle] == unknown, sign * places[vehicle], vehicle)
            )


async def write(url: str, seed: int) -> None:
    """20 batches, some of them a second time."""
    rng, sink = Random(seed), Sink(url)
    for _ in range(20):
        made = [
            [(rng.randrange(4), rng.randrange(-5 * HOUR_US, HOUR_US), rng.random(), 20.0) for _ in range(10)]
            for _ in range(2)
        ]
        batch = batch_of(*made)
        batch.may_be_stored = rng.random() < 0.2
        await sink.store(batch)
    await sink.close()


async def annul_some(url: str, seed: int) -> None:
    """An hour of a device, again and again; half of them are restored."""
    rng = Random(seed)
    async with await connect(url, autocommit=True) as mine:
        for _ in range(12):
            kind = rng.choice(KINDS)
            since = RUNNING + timedelta(microseconds=rng.randrange(-4 * HOUR_US, 0))
            stretch = Stretch(kind, f"{kind.id_prefix}{rng.randrange(4)}", since, since + HOUR)
            with suppress(NothingThereError, LockNotAvailable):
                async with mine.transaction():
                    done = await annul(mine, stretch, reason="wrong", who="me")
                if rng.random() < 0.5:
                    async with mine.transaction():
                        await restore(mine, done.annulment_id, who="me")


def test_the_figures_are_exact_while_writers_and_a_roller_are_at_work(empty: World) -> None:
    period = FleetPeriod(4, RUNNING + timedelta(minutes=30))
    writing = True

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
            at_work = [*(write(empty.url, seed) for seed in range(2)), annul_some(empty.url, 7)]
            await asyncio.wait([group.create_task(each) for each in at_work])
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
        "impossibleCount": 0,
        "partialCount": 0,
        "totalAcConsumed": 60,
        "totalDcDelivered": 51,
    }
    start, end = (datetime.fromisoformat(period[name]) for name in ("start", "end"))
    assert start == hour_of(end) - 30 * HOUR
    for limit, sort in itertools.product((1, 2, 3, 100), ("efficiency", "health")):
        order = [row["vehicleId"] for row in pages(empty, limit, hours=30, sort=sort)]
        assert order == ["VEH-3", "VEH-2", "VEH-1", "LORRY", "VEH-4"]
        order = [row["vehicleId"] for row in pages(empty, limit, hours=30, sort=sort, order="desc")]
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


def test_fleets_of_many_periods_at_once_take_turns(empty: World) -> None:
    """A few are computed at a time, and none of the twelve is refused because of the others; slow they may be."""

    async def story() -> list[httpx.Response]:
        async with async_api_client(empty.client.base_url, timeout=30) as client:
            asked = (client.get("/v1/analytics/fleet", params={"hours": hours}) for hours in range(100, 112))
            return await asyncio.gather(*asked)

    answers = empty.runner.run(story())
    assert 200 in {answer.status_code for answer in answers}
    assert not [answer for answer in answers if "for other periods" in answer.text]


def test_a_fleet_that_takes_too_long_is_not_now(empty: World) -> None:
    with psycopg.connect(empty.url) as other:
        other.execute("LOCK TABLE vehicle_status IN ACCESS EXCLUSIVE MODE")
        response = empty.client.get("/v1/analytics/fleet", params={"hours": 18})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.elapsed < timedelta(seconds=3)
    after = wait_until(lambda: empty.client.get("/v1/analytics/fleet", params={"hours": 18}).status_code == 200)
    assert after


def test_a_cursor_keeps_its_fleet_while_readings_come(empty: World) -> None:
    """Whoever goes through the pages sees each vehicle once, as it was when the first page was made."""
    at = RUNNING + timedelta(minutes=5)
    cars = [f"VEH-{number}" for number in range(6)]
    store(
        empty.url,
        [MeterRow(car.replace("VEH", "METER"), at, 10.0) for car in cars],
        [VehicleRow(car, at, 7.0 + number / 10) for number, car in enumerate(cars)],
    )
    empty.execute("INSERT INTO hourly_invalidations VALUES ('meter', %s), ('vehicle', %s)", [RUNNING, RUNNING])
    asked: dict[str, Any] = {"hours": 40, "limit": 2}
    page = empty.client.get("/v1/analytics/fleet/vehicles", params=asked).json()
    found = page["data"]
    while page["nextCursor"] is not None:
        later = RUNNING + timedelta(minutes=6 + len(found))
        store(empty.url, [], [VehicleRow(car, later, 5.0 / (number + 1)) for number, car in enumerate(cars)])
        params = {**asked, "cursor": page["nextCursor"]}
        empty.client.get("/v1/analytics/fleet", params={"hours": 40, "end": later.isoformat()})  # others look, too
        page = empty.client.get("/v1/analytics/fleet/vehicles", params=params).json()
        found += page["data"]
    assert [row["vehicleId"] for row in found] == cars
    assert [row["totalDcDelivered"] for row in found] == [7, 7.1, 7.2, 7.3, 7.4, 7.5]


def test_a_cursor_whose_fleet_is_gone_says_so(empty: World) -> None:
    cursor = write_cursor(
        "fleet efficiency asc HEALTHY,WARNING,CRITICAL,UNKNOWN ok,partial,impossible", ["x", 0.5, "V"]
    )
    response = empty.client.get("/v1/analytics/fleet/vehicles", params={"cursor": cursor})
    assert response.status_code == 410
    assert "begin again" in response.json()["message"]
    other = empty.client.get("/v1/analytics/fleet/vehicles", params={"cursor": cursor, "health": "WARNING"})
    assert other.status_code == 400  # not that table's


def test_the_fleet_of_another_day_and_its_words(empty: World) -> None:
    day = RUNNING - timedelta(days=40)
    store(empty.url, [MeterRow("METER-1", day, 10.0)], [VehicleRow("VEH-1", day, 10.3)])
    empty.execute("INSERT INTO hourly_invalidations VALUES ('meter', %s), ('vehicle', %s)", [day, day])
    asked: dict[str, Any] = {"hours": 1, "end": (day + HOUR + timedelta(minutes=10)).isoformat()}
    fleet = empty.client.get("/v1/analytics/fleet", params=asked).json()["data"]
    assert (fleet["totalAcConsumed"], fleet["totalDcDelivered"]) == (10, 10.3)
    assert (fleet["unknownCount"], fleet["impossibleCount"], fleet["averageEfficiency"]) == (1, 1, None)
    assert fleet["period"]["covers"] == "1 full hour and the running one"
    (row,) = pages(empty, 5, quality="impossible", **asked)
    assert (row["efficiencyPercent"], row["healthStatus"]) == ("103.00%", "UNKNOWN")
    assert row["quality"]["reasons"] == ["ratio_above_one"]
    for name, value in {"end": "soon", "quality": "good", "health": "HEALTHY,", "hours": "0"}.items():
        refused = empty.client.get("/v1/analytics/fleet/vehicles", params={**asked, name: value})
        assert refused.status_code == 400
        assert [problem["field"] for problem in refused.json()["errors"]] == [name]

"""Histories: every reading of the window once and newest first, by the page or as CSV of any length."""

from __future__ import annotations

import asyncio
import csv
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from analytics_api.database.long_answers import LONG_ANSWERS_MAX
from analytics_api.database.questions import Database as ApiDatabase
from analytics_api.http import csv_answers
from analytics_api.http.cursors import microseconds, write_cursor
from analytics_api.readings.history import READINGS
from analytics_api.readings.layouts import READING
from telemetry.kinds import KINDS, Kind
from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.citus_too

AT = datetime(2026, 1, 31, 14, 0, 0, 123_987, tzinfo=UTC)
LONG_FROM = datetime(2026, 3, 1, tzinfo=UTC)
LONG_ROWS = 500_000
LONG = f"/v1/telemetry/meter/LONG/history?from={LONG_FROM:%Y-%m-%dT%H:%M:%SZ}&to=2026-03-31T00:00:00Z"
CSV = {"Accept": "text/csv"}
RSS_GROWTH_MAX = 30 * 2**20


@pytest.fixture(scope="module")
def database_url(postgres_server: Database) -> Iterator[str]:
    with prepared_database(postgres_server) as url:
        store(
            url,
            meters=[MeterRow("METER-001", AT - timedelta(minutes=n), 0.1834, 238.4) for n in range(250)]
            + [MeterRow("LONG", LONG_FROM, 1.0)],
            vehicles=[VehicleRow("VEH-001", AT, 0.1544, 75, 31.5)],
        )
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO meter_readings_history"
                " SELECT 'LONG', %s + n * interval '5 s', n, 238.4 FROM generate_series(1, %s) AS n",
                [LONG_FROM, LONG_ROWS - 1],
            )
        yield url


@pytest.fixture(scope="module")
def process(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WattlineProcess]:
    with running_api(tmp_path_factory.mktemp("api"), database_url) as running:
        yield running
        assert "Traceback" not in running.output()


@pytest.fixture(scope="module")
def api(process: WattlineProcess) -> Iterator[httpx.Client]:
    with api_client(process.http_url, timeout=30) as client:
        yield client


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def pages(api: httpx.Client, path: str, limits: list[int], between: Any = lambda: None) -> list[dict[str, Any]]:
    """All objects of a list, asked for by the page; `between` is called after each."""
    found: list[dict[str, Any]] = []
    cursor = ""
    for turn in range(1_000):
        response = api.get(f"{path}&limit={limits[turn % len(limits)]}{cursor}")
        assert response.status_code == 200, response.text
        found += response.json()["data"]
        if response.json()["nextCursor"] is None:
            return found
        cursor = f"&cursor={response.json()['nextCursor']}"
        between()
    raise AssertionError("the list has no end")


def backends_at_long_answers(url: str) -> list[int]:
    """The backends that hold an open snapshot for one of our answers."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'wattline api' AND xact_start IS NOT NULL"
        )
        return [pid for (pid,) in rows]


def test_the_objects(api: httpx.Client) -> None:
    meter = api.get(f"/v1/telemetry/meter/METER-001/history?to={iso(AT + timedelta(hours=1))}&limit=1").json()
    (reading,) = meter["data"]
    assert list(reading) == ["meterId", "kwhConsumedAc", "voltage", "timestamp", "ingestedAt"]
    assert reading["timestamp"] == "2026-01-31T14:00:00.123Z"
    assert (reading["kwhConsumedAc"], reading["voltage"]) == (0.1834, 238.4)
    vehicle = api.get(f"/v1/telemetry/vehicle/VEH-001/history?to={iso(AT + timedelta(hours=1))}").json()
    (reading,) = vehicle["data"]
    assert list(reading) == ["vehicleId", "soc", "kwhDeliveredDc", "batteryTemp", "timestamp", "ingestedAt"]
    assert (reading["soc"], reading["kwhDeliveredDc"], reading["batteryTemp"]) == (75, 0.1544, 31.5)
    assert vehicle["nextCursor"] is None


def test_the_window_is_half_open_and_a_day_long_by_default(api: httpx.Client) -> None:
    path = "/v1/telemetry/vehicle/VEH-001/history"
    micro = timedelta(microseconds=1)

    def count(**window: datetime) -> int:
        response = api.get(path, params={name.strip("_"): iso(moment) for name, moment in window.items()})
        return len(response.json()["data"])

    assert count(from_=AT, to=AT + micro) == 1
    assert count(from_=AT - micro, to=AT) == 0
    assert count(from_=AT + micro, to=AT + 2 * micro) == 0
    assert count(to=AT + timedelta(hours=24)) == 1
    assert count(to=AT + timedelta(hours=24) + micro) == 0
    assert count(from_=AT, to=AT + timedelta(hours=744)) == 1
    assert api.get(path).json() == {"success": True, "data": [], "nextCursor": None}


@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_unknown_devices_are_404(api: httpx.Client, accept: str) -> None:
    for path in ("meter/METER-999", "vehicle/METER-001"):
        response = api.get(f"/v1/telemetry/{path}/history", headers={"Accept": accept})
        assert response.status_code == 404
        assert response.json()["success"] is False


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-01-31T14:00:00Z&to=2026-01-31T14:00:00Z", "from"),
        ("from=2026-01-31T14:00:01Z&to=2026-01-31T14:00:00Z", "from"),
        ("from=9999-12-31T23:59:59Z", "from"),
        ("from=0001-01-01T00:00:00Z", "from"),
        ("from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00.000001Z", "from"),
        ("to=0001-01-01T00:00:00Z", "to"),
        ("to=9999-12-31T23:59:59-14:00", "to"),
        ("from=%00", "from"),
        ("from=%FF", "from"),
        ("to=%ZZ", "to"),
        ("to=", "to"),
        ("to=2026-01-31T14:00:00Z&to=2026-01-31T14:00:00Z", "to"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_what_is_malformed_is_400_and_named(api: httpx.Client, query: str, field: str, accept: str) -> None:
    response = api.get(f"/v1/telemetry/meter/METER-001/history?{query}", headers={"Accept": accept})
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_cursor_belongs_to_its_device_kind_and_window(api: httpx.Client) -> None:
    path = "/v1/telemetry/meter/METER-001/history"
    to = iso(AT)
    cursor = api.get(f"{path}?to={to}&limit=1").json()["nextCursor"]
    assert len(api.get(f"{path}?cursor={cursor}").json()["data"]) == 100
    assert api.get(f"{path}?to={to}&cursor={cursor}").status_code == 200
    edges = [microseconds(AT - timedelta(hours=1)), microseconds(AT)]
    for refused in (
        f"{path}?to={iso(AT + timedelta(seconds=1))}&cursor={cursor}",
        f"{path}?from={iso(AT - timedelta(hours=1))}&cursor={cursor}",
        f"/v1/telemetry/meter/LONG/history?cursor={cursor}",
        f"/v1/telemetry/vehicle/VEH-001/history?cursor={cursor}",
        f"{path}?cursor={write_cursor('meter history', ('METER-001', *edges, edges[1]))}",
        f"{path}?cursor={write_cursor('meter history', ('METER-001', *edges, edges[0] - 1))}",
        f"{path}?cursor={write_cursor('meter history', ('METER-001', 0, edges[1], edges[0]))}",
        f"{path}?cursor={write_cursor('meter history', ('METER-001', -(10**30), 10**30, 0))}",
    ):
        response = api.get(refused)
        assert response.status_code == 400, refused
        assert [error["field"] for error in response.json()["errors"]] == ["cursor"]


@settings(deadline=None, max_examples=25)
@given(
    offsets=st.sets(st.one_of(st.integers(0, 30), st.integers(0, 3_599_999_999)), max_size=40),
    late=st.lists(st.integers(0, 60), max_size=10),
    limits=st.lists(st.integers(1, 12), min_size=1, max_size=5),
)
def test_pages_of_any_size_hold_every_reading_once(
    api: httpx.Client,
    database_url: str,
    offsets: set[Any] | set[int],
    late: list[Any] | list[int],
    limits: list[int],
) -> None:
    device_id = f"V-{uuid.uuid4().hex}"
    start = AT - timedelta(hours=1)
    window = f"from={quote(iso(start))}&to={quote(iso(AT))}"
    coming = iter([offset for offset in dict.fromkeys(late) if offset not in offsets])

    def row(offset: int) -> VehicleRow:
        # The energy tells which reading it is: timestamps in answers are cut to milliseconds.
        return VehicleRow(device_id, start + timedelta(microseconds=offset), float(offset))

    def arrive() -> None:
        if (offset := next(coming, None)) is not None:
            store(database_url, vehicles=[row(offset)])

    store(database_url, vehicles=[VehicleRow(device_id, AT, 1.0), *map(row, sorted(offsets))])
    found = [
        each["kwhDeliveredDc"]
        for each in pages(api, f"/v1/telemetry/vehicle/{device_id}/history?{window}", limits, arrive)
    ]
    assert found == sorted(set(found), reverse=True)
    assert [offset for offset in found if offset in offsets] == sorted(offsets, reverse=True)


def test_csv_is_the_whole_window_or_the_limit(api: httpx.Client) -> None:
    path = f"/v1/telemetry/meter/METER-001/history?to={iso(AT + timedelta(hours=1))}"
    objects = pages(api, path, [100])
    response = api.get(path, headers=CSV)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert list(csv.DictReader(response.text.splitlines())) == [
        {name: str(value) for name, value in each.items()} for each in objects
    ]
    assert len(objects) == 250
    assert len(api.get(path + "&limit=7", headers=CSV).text.splitlines()) == 8
    empty = api.get("/v1/telemetry/meter/METER-001/history", headers=CSV)
    assert empty.text == "meterId,kwhConsumedAc,voltage,timestamp,ingestedAt\r\n"
    head = api.head(path, headers=CSV)
    assert (head.status_code, head.content) == (200, b"")


def test_half_a_million_rows_take_no_memory(api: httpx.Client, process: WattlineProcess) -> None:
    api.get(LONG + "&limit=1000", headers=CSV)  # what the first answer takes for good is not what is measured
    api.get(f"/v1/telemetry/meter/METER-001/history?to={iso(AT)}", headers=CSV)
    memory = psutil.Process(process.pid)
    before = most = memory.memory_info().rss
    lines = 0
    with api.stream("GET", LONG, headers=CSV) as response:
        for chunk in response.iter_bytes(2**20):
            lines += chunk.count(b"\n")
            most = max(most, memory.memory_info().rss)
    assert lines == LONG_ROWS + 1
    assert most - before < RSS_GROWTH_MAX


def test_long_answers_are_bounded_and_a_client_that_goes_away_frees_its_place(
    api: httpx.Client, process: WattlineProcess, database_url: str
) -> None:
    with ExitStack() as stack:
        for _ in range(LONG_ANSWERS_MAX):
            client = stack.enter_context(api_client(process.http_url, timeout=30))
            response = stack.enter_context(client.stream("GET", LONG, headers=CSV))
            assert response.status_code == 200  # and none of it is read
        assert len(backends_at_long_answers(database_url)) == LONG_ANSWERS_MAX
        refused = api.get(LONG, headers=CSV)
        assert refused.status_code == 503
        assert refused.headers["retry-after"].isdigit()
        assert refused.json()["success"] is False
        assert api.get(LONG).status_code == 200  # a page of JSON needs no such place
    wait_until(lambda: not backends_at_long_answers(database_url), what="all connections to be given back")
    assert api.get(LONG + "&limit=1", headers=CSV).status_code == 200


def test_a_database_that_goes_away_cuts_the_file(
    api: httpx.Client, process: WattlineProcess, database_url: str
) -> None:
    with api.stream("GET", LONG, headers=CSV) as response:
        assert response.status_code == 200
        with psycopg.connect(database_url, autocommit=True) as connection:
            for pid in backends_at_long_answers(database_url):
                connection.execute("SELECT pg_terminate_backend(%s::int)", [pid])
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            response.read()
    wait_until(lambda: "cut a CSV answer: The database is away." in process.output(), what="the line in the log")
    assert api.get(LONG + "&limit=1", headers=CSV).status_code == 200


def test_a_reader_that_takes_nothing_is_cut(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_answers, "SEND_SECONDS_MAX", 0.2)
    cut: list[bool] = []
    scope = {"type": "http", "method": "GET", "headers": [], "abort": lambda: cut.append(True)}
    window = {"start": LONG_FROM, "end": LONG_FROM + timedelta(days=1), "device_id": "LONG", "rows": None}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        async with ApiDatabase(database_url, "test") as database:
            await csv_answers.CsvAnswer(database, READINGS["meter"], window, READING["meter"])(scope, receive, send)
            await wait_until_async(
                lambda: not backends_at_long_answers(database_url), what="the connection to be given back"
            )

    asyncio.run(run())
    assert cut == [True]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.one_server  # its plan
def test_plans_read_the_primary_keys_of_the_partitions_in_the_window(
    postgres_server: Database, kind: Kind, plan: str
) -> None:
    query, table = READINGS[kind.name].decode(), kind.history
    days = [datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=n) for n in range(10)]
    prepared = query % {"device_id": "$1", "start": "$2", "end": "$3", "rows": "$4"}
    with prepared_database(postgres_server) as url, psycopg.connect(url, autocommit=True) as connection:
        for day in days:
            connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                    sql.Identifier(f"{table}_{day:%Y%m%d}"), sql.Identifier(table), day, day + timedelta(days=1)
                )
            )
        connection.execute(sql.SQL("SET plan_cache_mode = {}").format(sql.Identifier(plan)))
        connection.execute(f"PREPARE history (text, timestamptz, timestamptz, bigint) AS {prepared}")
        explain = "EXPLAIN (ANALYZE, COSTS OFF) EXECUTE history ({}, {}, {}, {})"
        rows = connection.execute(sql.SQL(explain).format("X", days[3], days[5], 100)).fetchall()
    lines = "\n".join(line for (line,) in rows)
    assert ("$1" in lines) == (plan == "force_generic_plan")
    read = {day for day in days if f"{table}_{day:%Y%m%d}" in lines}
    assert read == {days[3], days[4]}, lines
    assert "Seq Scan" not in lines
    assert lines.count("pkey") >= 2, lines

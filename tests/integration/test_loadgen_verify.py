"""The verifier against a real PostgreSQL: every way in which tables can disagree with what was acknowledged.

The tables here have no primary keys, so that they can hold what the real ones refuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import psycopg
import pytest

from loadgen.evidence import Evidence
from loadgen.fleet import Reading, make_fleet
from loadgen.stored import Tables
from loadgen.verify import EXAMPLES_MAX, Findings, VerifyError, check_tables, verify
from telemetry.readings import EPOCH
from tests.backends import Database

SCHEMA = """
    DROP TABLE IF EXISTS meter_readings_history, vehicle_readings_history, meter_status, vehicle_status;
    CREATE TABLE meter_readings_history (meter_id text, ts timestamptz, kwh_consumed_ac float8, voltage float8);
    CREATE TABLE vehicle_readings_history
        (vehicle_id text, ts timestamptz, soc float8, kwh_delivered_dc float8, battery_temp float8);
    CREATE TABLE meter_status (meter_id text, last_reading timestamptz, kwh_consumed_ac float8, voltage float8);
    CREATE TABLE vehicle_status
        (vehicle_id text, last_reading timestamptz, soc float8, kwh_delivered_dc float8, battery_temp float8)"""
STEP_US = 5_000_000
ROUNDS = 4

Execute = Callable[..., Any]


class Fleet:
    """A run of three meters and two vehicles that was sent; a test says what of it was acknowledged and stored."""

    def __init__(self, start_us: int | None = None, prefix: str = "LOAD") -> None:
        rng = Random(1)
        points = make_fleet({"meter": 3, "vehicle": 2}, prefix, rng)
        start_us = start_us or time.time_ns() // 1000
        self.prefix = prefix
        self.evidence = Evidence(points)
        self.sent = [
            reading
            for turn in range(ROUNDS)
            for point in points
            for reading in point.read(start_us + turn * STEP_US, 5.0, rng)
        ]
        for reading in self.sent:
            self.evidence.add(reading)

    def acknowledge(self, *except_for: Reading) -> None:
        for reading in self.sent:
            if reading not in except_for:
                self.evidence.acknowledge(reading)

    def of(self, device_id: str) -> list[Reading]:
        return [reading for reading in self.sent if reading.device.id == device_id]

    def verify(
        self, url: str, timeout: float = 0.0, on_wait: Callable[[int, int], None] = lambda _s, _a: None
    ) -> Findings:
        return verify(Tables(url, "test"), self.evidence, self.prefix, timeout, on_wait)


@pytest.fixture(scope="module")
def url(postgres_server: Database) -> Iterator[str]:
    """One database for all of these tests: making one takes longer than any of them."""
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_loadgen_verify TEMPLATE template0")
        yield postgres_server.url_of("test_loadgen_verify")
        connection.execute("DROP DATABASE test_loadgen_verify WITH (FORCE)")


@pytest.fixture
def execute(url: str) -> Iterator[Execute]:
    """Runs a statement; the tables are new and empty."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection.execute


@pytest.fixture
def fleet(execute: Execute) -> Fleet:
    """All acknowledged, all stored, as it should be."""
    fleet = Fleet()
    fleet.acknowledge()
    store(execute, *fleet.sent)
    return fleet


def store(execute: Execute, *readings: Reading) -> None:
    """As the ingestor would: into the history, and the newest of each device into the status."""
    for reading in readings:
        kind = reading.device.kind
        row = [reading.device.id, EPOCH + reading.ts_us * (EPOCH.resolution), *reading.values]
        places = ", ".join(["%s"] * len(row))
        execute(f"INSERT INTO {kind}_readings_history VALUES ({places})", row)
        execute(f"DELETE FROM {kind}_status WHERE {kind}_id = %s AND last_reading <= %s", row[:2])
        execute(
            f"INSERT INTO {kind}_status SELECT {places} WHERE NOT EXISTS "
            f"(SELECT FROM {kind}_status WHERE {kind}_id = %s)",
            [*row, row[0]],
        )


def numbers(findings: Findings) -> tuple[int, int, int]:
    return findings.lost, findings.duplicated, findings.wrong


def test_all_stored_once_and_right(fleet: Fleet, url: str) -> None:
    findings = fleet.verify(url)
    assert findings.clean
    assert findings.examples == []
    assert findings.line() == "verified 20 acknowledged readings: lost 0, duplicated 0, wrong 0"


@pytest.mark.parametrize("kind", ["meter", "vehicle"])
def test_a_lost_reading(fleet: Fleet, execute: Execute, url: str, kind: str) -> None:
    execute(
        f"DELETE FROM {kind}_readings_history WHERE ts = (SELECT min(ts) FROM {kind}_readings_history) "
        f"AND {kind}_id LIKE '%%-002'"
    )
    findings = fleet.verify(url)
    assert numbers(findings) == (1, 0, 0)
    assert findings.line() == "verified 20 acknowledged readings: lost 1, duplicated 0, wrong 0"
    (example,) = findings.examples
    assert example.startswith("lost: LOAD-")
    assert f"is not in {kind}_readings_history" in example


def test_what_was_not_acknowledged_may_be_stored_or_not(execute: Execute, url: str) -> None:
    fleet = Fleet()
    oldest, newest = fleet.of("LOAD-METER-001")[0], fleet.of("LOAD-VEH-001")[-1]
    fleet.acknowledge(oldest, newest)
    store(execute, *[reading for reading in fleet.sent if reading not in (oldest, newest)])
    assert fleet.verify(url).line() == "verified 18 acknowledged readings: lost 0, duplicated 0, wrong 0"
    store(execute, oldest, newest)
    assert fleet.verify(url).line() == "verified 18 acknowledged readings: lost 0, duplicated 0, wrong 0"


def test_what_was_not_acknowledged_must_still_be_right_if_it_is_stored(execute: Execute, url: str) -> None:
    fleet = Fleet()
    unknown = fleet.of("LOAD-METER-001")[0]
    fleet.acknowledge(unknown)
    store(execute, *[reading for reading in fleet.sent if reading != unknown], unknown._replace(values=(1.0, 2.0)))
    assert numbers(fleet.verify(url)) == (0, 0, 1)


@pytest.mark.parametrize("kind", ["meter", "vehicle"])
def test_a_reading_stored_twice(fleet: Fleet, execute: Execute, url: str, kind: str) -> None:
    execute(
        f"INSERT INTO {kind}_readings_history SELECT * FROM {kind}_readings_history "
        f"WHERE {kind}_id LIKE '%%-001' ORDER BY ts LIMIT 1"
    )
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 1, 0)
    assert "is stored more than once" in findings.examples[0]


def test_a_row_that_was_never_sent(fleet: Fleet, execute: Execute, url: str) -> None:
    execute(
        "INSERT INTO meter_readings_history SELECT meter_id, ts + interval '1 microsecond', 1, 230 "
        "FROM meter_readings_history WHERE meter_id = 'LOAD-METER-003' ORDER BY ts LIMIT 1"
    )
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 1, 0)
    assert "LOAD-METER-003" in findings.examples[0]
    assert "never sent" in findings.examples[0]


def test_a_timestamp_that_lost_its_microseconds(fleet: Fleet, execute: Execute, url: str) -> None:
    """One reading of the device is missing, and one is there that it never sent."""
    second = fleet.of("LOAD-METER-002")[1]
    execute(
        "UPDATE meter_readings_history SET ts = ts - interval '1 microsecond' "
        "WHERE meter_id = 'LOAD-METER-002' AND ts = %s",
        [EPOCH + second.ts_us * EPOCH.resolution],
    )
    assert numbers(fleet.verify(url)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("meter", "kwh_consumed_ac = kwh_consumed_ac + 0.000001"),
        ("meter", "voltage = 'NaN'"),
        ("vehicle", "soc = NULL"),
        ("vehicle", "kwh_delivered_dc = 0"),
        ("vehicle", "battery_temp = -battery_temp"),
    ],
)
def test_a_wrong_value(fleet: Fleet, execute: Execute, url: str, kind: str, change: str) -> None:
    execute(
        f"UPDATE {kind}_readings_history SET {change} "
        f"WHERE {kind}_id LIKE '%%-001' AND ts = (SELECT min(ts) FROM {kind}_readings_history)"
    )
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 0, 1)
    assert findings.examples[0].startswith("wrong: LOAD-")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM vehicle_status WHERE vehicle_id = 'LOAD-VEH-002'", "is missing"),
        ("UPDATE vehicle_status SET soc = soc + 1 WHERE vehicle_id = 'LOAD-VEH-002'", "sent as"),
        ("UPDATE vehicle_status SET last_reading = last_reading - interval '5 s' WHERE vehicle_id = 'LOAD-VEH-002'",
         "older than"),
        ("UPDATE vehicle_status SET last_reading = last_reading - interval '1 day' WHERE vehicle_id = 'LOAD-VEH-002'",
         "older than"),
    ],
)  # fmt: skip
def test_a_wrong_status(fleet: Fleet, execute: Execute, url: str, change: str, words: str) -> None:
    execute(change)
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 0, 1)
    assert findings.examples[0].startswith("wrong: vehicle_status of LOAD-VEH-002")
    assert words in findings.examples[0]


def test_a_status_of_a_reading_that_is_not_in_the_history(execute: Execute, url: str) -> None:
    fleet = Fleet()
    newest = fleet.of("LOAD-VEH-001")[-1]
    fleet.acknowledge(newest)
    store(execute, *fleet.sent)
    execute(
        "DELETE FROM vehicle_readings_history WHERE vehicle_id = 'LOAD-VEH-001' AND ts = %s",
        [EPOCH + newest.ts_us * EPOCH.resolution],
    )
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 0, 1)
    assert "which is not in the history" in findings.examples[0]


def test_a_status_of_a_reading_that_was_never_sent(execute: Execute, url: str) -> None:
    fleet = Fleet()
    newest = fleet.of("LOAD-METER-001")[-1]
    fleet.acknowledge(newest)
    store(execute, *[reading for reading in fleet.sent if reading != newest])
    execute("UPDATE meter_status SET last_reading = last_reading + interval '1 s' WHERE meter_id = 'LOAD-METER-001'")
    findings = fleet.verify(url)
    assert numbers(findings) == (0, 0, 1)
    assert "when nothing was sent" in findings.examples[0]


def test_other_devices_and_other_runs_do_not_matter(execute: Execute, url: str) -> None:
    """Two runs with one prefix, one after the other, beside fleets whose names begin the same."""
    start_us = time.time_ns() // 1000
    first, second = Fleet(start_us), Fleet(start_us + ROUNDS * STEP_US)
    strangers = [Fleet(start_us, prefix) for prefix in ("", "LOAD2", "LOA", "OTHER")]
    for fleet in (first, second, *strangers):
        fleet.acknowledge()
        store(execute, *fleet.sent)
    execute("INSERT INTO meter_readings_history SELECT 'LOAD-METER-0001', ts, 9, 9 FROM meter_readings_history")
    execute("UPDATE meter_readings_history SET voltage = 0 WHERE meter_id = 'LOAD2-METER-001'")
    assert first.verify(url).clean
    assert second.verify(url).clean
    execute(
        "DELETE FROM meter_readings_history WHERE meter_id = 'LOAD-METER-001' AND ts < %s",
        [EPOCH + (start_us + ROUNDS * STEP_US) * EPOCH.resolution],
    )
    assert numbers(first.verify(url)) == (ROUNDS, 0, 0)
    assert second.verify(url).clean


def test_a_fleet_without_a_prefix(execute: Execute, url: str) -> None:
    fleet = Fleet(prefix="")
    fleet.acknowledge()
    store(execute, *fleet.sent)
    assert fleet.verify(url).line().startswith("verified 20 acknowledged readings: lost 0,")


def test_it_waits_for_readings_that_are_still_on_their_way(execute: Execute, url: str) -> None:
    fleet = Fleet()
    fleet.acknowledge()
    store(execute, *fleet.sent[:-1])
    heard = []

    def on_wait(stored: int, acknowledged: int) -> None:
        heard.append((stored, acknowledged))
        store(execute, fleet.sent[-1])

    assert fleet.verify(url, 30.0, on_wait).clean
    assert heard == [(19, 20)]


def test_it_waits_also_when_as_many_rows_as_acknowledged_are_others(execute: Execute, url: str) -> None:
    """A count alone would be satisfied by what was stored without its acknowledgement having come back."""
    fleet = Fleet()
    fleet.acknowledge(fleet.sent[0])
    store(execute, *fleet.sent[:-1])
    heard = []

    def on_wait(stored: int, acknowledged: int) -> None:
        heard.append((stored, acknowledged))
        store(execute, fleet.sent[-1])

    assert fleet.verify(url, 30.0, on_wait).clean
    assert heard == [(19, 19)]


def test_past_the_deadline_it_says_what_is_lost_and_shows_the_first_few(execute: Execute, url: str) -> None:
    fleet = Fleet()
    fleet.acknowledge()
    started = time.monotonic()
    findings = fleet.verify(url, 0.5)
    assert 0.5 <= time.monotonic() - started < 5
    assert numbers(findings) == (20, 0, 5)
    assert len(findings.examples) == EXAMPLES_MAX


def test_nothing_was_sent(url: str) -> None:
    evidence = Evidence(make_fleet({"meter": 1, "vehicle": 1}, "LOAD", Random(1)))
    findings = verify(Tables(url, "test"), evidence, "LOAD", 0.0, lambda _stored, _acknowledged: None)
    assert findings.line() == "verified 0 acknowledged readings: lost 0, duplicated 0, wrong 0"


def test_a_database_without_the_tables_is_said_before_the_run(url: str, execute: Execute) -> None:
    check_tables(Tables(url, "test"))
    execute("DROP TABLE meter_status")
    with pytest.raises(VerifyError, match=r"^the database at test lacks meter_status; run `wattline migrate` first$"):
        check_tables(Tables(url, "test"))


def test_a_missing_table_at_the_end_is_not_waited_for(fleet: Fleet, execute: Execute, url: str) -> None:
    execute("DROP TABLE vehicle_status")
    with pytest.raises(VerifyError, match="vehicle_status"):
        fleet.verify(url, 60.0)


def test_a_database_that_is_away() -> None:
    fleet = Fleet()
    fleet.acknowledge()
    url = "postgresql://postgres:secret@127.0.0.1:1/energy_db"
    for attempt in (lambda: check_tables(Tables(url, "the-label")), lambda: fleet.verify(url, 0.3)):
        with pytest.raises(VerifyError, match=r"^cannot read the database at .*refused.*DATABASE_URL") as raised:
            attempt()
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)

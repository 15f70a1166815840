"""What retention may drop: by the earlier clock, the newest reading, and two days at most without a person's yes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import psycopg
import pytest

from ingestor.clocks import ClockDoubtError, Clocks
from ingestor.housekeeping import quarantine, retention
from ingestor.housekeeping.retention import Plan, drop_due, look, plan
from ingestor.rejected.bound import ByteBound
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import ensure_partitions
from ledger.annul import annul
from ledger.stretch import Stretch
from postgres.connecting import Session, connect
from telemetry.kinds import METER
from tests.processes import WattlineProcess

T = TypeVar("T")
NOW = datetime(2026, 6, 30, 14, tzinfo=UTC)
TODAY = NOW.date()


def days_before(first: int, last: int) -> list[tuple[date, str]]:
    return [(TODAY - timedelta(days=n), f"day_{n}") for n in range(last, first - 1, -1)]


def names(found: Plan) -> list[str]:
    return [name for day, name in found.due if day < found.granted]


def test_one_day_a_day_goes_by_itself() -> None:
    found = plan(30, NOW, NOW, TODAY - timedelta(days=31), days_before(0, 31))
    assert names(found) == ["day_31"]
    assert found.held == []


def test_what_was_due_before_goes_with_two_days_more() -> None:
    """A reader held retention up for a week; the days that were due then are no news."""
    found = plan(30, NOW, NOW, TODAY - timedelta(days=32), days_before(0, 45))
    assert names(found) == [f"day_{n}" for n in range(45, 30, -1)]
    assert found.held == []


@pytest.mark.parametrize("reached", [None, TODAY - timedelta(days=60)])
def test_days_that_became_due_at_once_wait_for_a_yes_but_for_two(reached: date | None) -> None:
    found = plan(30, NOW, NOW, reached, days_before(0, 60))
    assert names(found) == ["day_60", "day_59"]
    assert found.held == [TODAY - timedelta(days=n) for n in range(58, 30, -1)]


def test_the_newest_reading_bounds_what_a_clock_can_do() -> None:
    """Both clocks are 400 days ahead, as on one machine; the devices are not."""
    found = plan(30, NOW + timedelta(days=400), NOW, TODAY - timedelta(days=30), days_before(0, 31))
    assert names(found) == ["day_31"]
    assert found.held == []
    both = plan(
        30, NOW + timedelta(days=400), NOW + timedelta(days=400), TODAY - timedelta(days=30), days_before(0, 31)
    )
    assert names(both) == ["day_31", "day_30", "day_29"]
    assert len(both.held) == 29


def test_a_clock_that_went_back_drops_nothing() -> None:
    found = plan(30, NOW - timedelta(days=400), NOW, TODAY - timedelta(days=30), days_before(0, 30))
    assert found.due == ()


class Store:
    """A migrated database with days of history up to today, a reading and a sum in each."""

    def __init__(self, url: str) -> None:
        self.url = url

    def do(self, work: Callable[[Session], Awaitable[T]]) -> T:
        async def on_a_session() -> T:
            async with await connect(self.url, autocommit=True) as session:
                return await work(session)

        return asyncio.run(on_a_session())

    def days(self) -> list[int]:
        """Which days have readings, by their age."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT DISTINCT current_date - (ts AT TIME ZONE 'UTC')::date FROM meter_readings_history ORDER BY 1"
            ).fetchall()
            sums = connection.execute(
                "SELECT DISTINCT current_date - (hour AT TIME ZONE 'UTC')::date FROM meter_hourly ORDER BY 1"
            ).fetchall()
        assert rows == sums
        return [row[0] for row in rows]

    def round(self, clocks: Clocks, *, yes: bool = False) -> list[str]:
        return self.do(lambda session: drop_due(session, 30, clocks, yes=yes))[1]


@pytest.fixture
def store(database_url: str) -> Store:
    store = Store(database_url)

    async def fill(session: Session) -> None:
        await migrate(session)
        ages = [*range(3), *range(28, 41)]
        today = datetime.now(UTC).date()
        await ensure_partitions(session, [today - timedelta(days=age) for age in ages])
        for table in ("meter_readings_history (ts, meter_id, kwh_consumed_ac, voltage)", "meter_hourly"):
            await session.execute(
                f"INSERT INTO {table} SELECT date_trunc('day', now()) - age * interval '1 day', 'M', 1, 1"
                " FROM unnest(%s::int[]) AS age".encode(),
                [ages],
            )
        await session.execute("INSERT INTO meter_status VALUES ('M', 1, 230, now(), now())")

    store.do(fill)
    return store


ALL = [*range(3), *range(28, 41)]


def ahead(days: float) -> Clocks:
    return Clocks(300, now=lambda: time.time() + days * 86_400)


@pytest.mark.parametrize("days", [400, -400, 0.001])
def test_clocks_that_disagree_stop_all_deleting(store: Store, days: float) -> None:
    async def both(session: Session) -> None:
        for chore in (
            retention.chore(30, ahead(days), lambda _: None),
            quarantine.chore(1, ahead(days), ByteBound(1_000_000_000)),
        ):
            with pytest.raises(ClockDoubtError):
                await chore.round(session)
        with pytest.raises(ClockDoubtError):
            await drop_due(session, 30, ahead(days), yes=True)

    with psycopg.connect(store.url) as connection:
        connection.execute(
            "INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason)"
            " VALUES (now() - interval '9 days', 't', '', 'invalid_json', '')"
        )
    store.do(both)
    assert store.days() == ALL
    with psycopg.connect(store.url) as connection:
        assert connection.execute("SELECT count(*) FROM rejected_messages").fetchone() == (1,)


def test_two_days_go_and_no_more_in_any_later_round_until_a_person_says_yes(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    held: list[int] = []
    chore = retention.chore(30, ahead(0), held.append)
    for _ in range(3):
        assert store.do(chore.round) is False
        assert store.days() == [day for day in ALL if day <= 38]
    assert held == [8, 8, 8]
    assert caplog.text.count("wattline retention run --yes") == 1
    assert len(store.round(ahead(0), yes=True)) == 16
    assert store.days() == [day for day in ALL if day <= 30]
    assert store.do(lambda session: look(session, 29, ahead(0))).held == []


def test_annulled_readings_go_with_the_days_that_they_were_of(store: Store) -> None:
    async def annul_days(session: Session) -> None:
        now = datetime.now(UTC)
        for age in (2, 35):
            start = now - timedelta(days=age)
            async with session.transaction():
                await annul(
                    session, Stretch(METER, "M", start - timedelta(days=1), start), reason="a test", who="a test"
                )

    store.do(annul_days)
    store.round(ahead(0), yes=True)
    with psycopg.connect(store.url) as connection:
        ages = connection.execute(
            "SELECT current_date - (ts AT TIME ZONE 'UTC')::date FROM annulled_readings"
        ).fetchall()
        assert [age for (age,) in ages] == [2]
        assert connection.execute("SELECT count(*) FROM annulments").fetchone() == (2,)


def test_nothing_stored_by_any_device_with_a_status_is_no_reason_to_trust_the_clock(store: Store) -> None:
    with psycopg.connect(store.url) as connection:
        connection.execute("TRUNCATE meter_status")
        connection.execute("DELETE FROM meter_readings_history WHERE ts > now() - interval '5 days'")
        connection.execute("DELETE FROM meter_hourly WHERE hour > now() - interval '5 days'")
    assert store.round(ahead(0)) == []
    assert store.days() == [*range(28, 41)]


def test_the_command(store: Store, start_wattline: Callable[..., WattlineProcess]) -> None:
    def retention_command(*arguments: str, days: str = "30") -> str:
        process = start_wattline("retention", *arguments, DATABASE_URL=store.url, RETENTION_DAYS=days)
        assert process.wait() == 0, process.output()
        return process.output()

    assert "everything is kept" in retention_command("run", days="0")
    shown = retention_command()
    today = datetime.now(UTC).date()
    assert f"RETENTION_DAYS=30 keeps {today - timedelta(days=30)} and what is later" in shown
    assert shown.count("due: ") == 20
    assert shown.count("kept until a person says yes") == 16
    assert "8 days became due at once and are kept" in shown
    assert store.days() == ALL
    assert retention_command("run").count("dropped ") == 4
    assert retention_command("run", "--yes").count("dropped ") == 16
    assert store.days() == [day for day in ALL if day <= 30]
    assert "nothing is due" in retention_command()

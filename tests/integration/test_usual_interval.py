"""The usual interval of a device: by a slow oracle, and by what people expect of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import psycopg
import pytest

from ingestor.housekeeping.usual_intervals import chore
from ingestor.usual_interval import APART, MOMENTS, READINGS_EACH, READINGS_MIN, learn, significant
from postgres.connecting import connect
from telemetry.kinds import METER
from tests.api_process import MeterRow, prepare, store

pytestmark = pytest.mark.citus_too

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LATELY = timedelta(days=3650)
NOW = datetime.now(UTC)


def oracle(readings: list[datetime]) -> float | None:
    """The median of the gaps before each of the moments, one by one."""
    newest, gaps, seen = max(readings), list[float](), set[datetime]()
    for step in range(MOMENTS):
        latest = sorted((ts for ts in readings if ts <= newest - step * APART), reverse=True)[:READINGS_EACH]
        seen.update(latest)
        gaps += [(later - earlier).total_seconds() for later, earlier in pairwise(latest)]
    if len(seen) < READINGS_MIN:
        return None
    return significant(sorted(gaps)[(len(gaps) - 1) // 2])


def every(interval: timedelta, start: timedelta, end: timedelta = timedelta()) -> list[datetime]:
    """A reading every `interval`, from `start` ago until `end` ago."""
    return [NOW - end - number * interval for number in range(int((start - end) / interval))]


def report(url: str, fleet: Mapping[str, list[datetime]]) -> None:
    store(url, [MeterRow(device_id, ts, 1.0) for device_id, readings in fleet.items() for ts in sorted(readings)])


def learned(url: str, fleet: Mapping[str, list[datetime]], *, known_too: bool = True) -> dict[str, float | None]:
    async def story() -> None:
        async with await connect(url, autocommit=True) as connection:
            await learn(connection, METER, lately=LATELY, known_too=known_too)

    report(url, fleet)
    asyncio.run(story())
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT meter_id, usual_interval_seconds FROM meter_status").fetchall())


def test_it_is_what_an_oracle_says(database_url: str) -> None:
    rng, fleet = Random(11), dict[str, list[datetime]]()
    for number in range(60):
        moment, readings = NOW, set[datetime]()
        usual = rng.choice((20, 60, 900, 3600, 6 * 3600))
        for _ in range(rng.choice((1, 2, 3, 4, 5, 30, 200))):
            gap = rng.choice((usual, usual, usual * rng.uniform(0.5, 2), rng.uniform(0.001, 3 * 3600)))
            moment -= timedelta(seconds=gap)
            if moment > NOW - timedelta(days=7):
                readings.add(moment)
        fleet[f"M-{number}"] = list(readings or {NOW})
    prepare(database_url)
    assert learned(database_url, fleet) == {device_id: oracle(readings) for device_id, readings in fleet.items()}


def test_no_single_event_decides(database_url: str) -> None:
    second = timedelta(seconds=1)
    fleet = {
        "steady": every(MINUTE, DAY),
        "quarters": every(15 * MINUTE, DAY),
        "daily": every(DAY, 7 * DAY),
        "jitter": [ts + number % 7 * timedelta(milliseconds=2) for number, ts in enumerate(every(MINUTE, DAY))],
        "burst": every(15 * MINUTE, DAY) + every(second, 2 * MINUTE, MINUTE),
        "burst of long ago": every(15 * MINUTE, DAY) + every(second, 10 * 60 * MINUTE, 9 * 60 * MINUTE + 50 * MINUTE),
        "outage": every(MINUTE, 2 * DAY, 20 * 60 * MINUTE) + every(MINUTE, 30 * MINUTE),
        "losses": [ts for number, ts in enumerate(every(MINUTE, DAY)) if number % 4],
        "new rhythm": every(MINUTE, 2 * DAY, 14 * 60 * MINUTE) + every(15 * MINUTE, 14 * 60 * MINUTE),
        "too few": every(MINUTE, 3 * MINUTE),
        "just enough": every(MINUTE, 4 * MINUTE),
        "silent for hours": every(MINUTE, DAY, 10 * 60 * MINUTE),
    }
    prepare(database_url)
    assert learned(database_url, fleet) == {
        "steady": 60,
        "quarters": 900,
        "daily": 86_400,
        "jitter": pytest.approx(60, rel=0.005),
        "burst": 900,
        "burst of long ago": 900,
        "outage": 60,
        "losses": 60,
        "new rhythm": 900,
        "too few": None,
        "just enough": 60,
        "silent for hours": 60,
    }


def test_a_status_that_somebody_writes_is_left_for_the_next_time(database_url: str) -> None:
    prepare(database_url)
    fleet = {"M-1": every(MINUTE, DAY / 24), "M-2": every(MINUTE, DAY / 24)}
    learned(database_url, {"M-0": [NOW]})
    with psycopg.connect(database_url) as flush:
        report(database_url, fleet)
        flush.execute("UPDATE meter_status SET voltage = 1 WHERE meter_id = 'M-1'")
        assert learned(database_url, {}) == {"M-0": None, "M-1": None, "M-2": 60}
    assert learned(database_url, {}, known_too=False) == {"M-0": None, "M-1": 60, "M-2": 60}


def test_the_chore_looks_at_new_devices_soon_and_at_all_once_an_hour(database_url: str) -> None:
    prepare(database_url)
    seconds = 0.0
    work = chore(lambda: seconds)

    def known() -> dict[str, float | None]:
        async def one_round() -> None:
            async with await connect(database_url, autocommit=True) as session:
                assert await work.round(session) is False

        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE meter_status SET last_updated = now()")  # NOW may be a while ago
        asyncio.run(one_round())
        with psycopg.connect(database_url) as connection:
            return dict(connection.execute("SELECT meter_id, usual_interval_seconds FROM meter_status").fetchall())

    report(database_url, {"old": every(MINUTE, DAY / 24)})
    assert known() == {"old": 60}
    more = [ts - MINUTE / 60 for ts in every(MINUTE / 6, DAY)]
    report(database_url, {"old": more, "new": every(MINUTE, DAY / 24)})
    seconds = 3599.0
    assert known() == {"old": 60, "new": 60}
    seconds = 3600.0
    assert known() == {"old": 10, "new": 60}

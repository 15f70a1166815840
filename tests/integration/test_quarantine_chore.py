"""The chore `quarantine`: of too much the oldest goes, and what is too old where the clocks agree."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from ingestor.clocks import ClockDoubtError, Clocks
from ingestor.housekeeping import quarantine
from ingestor.housekeeping.partitions_ahead import make_partitions_ahead
from ingestor.rejected.bound import ByteBound
from postgres.connecting import connect

NOW = datetime.now(UTC)
PAYLOAD = b"x" * 10_000
BYTES_MAX = 10 * (len(PAYLOAD) + 500)


def refused(url: str, count: int, *, days_ago: float = 0.0, code: str = "invalid_json") -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.cursor().executemany(
            "INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason)"
            " VALUES (%s, %s, %s, %s, '')",
            [(NOW - timedelta(days=days_ago), f"t/{number}", PAYLOAD, code) for number in range(count)],
        )


def topics(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [
            row[0]
            for row in connection.execute("SELECT reason_code || ' ' || topic FROM rejected_messages ORDER BY id")
        ]


def rounds(count: int, url: str, bound: ByteBound, clocks: Clocks) -> list[bool]:
    """Of one chore; whether each left something to do."""

    async def story() -> list[bool]:
        async with await connect(url, autocommit=True) as session:
            chore = quarantine.chore(30, clocks, bound)
            return [await chore.round(session) for _ in range(count)]

    return asyncio.run(story())


def test_past_its_bytes_the_oldest_go_nonsense_before_readings(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused(database_url, 2, code="too_old")
    refused(database_url, 18)
    bound = ByteBound(BYTES_MAX)
    assert rounds(1, database_url, bound, Clocks(300)) == [False]
    left = topics(database_url)
    assert left[:2] == ["too_old t/0", "too_old t/1"]
    assert left[2:] == [f"invalid_json t/{number}" for number in range(18)][-len(left[2:]) :]
    assert 0 < bound.held <= BYTES_MAX
    assert bound.deleted_since_vacuum == 0  # so much was deleted that it has been vacuumed
    assert f"deleted the oldest {20 - len(left)} refused messages: REJECTED_MAX_BYTES is reached" in caplog.text


def test_what_is_too_old_goes_in_chunks(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(quarantine, "CHUNK_ROWS", 2)
    monkeypatch.setattr(quarantine, "CHUNKS_PER_ROUND", 1)
    refused(database_url, 3, days_ago=31)
    refused(database_url, 1, days_ago=29)
    assert rounds(3, database_url, ByteBound(10**9), Clocks(300)) == [True, False, False]
    assert topics(database_url) == ["invalid_json t/0"]
    assert caplog.text.count("refused messages after 30 days") == 2


def test_clocks_that_disagree_keep_everything(database_url: str) -> None:
    refused(database_url, 3, days_ago=31)
    ahead = Clocks(300, now=lambda: datetime.now(UTC).timestamp() + 3600)
    with pytest.raises(ClockDoubtError):
        rounds(1, database_url, ByteBound(10**9), ahead)
    assert len(topics(database_url)) == 3


def test_partitions_ahead_are_told_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with await connect(database_url, autocommit=True) as session:
            for _ in range(2):
                assert await make_partitions_ahead(session) is False

    asyncio.run(story())
    told = [record.message for record in caplog.records if record.message.startswith("partitions made")]
    assert len(told) == 1
    assert f"meter_readings_history_p{NOW + timedelta(days=3):%Y%m%d}" in told[0]

"""Hourly sums: what a flush says about them, and how they are made.

Summing inside the flush would halve its rate, so a flush only says which hours its readings belong to (rows in
`hourly_invalidations`, in its own transaction) and `roll` sums those hours later. Readers trust a sum only where they
see no such row, so they are exact at every moment. Three rules keep it so under READ COMMITTED: the rows have no unique
key, the lock is a statement of its own and the first, and the DELETE comes before the sum. Then a reading that the sum
does not see has its row still there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.batch import Batch, Row
from postgres.locks import AdvisoryLock, try_lock_in_transaction
from telemetry.kinds import SqlByKind

HOUR = timedelta(hours=1)
HOUR_SECONDS = 3600
HOUR_US = HOUR_SECONDS * 1_000_000
# Of a past hour so many devices are named one by one in a batch; from there on the whole hour is summed again (0.4 µs a
# reading), so that a backfill does not write a row here for every row of history.
LATE_DEVICES_MAX = 100
# Hours that one transaction sums, of either kind: some 0.3 s each at the reference load, and nobody waits for it.
HOURS_PER_ROLL = 4

Invalidation = tuple[str, datetime, str | None]
"""(kind, start of the hour, device id; None = any device)"""

INVALIDATE: LiteralString = """
    INSERT INTO hourly_invalidations (kind, hour, device_id, place)
    SELECT kind, hour, device_id, coalesce(device_id, hourly_places.place)
    FROM unnest(%s::text[], %s::timestamptz[], %s::text[]) AS invalid (kind, hour, device_id)
    LEFT JOIN hourly_places ON device_id IS NULL"""

# Invalid hours that are over, newest first: those are asked for most.
TAKE: LiteralString = """
    WITH taken AS (
        DELETE FROM hourly_invalidations
        WHERE (kind, hour) IN (
            SELECT kind, hour FROM hourly_invalidations WHERE hour < date_trunc('hour', now(), 'UTC')
            GROUP BY kind, hour ORDER BY hour DESC LIMIT %s
        )
        RETURNING kind, hour, device_id
    )
    SELECT DISTINCT kind, hour, device_id FROM taken"""

# All sums of an hour, before they are made again.
FORGET = SqlByKind("DELETE FROM {hourly} WHERE hour = %(hour)s")

# An hour of all devices; finds its readings by the BRIN index on ts.
SUM_HOUR = SqlByKind("""
    INSERT INTO {hourly} (hour, {id}, {hours}, readings)
    SELECT %(hour)s, {id}, {sums}, count(*)
    FROM {history}
    WHERE ts >= %(hour)s AND ts < %(end)s
    GROUP BY {id}
    ORDER BY {id}""")

# The sums of some devices: one whose readings of that hour were all annulled has none any more.
FORGET_DEVICES = SqlByKind("DELETE FROM {hourly} WHERE hour = %(hour)s AND {id} = ANY(%(devices)s::text[])")

# Some devices of an hour, by the primary key of the history.
SUM_DEVICES = SqlByKind("""
    INSERT INTO {hourly} (hour, {id}, {hours}, readings)
    SELECT %(hour)s, {id}, {sums}, count(*)
    FROM {history}
    WHERE {id} = ANY(%(devices)s::text[]) AND ts >= %(hour)s AND ts < %(end)s
    GROUP BY {id}""")

# What is past its retention.
DELETE_EXPIRED = SqlByKind("DELETE FROM {hourly} WHERE hour < %s")


@dataclass(frozen=True)
class Rolled:
    """What one transaction of the roller did."""

    hours: int
    """(kind, hour) pairs summed, in whole or for some devices."""
    more: bool
    """Whether it stopped at its limit."""


def hour_of(moment: datetime) -> datetime:
    """The start of the hour that `moment` belongs to, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def invalidations(batch: Batch, seconds: Iterable[int], now: float) -> list[Invalidation]:
    """The hours whose sums a batch makes wrong. `seconds` are those (since 1970) that its readings belong to; `now`
    decides only how an hour is written down, never whether.
    """
    running = int(now) // HOUR_SECONDS
    hours = {second // HOUR_SECONDS for second in seconds}
    found: list[Invalidation] = []
    for kind, rows in batch.rows.items():
        if rows:
            found += [(kind, _start(hour), None) for hour in sorted(hours) if hour >= running]
    if any(hour < running for hour in hours):
        for kind, rows in batch.rows.items():
            found += _late(kind, rows, running)
    return found


async def invalidate(connection: AsyncConnection[TupleRow], found: Sequence[Invalidation]) -> None:
    """Write them down; part of the transaction that stores their readings."""
    if found:
        kinds, hours, devices = zip(*found, strict=True)
        await connection.execute(INVALIDATE, (list(kinds), list(hours), list(devices)))


async def roll(connection: AsyncConnection[TupleRow], hours_max: int = HOURS_PER_ROLL) -> Rolled | None:
    """Sum up to `hours_max` invalid hours again, in one transaction; None while another process is at it.

    The connection must be outside a transaction and READ COMMITTED.
    """
    async with connection.transaction():
        if not await try_lock_in_transaction(connection, AdvisoryLock.HOURLY_SUMS):
            return None
        taken: defaultdict[tuple[str, datetime], set[str | None]] = defaultdict(set)
        for kind, hour, device_id in await (await connection.execute(TAKE, [hours_max])).fetchall():
            taken[kind, hour].add(device_id)
        for (kind, hour), devices in taken.items():
            await _sum(connection, kind, hour, devices)
    return Rolled(len(taken), len(taken) >= hours_max)


async def delete_expired_sums(connection: AsyncConnection[TupleRow], before: datetime) -> int:
    """Delete the sums of hours before `before`; the result is how many rows that were."""
    deleted = 0
    for statement in DELETE_EXPIRED.values():
        deleted += (await connection.execute(statement, [before])).rowcount
    return deleted


async def _sum(connection: AsyncConnection[TupleRow], kind: str, hour: datetime, devices: set[str | None]) -> None:
    bounds: dict[str, object] = {"hour": hour, "end": hour + HOUR}
    if None in devices:
        await connection.execute(FORGET[kind], bounds)
        await connection.execute(SUM_HOUR[kind], bounds, prepare=False)
    else:
        some = bounds | {"devices": sorted(filter(None, devices))}
        await connection.execute(FORGET_DEVICES[kind], some)
        await connection.execute(SUM_DEVICES[kind], some, prepare=False)


def _late(kind: str, rows: Sequence[Row], running: int) -> Iterator[Invalidation]:
    running_us = running * HOUR_US
    late: defaultdict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row[1] < running_us:
            late[row[1] // HOUR_US].add(row[0])
    for hour in sorted(late):
        if len(late[hour]) > LATE_DEVICES_MAX or not all(map(_can_be_named, late[hour])):
            yield kind, _start(hour), None
        else:
            yield from ((kind, _start(hour), device_id) for device_id in sorted(late[hour]))


def _can_be_named(device_id: object) -> bool:
    """Whether PostgreSQL can be sent this id: a row of a batch may be one that it refuses, and costs nobody else."""
    return isinstance(device_id, str) and "\0" not in device_id and device_id.isprintable()


def _start(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_SECONDS, UTC)

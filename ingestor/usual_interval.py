"""The usual interval of a device: how often it reports, learned from its own readings.

It is the median of the gaps between readings at moments spread over the last day, so that no single event decides: a
burst is met at one or two of the moments, an outage is one gap, and readings that came late count at the time at which
they were measured. A new rhythm is the usual one once it has lasted for half a day. All of it is looked up by the
primary key, off the path of the readings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from telemetry.kinds import Kind, SqlByKind

# Moments count back from a device's newest reading, so that one that is silent keeps its rhythm.
MOMENTS = 8
APART = timedelta(hours=3)
# So many readings are looked at from each moment backwards.
READINGS_EACH = 6
# With fewer readings than this nothing is known.
READINGS_MIN = 4
# What is older says nothing about today; it also bounds the partitions that are looked into, and locked.
OLDEST = timedelta(days=8)
# No rhythm is more exact than that, and a value that stays the same is not written again.
SIGNIFICANT_DIGITS = 3
# Devices in one statement: some 50 ms.
DEVICES_EACH = 500
# Written in one transaction, which holds them for some 10 ms.
WRITTEN_EACH = 100

# The next devices after one, by id, that have sent something lately; all of them, or those whose interval is unknown.
DEVICES = SqlByKind("""
    SELECT {id} FROM {status}
    WHERE {id} > %(after)s AND last_updated > now() - %(lately)s AND (%(known_too)s OR usual_interval_seconds IS NULL)
    ORDER BY {id} LIMIT %(rows)s""")

# Of each device what was learned before, and the median gap; null where there are too few readings.
GAPS = SqlByKind("""
    SELECT device.id, device.usual_interval_seconds,
        CASE WHEN count(DISTINCT reading.ts) >= %(readings_min)s
            THEN percentile_disc(0.5) WITHIN GROUP (ORDER BY reading.gap) END
    FROM (
        SELECT {id} AS id, last_reading, usual_interval_seconds, generate_series(0, %(moments)s - 1) AS step
        FROM {status} WHERE {id} = ANY(%(devices)s::text[])
    ) AS device
    CROSS JOIN LATERAL (
        SELECT ts, extract(epoch FROM ts - lead(ts) OVER (ORDER BY ts DESC))::float8 AS gap
        FROM (
            SELECT ts FROM {history}
            WHERE {id} = device.id AND ts > %(oldest)s AND ts <= device.last_reading - device.step * %(apart)s
            ORDER BY ts DESC LIMIT %(readings_each)s
        ) AS latest
    ) AS reading
    GROUP BY device.id, device.usual_interval_seconds""")

# Of one device. Whose status a flush is just writing is left for the next time: neither waits for the other.
WRITE = SqlByKind("""
    UPDATE {status} SET usual_interval_seconds = %(seconds)s
    WHERE {id} = %(device_id)s AND {id} IN (
        SELECT {id} FROM {status} WHERE {id} = %(device_id)s FOR NO KEY UPDATE SKIP LOCKED
    )""")


async def learn(connection: AsyncConnection[TupleRow], kind: Kind, *, lately: timedelta, known_too: bool = True) -> int:
    """Learn the usual interval of devices that have sent something `lately`; of those whose interval is known only if
    `known_too`. The result is how many have another one now.

    The connection must be in autocommit mode: a status is held for a moment only.
    """
    after, written = "", 0
    while True:
        chosen = {"after": after, "lately": lately, "known_too": known_too, "rows": DEVICES_EACH}
        devices = [
            device_id for (device_id,) in await (await connection.execute(DEVICES[kind.name], chosen)).fetchall()
        ]
        if not devices:
            return written
        asked: dict[str, object] = {
            "devices": devices,
            "moments": MOMENTS,
            "apart": APART,
            "oldest": datetime.now(UTC) - OLDEST,
            "readings_each": READINGS_EACH,
            "readings_min": READINGS_MIN,
        }
        changes = []
        for device_id, known, gap in await (await connection.execute(GAPS[kind.name], asked, prepare=False)).fetchall():
            seconds = None if gap is None else significant(gap)
            if seconds != known:
                changes.append({"device_id": device_id, "seconds": seconds})
        for start in range(0, len(changes), WRITTEN_EACH):
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(WRITE[kind.name], changes[start : start + WRITTEN_EACH])
                written += cursor.rowcount
        after = devices[-1]


def significant(seconds: float) -> float:
    """Rounded to SIGNIFICANT_DIGITS."""
    return float(f"{seconds:.{SIGNIFICANT_DIGITS}g}")

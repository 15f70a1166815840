"""Readings of a batch that were annulled, with just these values: they were delivered again, and do not come back.

A flush must neither store what an annulment is about to take, nor miss one that has just committed. So both hold one
advisory lock from the first statement of their transaction to its end: flushes share it, an annulment or a restore has
it alone. A flush that comes first has committed when the annulment looks, which then finds its readings in the history;
one that comes later finds them in the ledger. The lock is a statement of its own, because under READ COMMITTED only
the statement after it is sure to see what was committed before it.

It costs a flush two round trips; more only while the time of its readings touches that of an annulment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from postgres.locks import AdvisoryLock, share_in_transaction
from telemetry.readings import EPOCH

Row: TypeAlias = tuple[Any, ...]
"""A reading: device id, microseconds since 1970, the measures in their declared order."""

FIRST_SECOND = int((datetime.min.replace(tzinfo=UTC) - EPOCH).total_seconds())
LAST_SECOND = int((datetime.max.replace(tzinfo=UTC) - EPOCH).total_seconds())

# Annulments of which some reading is not restored, in the time of a batch.
IN_FORCE: LiteralString = """
    SELECT kind, device_id, extract(epoch FROM from_ts) * 1000000, extract(epoch FROM to_ts) * 1000000
    FROM annulments
    WHERE restored < readings AND to_ts > %s AND from_ts <= %s"""

# The values that were annulled of some readings; of one more than once where it was corrected and annulled again.
ANNULLED: LiteralString = """
    SELECT reading.place, annulled.numbers
    FROM unnest(%(devices)s::text[], %(times)s::timestamptz[]) WITH ORDINALITY AS reading (device_id, ts, place)
    JOIN annulled_readings AS annulled USING (device_id, ts)
    WHERE annulled.kind = %(kind)s"""

_Stretches: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
"""[from, to) of the annulments of each device, in microseconds since 1970."""


async def without_annulled(
    connection: AsyncConnection[TupleRow], rows: Mapping[str, list[Row]], seconds: Collection[int]
) -> Mapping[str, list[Row]]:
    """The rows of a batch, by kind, that were not annulled with just these values.

    It has to be the first statement of a flush's transaction. `seconds` (since 1970) are those of the rows.
    """
    await share_in_transaction(connection, AdvisoryLock.ANNULMENTS)
    if not seconds:
        return rows
    in_force: defaultdict[str, defaultdict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    cursor = await connection.execute(IN_FORCE, [_moment(min(seconds)), _moment(max(seconds) + 1)])
    for kind, device_id, start_us, end_us in await cursor.fetchall():
        in_force[kind][device_id].append((int(start_us), int(end_us)))
    if not in_force:
        return rows
    return {
        kind: await _without(connection, kind, of_kind, in_force[kind]) if kind in in_force else of_kind
        for kind, of_kind in rows.items()
    }


async def _without(
    connection: AsyncConnection[TupleRow], kind: str, rows: list[Row], in_force: _Stretches
) -> list[Row]:
    asked = list(_touched(rows, in_force))
    if not asked:
        return rows
    parameters = {
        "kind": kind,
        "devices": [row[0] for row in asked],
        "times": [EPOCH + timedelta(microseconds=row[1]) for row in asked],
    }
    cursor = await connection.execute(ANNULLED, parameters)
    annulled = {(*asked[place - 1][:2], *numbers) for place, numbers in await cursor.fetchall()}
    return [row for row in rows if row not in annulled] if annulled else rows


def _touched(rows: Sequence[Row], in_force: _Stretches) -> Iterator[Row]:
    for row in rows:
        if any(start_us <= row[1] < end_us for start_us, end_us in in_force.get(row[0], ())):
            yield row


def _moment(second: int) -> datetime:
    """`second` since 1970, or the nearest that a calendar has."""
    return EPOCH + timedelta(seconds=max(FIRST_SECOND, min(second, LAST_SECOND)))

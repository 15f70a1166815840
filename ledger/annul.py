"""Annul: move the readings of a stretch of time from the history into the ledger.

One transaction moves the rows, says which hours have to be summed again, and makes the newest reading that is left the
device's status. No flush is under way meanwhile (`ledger.redelivered`); the roller may be: of an hour that it sums just
then our invalidation is left, as that of a late reading would be (`ingestor.hourly`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ledger.stretch import LOCK_TIMEOUT_MS, READINGS_MAX, Change, LedgerError, NothingThereError, Stretch
from postgres.locks import AdvisoryLock, lock_in_transaction
from telemetry.kinds import KINDS, Kind, SqlByKind

# Whether there are more than may be.
TOO_MANY = SqlByKind("""
    SELECT FROM {history} WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s
    OFFSET %(most)s LIMIT 1""")

HAS_ANY = SqlByKind("""
    SELECT FROM {history} WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s LIMIT 1""")

# The status is kept as it was, for a restore that has to make it again.
OPEN = SqlByKind("""
    INSERT INTO annulments
        (kind, device_id, from_ts, to_ts, reason, who, measures, readings, last_updated, usual_interval_seconds)
    SELECT %(kind)s, %(device_id)s, %(start)s, %(end)s, %(reason)s, %(who)s, %(measures)s, 0,
        status.last_updated, status.usual_interval_seconds
    FROM (VALUES (1)) AS always LEFT JOIN {status} AS status ON {id} = %(device_id)s
    RETURNING id""")

MOVE = SqlByKind("""
    WITH gone AS (
        DELETE FROM {history} WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s RETURNING *
    ), kept AS (
        INSERT INTO annulled_readings (annulment_id, kind, device_id, ts, numbers, ingested_at)
        SELECT %(annulment_id)s, '{kind}', {id}, ts, ARRAY[{measures}]::float8[], ingested_at FROM gone
    ), invalid AS (
        INSERT INTO hourly_invalidations (kind, hour, device_id, place)
        SELECT DISTINCT '{kind}', date_trunc('hour', ts, 'UTC'), {id}, {id} FROM gone
        RETURNING hour
    ), counted AS (
        UPDATE annulments SET readings = (SELECT count(*) FROM gone) WHERE id = %(annulment_id)s
    )
    SELECT count(*), coalesce({kwh}, 0), (SELECT count(*) FROM invalid) FROM gone""")

# Whether the newest reading is gone.
IS_NEWEST = SqlByKind("""
    SELECT FROM {status} WHERE {id} = %(device_id)s AND last_reading >= %(start)s AND last_reading < %(end)s""")
PREVIOUS = SqlByKind("""
    SELECT ts FROM {history} WHERE {id} = %(device_id)s AND ts >= %(since)s AND ts < %(start)s
    ORDER BY ts DESC LIMIT 1""")
# The one before it becomes the newest reading. Nothing else of the status changes: it was last updated when a reading
# was stored.
STEP_BACK = SqlByKind("""
    UPDATE {status} AS status SET last_reading = excluded.ts, {newer_measures}
    FROM (
        SELECT ts, {measures} FROM {history} WHERE {id} = %(device_id)s AND ts = %(previous)s
    ) AS excluded
    WHERE status.{id} = %(device_id)s""")
NOTHING_LEFT = SqlByKind("DELETE FROM {status} WHERE {id} = %(device_id)s")

# How far the reading before is looked for; farther where it is not found. A look locks the partitions of its time.
LOOK_BACK = (timedelta(days=8), timedelta(days=100), timedelta(days=36_500))
EARLIEST = datetime.min.replace(tzinfo=UTC)

# What is past its retention; that they were annulled stays known.
DELETE_EXPIRED = "DELETE FROM annulled_readings WHERE ts < %s"


@dataclass(frozen=True)
class Annulled(Change):
    """What was annulled, and the number that restores it."""

    annulment_id: int


async def kind_of(connection: AsyncConnection[TupleRow], device_id: str, start: datetime, end: datetime) -> Kind:
    """The kind of the device that has a reading in [start, end).

    Raises NothingThereError where there is none, LedgerError where devices of several kinds have that id.
    """
    place = {"device_id": device_id, "start": start, "end": end}
    found = []
    for kind in KINDS:
        # Taken back, so that its locks are not kept: of a long stretch they are many.
        async with connection.transaction(force_rollback=True):
            if (await connection.execute(HAS_ANY[kind.name], place, prepare=False)).rowcount:
                found.append(kind)
    if not found:
        raise NothingThereError(f"no device {device_id} has a reading in this stretch")
    if len(found) > 1:
        raise LedgerError(f"{' and '.join(kind.one for kind in found)} have the id {device_id}; say of which kind")
    return found[0]


async def annul(connection: AsyncConnection[TupleRow], stretch: Stretch, *, reason: str, who: str) -> Annulled:
    """Annul; all of a transaction, under READ COMMITTED. To learn what it would do, roll it back.

    Raises NothingThereError where no reading is in the stretch, LedgerError where there are more than READINGS_MAX, and
    psycopg.errors.LockNotAvailable where a flush, or somebody's lock, is in the way for LOCK_TIMEOUT_MS.
    """
    kind = stretch.kind.name
    place: dict[str, object] = {"device_id": stretch.device_id, "start": stretch.start, "end": stretch.end}
    await lock_in_transaction(connection, AdvisoryLock.ANNULMENTS, LOCK_TIMEOUT_MS)
    if (
        await (await connection.execute(TOO_MANY[kind], place | {"most": READINGS_MAX}, prepare=False)).fetchone()
        is not None
    ):
        raise LedgerError(f"there are more than {READINGS_MAX:,} readings in this stretch; annul it in parts")
    opened = {
        "kind": stretch.kind.name,
        "reason": reason,
        "who": who,
        "measures": [measure.column for measure in stretch.kind.measures],
    }
    (annulment_id,) = await _row(connection, OPEN[kind], place | opened)
    readings, kwh, hours = await _row(connection, MOVE[kind], place | {"annulment_id": annulment_id})
    if not readings:
        raise NothingThereError(f"{stretch.kind.name} {stretch.device_id} has no reading in this stretch")
    changed = await _step_back(connection, stretch, place)
    return Annulled(readings, kwh, hours, changed, annulment_id)


async def delete_expired_readings(connection: AsyncConnection[TupleRow], before: datetime) -> int:
    """Delete annulled readings from before `before`; the result is how many that were."""
    return (await connection.execute(DELETE_EXPIRED, [before])).rowcount


async def _step_back(connection: AsyncConnection[TupleRow], stretch: Stretch, place: Mapping[str, object]) -> bool:
    """Whether the status is another one now, or none."""
    kind = stretch.kind.name
    if not (await connection.execute(IS_NEWEST[kind], place)).rowcount:
        return False
    previous = await _previous(connection, stretch)
    if previous is None:
        await connection.execute(NOTHING_LEFT[kind], place)
    else:
        await connection.execute(STEP_BACK[kind], {**place, "previous": previous}, prepare=False)
    return True


async def _previous(connection: AsyncConnection[TupleRow], stretch: Stretch) -> datetime | None:
    """When the last reading before the stretch was."""
    query, start = PREVIOUS[stretch.kind.name], stretch.start
    for far in LOOK_BACK:
        since = max(start, EARLIEST + far) - far
        # Taken back, so that its locks are not kept.
        async with connection.transaction(force_rollback=True):
            asked = {"device_id": stretch.device_id, "start": start, "since": since}
            row = await (await connection.execute(query, asked, prepare=False)).fetchone()
        if row is not None:
            previous: datetime = row[0]
            return previous
    return None


async def _row(connection: AsyncConnection[TupleRow], query: bytes, parameters: Mapping[str, object]) -> TupleRow:
    row = await (await connection.execute(query, parameters, prepare=False)).fetchone()
    if row is None:
        raise LookupError("a statement that always answers with a row did not")
    return row

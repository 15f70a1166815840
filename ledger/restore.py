"""Restore: move the readings of an annulment from the ledger back into the history, to the bit.

A reading stays in the ledger where another one of its moment is stored by now; to have it back, annul the other first.
As with annulling, one transaction does all of it, and no flush is under way meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier, Literal

from ledger.stretch import LOCK_TIMEOUT_MS, Change, LedgerError, NothingThereError
from postgres.locks import AdvisoryLock, lock_in_transaction
from telemetry.kinds import BY_NAME, Kind, SqlByKind

FIND = "SELECT kind, device_id, measures, from_ts, to_ts FROM annulments WHERE id = %s"
LEFT = "SELECT count(*) FROM annulled_readings WHERE annulment_id = %s"

# The columns are those that the numbers were taken from: a measure that was declared since then gets its default.
MOVE_BACK = SQL("""
    WITH back AS (
        INSERT INTO {history} ({id}, ts, {measures}, ingested_at)
        SELECT device_id, ts, {numbers}, ingested_at FROM annulled_readings WHERE annulment_id = {annulment_id}
        ON CONFLICT ({id}, ts) DO NOTHING
        RETURNING *
    ), taken AS (
        DELETE FROM annulled_readings USING back WHERE annulment_id = {annulment_id} AND annulled_readings.ts = back.ts
    ), invalid AS (
        INSERT INTO hourly_invalidations (kind, hour, device_id, place)
        SELECT DISTINCT {kind}, date_trunc('hour', ts, 'UTC'), {id}, {id} FROM back
        RETURNING hour
    )
    SELECT count(*), coalesce({kwh}, 0), (SELECT count(*) FROM invalid) FROM back""")

COUNT: LiteralString = """
    UPDATE annulments SET restored = restored + %s, restored_at = now(), restored_by = %s WHERE id = %s"""

# The newest of the readings that came back becomes the status, where it is newer than that. Their stretch is what is
# looked into, and locked.
STEP_FORWARD = SqlByKind("""
    UPDATE {status} AS status SET last_reading = excluded.ts, {newer_measures}
    FROM (
        SELECT ts, {measures} FROM {history}
        WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s
        ORDER BY ts DESC LIMIT 1
    ) AS excluded
    WHERE status.{id} = %(device_id)s AND excluded.ts > status.last_reading""")

# Where an annulment took the status away, it is made again as it was, unless the device was forgotten since. There was
# no reading left then, so the newest one is of those that came back.
MAKE_AGAIN = SqlByKind("""
    INSERT INTO {status} ({id}, last_reading, {measures}, last_updated, usual_interval_seconds)
    SELECT %(device_id)s, newest.ts, {measures}, was.last_updated, was.usual_interval_seconds
    FROM (
        SELECT last_updated, usual_interval_seconds FROM annulments
        WHERE kind = '{kind}' AND device_id = %(device_id)s AND last_updated IS NOT NULL
            AND NOT EXISTS (
                SELECT FROM forgotten_devices AS gone
                WHERE gone.kind = annulments.kind AND gone.device_id = annulments.device_id
                    AND gone.forgotten_at > annulments.annulled_at
            )
        ORDER BY id DESC LIMIT 1
    ) AS was
    CROSS JOIN (
        SELECT ts, {measures} FROM {history}
        WHERE {id} = %(device_id)s AND ts >= %(start)s AND ts < %(end)s
        ORDER BY ts DESC LIMIT 1
    ) AS newest
    ON CONFLICT ({id}) DO NOTHING
    RETURNING {id}""")


@dataclass(frozen=True)
class Restored(Change):
    """What was restored, and of whom."""

    kind: Kind
    device_id: str
    left: int
    """Readings that stay in the ledger, because another one of their moment is stored by now."""


async def restore(connection: AsyncConnection[TupleRow], annulment_id: int, *, who: str) -> Restored:
    """Restore what can be; all of a transaction, under READ COMMITTED. Again it takes what was left.

    Raises NothingThereError where there is no such annulment, LedgerError where it has nothing to restore or the days
    of its readings are gone, and psycopg.errors.LockNotAvailable as `annul` does.
    """
    await lock_in_transaction(connection, AdvisoryLock.ANNULMENTS, LOCK_TIMEOUT_MS)
    found = await (await connection.execute(FIND, [annulment_id])).fetchone()
    if found is None:
        raise NothingThereError(f"there is no annulment {annulment_id}")
    kind_name, device_id, measures, start, end = found
    kind = BY_NAME[kind_name]
    try:
        row = await (await connection.execute(_move_back(kind, measures, annulment_id))).fetchone()
    except psycopg.errors.CheckViolation as error:  # no partition takes it
        raise LedgerError("the day of these readings is not part of the history any more") from error
    readings, kwh, hours = row or (0, 0.0, 0)
    left = int((await (await connection.execute(LEFT, [annulment_id])).fetchone() or (0,))[0])
    if not readings and not left:
        raise LedgerError(f"annulment {annulment_id} has nothing to restore (any more)")
    changed = 0
    if readings:
        await connection.execute(COUNT, [readings, who, annulment_id])
        place = {"device_id": device_id, "start": start, "end": end}
        changed = (await connection.execute(STEP_FORWARD[kind_name], place, prepare=False)).rowcount
        changed = changed or (await connection.execute(MAKE_AGAIN[kind_name], place, prepare=False)).rowcount
    return Restored(readings, kwh, hours, bool(changed), kind, device_id, left)


def _move_back(kind: Kind, measures: Sequence[str], annulment_id: int) -> Composed:
    energies = [measure.column for measure in kind.energies if measure.column in measures]
    return MOVE_BACK.format(
        history=Identifier(kind.history),
        id=Identifier(kind.id_column),
        measures=SQL(", ").join(map(Identifier, measures)),
        numbers=SQL(", ").join(SQL("numbers[{}]").format(Literal(place)) for place, _ in enumerate(measures, 1)),
        kwh=SQL(" + ").join(SQL("sum({})").format(Identifier(column)) for column in energies) if energies else SQL("0"),
        kind=Literal(kind.name),
        annulment_id=Literal(annulment_id),
    )

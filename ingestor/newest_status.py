"""The newest reading of each device, by its own timestamp: a late reading never overwrites a newer one.

`last_updated` is taken from `excluded`: Citus allows no function in DO UPDATE SET.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor import wire
from ingestor.batch import Row, newest_per_device
from postgres.spread import has_citus
from telemetry.kinds import Kind, SqlByKind

# The newest reading of each device: an older one never overwrites a newer one.
NEWEST = SqlByKind("""
    INSERT INTO {status} ({id}, last_reading, {measures}, last_updated)
    SELECT reading.*, now() FROM unnest({arrays}) AS reading
    ON CONFLICT ({id}) DO UPDATE SET
        last_reading = excluded.last_reading,
        {newer_measures},
        last_updated = excluded.last_updated
    WHERE excluded.last_reading > {status}.last_reading""")

# A late reading is a sign of life, too. NEWEST has locked these rows already.
SIGN_OF_LIFE = SqlByKind("""
    UPDATE {status} SET last_updated = now() WHERE {id} = ANY(%b::text[]) AND last_updated < now()""")


async def update_status(connection: AsyncConnection[TupleRow], kind: Kind, rows: Sequence[Row]) -> None:
    """The status after `rows`, none of which was stored before: a repetition must not bring back who was forgotten."""
    newest = newest_per_device(rows)
    cursor = await connection.execute(NEWEST[kind.name], wire.columns(newest))
    # Citus counts the rows that it was sent, also those that it left as they were.
    if cursor.rowcount < len(newest) or has_citus(connection):
        await connection.execute(SIGN_OF_LIFE[kind.name], [wire.text_array([row[0] for row in newest])])

"""The annulments there are, newest first: who took which readings out, why, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

# Null device_id, kind, before: any.
ANNULMENTS = """
    SELECT id, kind, device_id, from_ts AS start, to_ts AS "end", reason, who, annulled_at, readings, restored,
        restored_at, restored_by
    FROM annulments
    WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
        AND (%(device_id)s::text IS NULL OR device_id = %(device_id)s)
        AND (%(before)s::bigint IS NULL OR id < %(before)s)
    ORDER BY id DESC LIMIT %(rows)s"""


@dataclass(frozen=True)
class Annulment:
    """A row of `annulments`: readings of a device in [start, end)."""

    id: int
    kind: str
    device_id: str
    start: datetime
    end: datetime
    reason: str
    who: str
    annulled_at: datetime
    readings: int
    restored: int
    restored_at: datetime | None
    restored_by: str | None


async def annulments(
    connection: AsyncConnection[TupleRow], *, rows: int, kind: str | None = None, device_id: str | None = None
) -> list[Annulment]:
    """At most `rows` of them."""
    parameters = {"kind": kind, "device_id": device_id, "before": None, "rows": rows}
    async with connection.cursor(row_factory=class_row(Annulment)) as cursor:
        await cursor.execute(ANNULMENTS, parameters)
        return await cursor.fetchall()

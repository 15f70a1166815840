"""The quarantine as its commands read it: refused messages, newest first to look at, oldest first to replay.

It changes nothing but `replayed_at`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

# Half a second of a remote broker's round trips at most; of large payloads as many as make CHUNK_BYTES, and one more.
CHUNK_ROWS, CHUNK_BYTES = 100, 8_000_000
# What a payload was cut to by versions that did not write down how long it was.
ONCE_CUT_TO = 65_536

_COLUMNS: LiteralString = f"""
    id, received_at, topic, reason_code, reason, replayed_at,
    coalesce(payload_bytes, octet_length(payload)) AS payload_bytes,
    CASE
        WHEN payload_bytes IS NULL THEN octet_length(payload) = {ONCE_CUT_TO}
        ELSE payload_bytes <> octet_length(payload) OR topic_bytes <> octet_length(topic)
    END AS cut
"""
_NEWEST: LiteralString = f"""
    SELECT {_COLUMNS}, substring(payload FROM 1 FOR %(bytes)s) AS payload
    FROM rejected_messages
    WHERE %(code)s::text IS NULL OR reason_code = %(code)s
    ORDER BY received_at DESC, id DESC
    LIMIT %(limit)s
"""  # noqa: S608 - put together from constants
# Up to the newest id at the start: a replayed message that is refused again comes back under a newer one.
_CHOSEN: LiteralString = f"""
    WITH chosen AS (
        SELECT id, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before
        FROM rejected_messages
        WHERE id IN (
            SELECT id FROM rejected_messages
            WHERE id > %(after)s AND id <= %(last)s
                AND (id = ANY(%(ids)s) OR %(ids)s::bigint[] IS NULL AND replayed_at IS NULL)
                AND (%(code)s::text IS NULL OR reason_code = %(code)s)
            ORDER BY id
            LIMIT %(limit)s
        )
    )
    SELECT {_COLUMNS}, payload
    FROM rejected_messages JOIN chosen USING (id)
    WHERE bytes_before <= %(bytes)s
    ORDER BY id
"""  # noqa: S608 - put together from constants
_LAST = "SELECT coalesce(max(id), 0) FROM rejected_messages"
_REPLAYED = "UPDATE rejected_messages SET replayed_at = now() WHERE id = ANY(%s)"


@dataclass(frozen=True)
class Refused:
    """A refused message, or item of an array, with its payload or the start of it."""

    id: int
    received_at: datetime
    topic: str
    reason_code: str
    reason: str
    replayed_at: datetime | None
    payload_bytes: int
    """How many bytes came."""
    cut: bool
    """Only a part of the topic or the payload was kept, so that it cannot be replayed."""
    payload: bytes


@dataclass(frozen=True)
class Choice:
    """Which messages to replay: those named by id, else all not replayed yet, of one reason code or of all."""

    ids: Sequence[int] | None = None
    code: str | None = None


async def newest(
    connection: AsyncConnection[TupleRow], limit: int, code: str | None, payload_bytes: int
) -> list[Refused]:
    """The `limit` newest, with at most `payload_bytes` of each payload."""
    async with connection.cursor(row_factory=class_row(Refused)) as cursor:
        await cursor.execute(_NEWEST, {"limit": limit, "code": code, "bytes": payload_bytes})
        return await cursor.fetchall()


async def chosen(connection: AsyncConnection[TupleRow], choice: Choice) -> AsyncIterator[list[Refused]]:
    """What `choice` names, oldest first, whole, in chunks."""
    cursor = await connection.execute(_LAST)
    (last,) = await cursor.fetchone() or (0,)
    after = 0
    while True:
        async with connection.cursor(row_factory=class_row(Refused)) as chunks:
            parameters = {
                "ids": choice.ids and list(choice.ids),
                "code": choice.code,
                "limit": CHUNK_ROWS,
                "bytes": CHUNK_BYTES,
            }
            await chunks.execute(_CHOSEN, {**parameters, "after": after, "last": last})
            chunk = await chunks.fetchall()
        if not chunk:
            return
        yield chunk
        after = chunk[-1].id


async def mark_replayed(connection: AsyncConnection[TupleRow], ids: Sequence[int]) -> None:
    """The broker has these again."""
    await connection.execute(_REPLAYED, [list(ids)])

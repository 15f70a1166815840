"""The quarantine as its commands read it: refused messages, newest first to look at, oldest first to replay.

It changes nothing but what became of a replay.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

from ingestor.rejected.store import as_kept

# Half a second of a remote broker's round trips at most; of large payloads as many as make CHUNK_BYTES, and one more.
CHUNK_ROWS, CHUNK_BYTES = 100, 8_000_000
# What a payload was cut to by versions that did not write down how long it was.
ONCE_CUT_TO = 65_536

_COLUMNS: LiteralString = f"""
    id, received_at, topic, reason_code, reason, replayed_at, refused_again_at,
    coalesce(payload_bytes, octet_length(payload)) AS payload_bytes,
    CASE
        WHEN payload_bytes IS NULL THEN octet_length(payload) = {ONCE_CUT_TO}
        ELSE payload_bytes <> octet_length(payload) OR topic_bytes <> octet_length(topic)
    END AS cut
"""
# Each where it is asked for. The id of a device is what its topic ends with.
_WHERE: LiteralString = """
    (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s))
    AND (%(code)s::text IS NULL OR reason_code = %(code)s)
    AND (%(device)s::text IS NULL OR right(topic, length(%(device)s::text) + 1) = '/' || %(device)s::text)
    AND (%(topic_prefix)s::text IS NULL OR starts_with(topic, %(topic_prefix)s))
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
"""
_NEWEST: LiteralString = f"""
    SELECT {_COLUMNS}, substring(payload FROM 1 FOR %(bytes)s) AS payload
    FROM rejected_messages
    WHERE {_WHERE}
    ORDER BY received_at DESC, id DESC
    LIMIT %(limit)s
"""  # noqa: S608 - put together from constants
# Up to the newest id at the start: what is refused meanwhile is not a part of this.
_CHOSEN: LiteralString = f"""
    WITH chosen AS (
        SELECT id, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before
        FROM rejected_messages
        WHERE id IN (
            SELECT id FROM rejected_messages
            WHERE id > %(after)s AND id <= %(last)s
                AND (%(ids)s::bigint[] IS NOT NULL OR replayed_at IS NULL)
                AND {_WHERE}
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
_REPLAYED = "UPDATE rejected_messages SET replayed_at = now() WHERE id = %s"
_REFUSED_AGAIN = """
    UPDATE rejected_messages SET replayed_at = NULL, refused_again_at = now(), reason_code = %s, reason = %s
    WHERE id = %s
"""


@dataclass(frozen=True)
class Quarantined:
    """A refused message, or item of an array, with its payload or the start of it."""

    id: int
    received_at: datetime
    topic: str
    reason_code: str
    reason: str
    replayed_at: datetime | None
    """When it was found stored; None: it waits, though it may have been refused again."""
    refused_again_at: datetime | None
    payload_bytes: int
    """How many bytes came."""
    cut: bool
    """Only a part of the topic or the payload was kept, so that it cannot be replayed."""
    payload: bytes


@dataclass(frozen=True)
class Choice:
    """Which messages: those to which all of this applies that is not None. To replay are only those that were not
    replayed yet, unless they are named by id.
    """

    ids: list[int] | None = None
    code: str | None = None
    device: str | None = None
    topic_prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Received in [since, until)."""


async def newest(
    connection: AsyncConnection[TupleRow], limit: int, choice: Choice, payload_bytes: int
) -> list[Quarantined]:
    """The `limit` newest of those chosen, with at most `payload_bytes` of each payload."""
    async with connection.cursor(row_factory=class_row(Quarantined)) as cursor:
        await cursor.execute(_NEWEST, {**asdict(choice), "limit": limit, "bytes": payload_bytes})
        return await cursor.fetchall()


async def chosen(connection: AsyncConnection[TupleRow], choice: Choice) -> AsyncIterator[list[Quarantined]]:
    """What `choice` names, oldest first, whole, in chunks."""
    cursor = await connection.execute(_LAST)
    (last,) = await cursor.fetchone() or (0,)
    after = 0
    while True:
        async with connection.cursor(row_factory=class_row(Quarantined)) as chunks:
            bounds = {"after": after, "last": last, "limit": CHUNK_ROWS, "bytes": CHUNK_BYTES}
            await chunks.execute(_CHOSEN, {**asdict(choice), **bounds})
            chunk = await chunks.fetchall()
        if not chunk:
            return
        yield chunk
        after = chunk[-1].id


async def mark_replayed(connection: AsyncConnection[TupleRow], number: int) -> None:
    """Every reading of a message is stored."""
    await connection.execute(_REPLAYED, [number])


async def mark_refused_again(connection: AsyncConnection[TupleRow], number: int, code: str, reason: str) -> None:
    """A message was refused once more, for a reason that may be another one."""
    await connection.execute(_REFUSED_AGAIN, [code, as_kept(reason), number])

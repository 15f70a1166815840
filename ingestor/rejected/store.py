"""Refusals into quarantine, as the last part of the transaction that stores their batch, and never in its way.

Whatever the table refuses (by size, encoding, a trigger or rule of its owner's, a right taken away, a lock) is looked
for by halving, tried once more in a smaller form, and handed back as lost: the readings of the batch commit all the
same. Only a session that ended is an error here.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.batch import VALID_CODES, Refusal
from ingestor.rejected import queries
from ingestor.rejected.bound import ByteBound
from ingestor.transactions import is_alive, raised_on_purpose
from postgres.locks import AdvisoryLock, try_lock_in_transaction
from telemetry.readings import PAYLOAD_BYTES_MAX

logger = logging.getLogger(__name__)

# Ids have 100 characters at most, so a longer topic is never a reading's.
TOPIC_BYTES_MAX = 1000
# Of a payload above the 1 MB of the contract so much is kept. All others are kept whole: they can be replayed.
TOO_LARGE_BYTES_KEPT = 65_536
REASON_CHARACTERS_MAX = 1000
# The second attempt, with what the first one may have been refused for left out.
SMALLER_BYTES = 1000
# One statement: soon said, and far below what a parameter may hold (1 GB).
PORTION_ROWS, PORTION_BYTES = 1000, 4_000_000
# The readings of the batch wait for all of this.
LOCK_MS, STATEMENT_MS, SECONDS_MAX = 500, 3000, 5.0
# While the table was locked at the last batch, hardly anything: the readings go on at their own pace.
LOCK_MS_AGAIN = 20
# So many refusals in a row, and nothing kept, mean that nothing will be.
FAILURES_MAX = 20
# What a row takes beside its payload, topic and reason: its header, the other columns, its index entries.
ROW_BYTES = 200


class _SwallowedError(Exception):
    """The table took rows without an error and has not got them: a trigger or rule of its owner's."""


@dataclass(slots=True)
class Kept:
    """What became of refusals."""

    lost: list[Refusal] = field(default_factory=list)
    """Not in the table."""
    why: str = ""
    """What PostgreSQL said about the first of them."""
    locked: bool = False
    """Somebody holds the table, or lets a statement take too long."""
    stored_bytes: int = 0
    deleted: int = 0
    """Of the oldest, to make room."""
    deleted_bytes: int = 0

    def add(self, other: Kept) -> None:
        """What became of others of the same batch."""
        self.lost += other.lost
        self.why = self.why or other.why
        self.locked = self.locked or other.locked
        self.stored_bytes += other.stored_bytes
        self.deleted += other.deleted
        self.deleted_bytes += other.deleted_bytes


async def keep(
    connection: AsyncConnection[TupleRow],
    refusals: Sequence[Refusal],
    bound: ByteBound,
    *,
    retried: bool,
    was_locked: bool = False,
) -> Kept:
    """Write `refusals` down inside the running transaction, and make room for them where there is too much.

    `retried`: an earlier attempt of ours may have written them already. Raises only if the session is lost.
    """
    lock_ms = LOCK_MS_AGAIN if was_locked else LOCK_MS
    cursor = await connection.execute(queries.PATIENCE, [f"{lock_ms}ms", f"{STATEMENT_MS}ms"])
    before = await cursor.fetchone() or ("0", "0")
    work = _Keeping(connection, retried=retried)
    wanted = refusals
    if bound.overflowing:
        wanted = [refusal for refusal in refusals if refusal.code in VALID_CODES]
        nonsense = [refusal for refusal in refusals if refusal.code not in VALID_CODES]
        work.lose(nonsense, "there is no more room and none can be made")
    for portion in _portions(wanted):
        await work.keep(portion)
    await work.make_room(bound.excess + work.kept.stored_bytes)
    await connection.execute(queries.PATIENCE, before[:2])
    return work.kept


class _Keeping:
    """The work of one transaction."""

    def __init__(self, connection: AsyncConnection[TupleRow], *, retried: bool) -> None:
        self.kept = Kept()
        self._connection = connection
        self._retried = retried
        self._deadline = time.monotonic() + SECONDS_MAX
        self._stored = 0
        self._failures = 0

    @property
    def _hopeless(self) -> bool:
        """Whether another attempt would only hold up the readings."""
        return (
            self.kept.locked
            or (self._failures >= FAILURES_MAX and not self._stored)
            or time.monotonic() > self._deadline
        )

    async def keep(self, portion: Sequence[Refusal]) -> None:
        """Store a portion, halved until what is refused is alone."""
        if self._hopeless:
            self.lose(portion, "it takes too long")
        elif await self._insert(portion):
            pass
        elif len(portion) > 1:
            half = len(portion) // 2
            await self.keep(portion[:half])
            await self.keep(portion[half:])
        elif self._hopeless or not await self._insert(portion, smaller=True):
            self.lose(portion, "")

    def lose(self, refusals: Sequence[Refusal], why: str) -> None:
        """These are not kept."""
        if refusals:
            self.kept.lost += refusals
            self.kept.why = self.kept.why or why

    async def make_room(self, wanted: int) -> None:
        """Delete the oldest, `wanted` bytes and more."""
        if wanted <= 0 or self._hopeless:
            return
        try:
            async with self._connection.transaction():
                count, size = await delete_oldest(self._connection, wanted)
        except psycopg.Error as error:
            if not is_alive(self._connection):
                raise
            self._complain(error)
        else:
            self.kept.deleted += count
            self.kept.deleted_bytes += size

    async def _insert(self, portion: Sequence[Refusal], *, smaller: bool = False) -> bool:
        """Whether the table has all of them now."""
        connection = self._connection
        try:
            async with connection.transaction():
                rows = [_row(refusal, smaller=smaller) for refusal in portion]
                if self._retried or any(refusal.again for refusal in portion):
                    there = await self._already_there(portion, rows)
                    rows = [row for place, row in enumerate(rows, 1) if place not in there]
                if rows:
                    cursor = await connection.execute(queries.INSERT, _columns(rows))
                    if cursor.rowcount != len(rows):
                        raise _SwallowedError("a trigger or rule on rejected_messages keeps rows out")  # noqa: TRY301
        except Exception as error:
            if not is_alive(connection):
                raise
            self._failures += 1
            self._complain(error)
            if not isinstance(error, psycopg.Error | _SwallowedError):
                logger.exception("a fault of wattline's while %d refused messages were kept", len(portion))
            return False
        self._stored += len(portion)
        self.kept.stored_bytes += sum(size_of(row) for row in rows)
        return True

    async def _already_there(self, portion: Sequence[Refusal], rows: Sequence[_Row]) -> set[int]:
        again = [refusal.again for refusal in portion]
        columns = ([row.sha256 for row in rows], [row.code for row in rows], [row.received_at for row in rows], again)
        cursor = await self._connection.execute(queries.ALREADY_THERE, columns)
        return {place for (place,) in await cursor.fetchall()}

    def _complain(self, error: Exception) -> None:
        waited = isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled)
        self.kept.locked = waited and not raised_on_purpose(error)
        said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        self.kept.why = self.kept.why or said or str(error) or type(error).__name__


async def delete_oldest(connection: AsyncConnection[TupleRow], wanted: int) -> tuple[int, int]:
    """Delete the oldest so that `wanted` bytes and more are free, part of a transaction: (rows, bytes) deleted.

    At most some ten thousand rows at a time; nothing while another process is at it.
    """
    if not await try_lock_in_transaction(connection, AdvisoryLock.QUARANTINE):
        return 0, 0
    rows = size = 0
    for statement in queries.DELETE_OLDEST:
        if size < wanted:
            cursor = await connection.execute(statement, [wanted - size])
            deleted = await cursor.fetchone() or (0, 0)
            rows, size = rows + deleted[0], size + deleted[1]
    return rows, size


class _Row(NamedTuple):
    """A refusal as it is kept, in the order of INSERT's columns."""

    received_at: datetime
    topic: str
    payload: bytes
    code: str
    reason: str
    topic_bytes: int
    payload_bytes: int
    sha256: bytes


def size_of(row: _Row) -> int:
    """Bytes in the table, about."""
    return len(row.payload) + len(row.topic) + len(row.reason) + ROW_BYTES


def _row(refusal: Refusal, *, smaller: bool) -> _Row:
    topic, payload = refusal.topic.encode("utf-8", "backslashreplace"), refusal.payload
    kept_topic = topic[:TOPIC_BYTES_MAX].decode("utf-8", "ignore")
    kept_payload = payload if len(payload) <= PAYLOAD_BYTES_MAX else payload[:TOO_LARGE_BYTES_KEPT]
    reason = as_kept(refusal.reason)
    if smaller:
        kept_topic, reason = _plain(kept_topic), _plain(reason)
        kept_payload = kept_payload[:SMALLER_BYTES]
    return _Row(
        received_at=datetime.fromtimestamp(refusal.received_at, UTC),
        topic=kept_topic.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        payload=kept_payload,
        code=refusal.code,
        reason=reason,
        topic_bytes=len(topic),
        payload_bytes=len(payload),
        sha256=hashlib.sha256(topic + b"\0" + payload).digest(),
    )


def as_kept(reason: str) -> str:
    """A reason as the table takes it."""
    return reason[:REASON_CHARACTERS_MAX].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _plain(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")[:SMALLER_BYTES]


def _columns(rows: Sequence[_Row]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _portions(refusals: Sequence[Refusal]) -> Iterator[Sequence[Refusal]]:
    start = size = 0
    for index, refusal in enumerate(refusals):
        size += len(refusal.payload)
        if index > start and (size > PORTION_BYTES or index - start >= PORTION_ROWS):
            yield refusals[start:index]
            start, size = index, len(refusal.payload)
    if start < len(refusals):
        yield refusals[start:]

"""A batch into PostgreSQL: one transaction that either holds all of it or nothing.

The readings come first (`ingestor.isolation`), then what is known of hours, then refusals (`ingestor.rejected.store`),
which never stand in the way of the readings. Every wait has a deadline: past it the session is hung up on. `store` is
one attempt: it raises what went wrong and never retries.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import psycopg

from config.seldom import Seldom
from ingestor import wire
from ingestor.batch import Batch, Refusal, Row
from ingestor.hourly import invalidate, invalidations
from ingestor.isolation import UnbalancedError, refusal, store_rows
from ingestor.rejected.bound import ByteBound
from ingestor.rejected.store import Kept, keep
from ingestor.schema.partitions import ensure_partitions
from ledger.redelivered import without_annulled
from postgres.connecting import Session, connect
from postgres.deadline import Deadline
from postgres.failures import failure_kind
from postgres.locks import wait_in_transaction
from postgres.session import Limits
from postgres.spread import has_citus
from telemetry.kinds import BY_NAME
from telemetry.readings import DAY_SECONDS

logger = logging.getLogger(__name__)

EPOCH = date(1970, 1, 1)
# Nothing of ours holds a lock that a flush needs for longer than a moment: past it the log names somebody else's.
LIMITS = Limits(lock_ms=15_000)
# While a lock is known to be held for long, its rows are left out and nothing else waits for it.
BLOCKED_LOCK_MS = 200
# A partition of a late day is not asked for again so soon after a lock was in the way: each time costs 5 s.
LOCKED_DAY_SECONDS = 30.0
# A batch whose attempts ended so often while its refusals were written is stored without them.
QUARANTINE_STRIKES_MAX = 3
# Of a batch that timed out the next attempt may take twice as long, up to so many times: a server that is slow but
# works must not be given up on for ever.
PATIENCE_DOUBLED_MAX = 4

_HARDLY_WAIT = f"SET LOCAL lock_timeout = '{BLOCKED_LOCK_MS}ms'"
_ALL_AT_ONCE = "SET CONSTRAINTS ALL IMMEDIATE"
# A session that we hung up on may hold locks until its server notices. It is ours, so we may end it.
_BACKEND_START = "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_END_FORMER = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = %s AND usename = current_user
"""
# The session that has written for longest without a COMMIT is the likeliest to hold a lock.
_BLOCKER = """
    SELECT pid, coalesce(nullif(application_name, ''), '?'), state, extract(epoch FROM now() - xact_start)::int
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
        AND backend_type = 'client backend'
    ORDER BY backend_xid IS NULL, xact_start LIMIT 1
"""


class FlushTimeoutError(TimeoutError):
    """PostgreSQL gave no answer in time, so its session was given up."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch, in readings; what was refused on receiving is in the batch itself."""

    committed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BY_NAME, 0))
    """By the name of the kind, as below."""
    duplicate: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BY_NAME, 0))
    refused: list[Refusal] = field(default_factory=list)
    """Readings that PostgreSQL would not take, and those in conflict with what it has."""
    kept: Kept = field(default_factory=Kept)
    """What became of all refusals."""
    later: dict[str, list[Row]] = field(default_factory=dict)
    """Rows that are not stored yet, because somebody holds a lock that they need."""
    seconds: Counter[int] = field(default_factory=Counter)
    """Readings by the second (since 1970) of their timestamp."""
    fates: dict[int, Refusal | None] = field(default_factory=dict)
    """What became of the rows that were not stored now, for their receipts."""

    @property
    def readings(self) -> int:
        """All that it accounts for."""
        return sum(self.committed.values()) + sum(self.duplicate.values()) + len(self.refused)

    def add(self, other: Outcome) -> None:
        """A part of the same batch, stored on its own."""
        for kind, count in other.committed.items():
            self.committed[kind] += count
            self.duplicate[kind] += other.duplicate[kind]
        self.refused += other.refused
        for kind, rows in other.later.items():
            self.later.setdefault(kind, []).extend(rows)
        self.kept.add(other.kept)
        self.seconds += other.seconds
        self.fates |= other.fates


@dataclass(frozen=True, slots=True)
class _Backend:
    """A session as its server knows it."""

    pid: int
    started: datetime


class Sink:
    """Writes batches, one at a time, over one connection that it opens when needed."""

    def __init__(
        self,
        conninfo: str,
        *,
        timeout_seconds: float = 60.0,
        bound: ByteBound | None = None,
        keeps_refusals: bool = True,
    ) -> None:
        """`keeps_refusals`: what is refused goes to quarantine; else it is only handed back."""
        self._conninfo = conninfo
        self._timeout_seconds = timeout_seconds
        self._bound = bound or ByteBound(2**62)
        self._keeps_refusals = keeps_refusals
        self._connection: Session | None = None
        self._backend: _Backend | None = None
        self._left: _Backend | None = None
        self._days: set[int] = set()
        self._locked_days: dict[int, tuple[float, Exception]] = {}
        self._quarantine_locked = False
        self._unforeseen = Seldom()
        self._in_quarantine = False
        self.blocker: str | None = None
        """Who probably holds the lock that the last attempt did not get."""

    async def store(self, batch: Batch) -> Outcome:
        """Commit the batch. Raises what PostgreSQL or the network said; nothing of the batch is stored then, or,
        where the answer to COMMIT was lost, all of it. What the attempt has learned is noted in the batch.
        """
        self.blocker = None
        timeout = self._timeout_seconds * 2 ** min(batch.timeouts, PATIENCE_DOUBLED_MAX)
        connection = await self._connected(timeout)
        self._in_quarantine = False
        try:
            with _deadline(connection, timeout) as deadline:
                attempt = self._attempt_in_pieces if batch.in_pieces else self._attempt
                outcome = await attempt(connection, batch, deadline)
        except BaseException as error:
            batch.may_be_stored = batch.careful = True
            if isinstance(error, FlushTimeoutError):
                batch.timeouts += 1
                self._left = self._backend
            if self._in_quarantine:
                batch.quarantine_strikes += 1
            if isinstance(error, psycopg.errors.LockNotAvailable):
                batch.blocked = True
                await self._find_blocker(connection)
            kind = failure_kind(error) if isinstance(error, Exception) else None
            if isinstance(error, Exception) and _is_ours(error) and not isinstance(error, UnbalancedError):
                batch.in_pieces = True
                if self._unforeseen.due(type(error).__name__):
                    logger.exception("a batch could not be written; the cause is looked for")
            if kind == "partition":
                self._days.clear()
            # A session that failed for any other reason may be unfit for good: on a server that became read-only, or
            # with a role, settings or prepared statements that have changed. A new one costs 5 ms.
            if kind not in ("data", "partition") or connection.closed:
                await self.close()
            raise
        if outcome.later:
            await self._find_blocker(connection)
        self._bound.changed(outcome.kept.stored_bytes, outcome.kept.deleted_bytes)
        self._quarantine_locked = outcome.kept.locked
        return outcome

    async def close(self) -> None:
        """Close the connection; the next `store` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _attempt(self, connection: Session, batch: Batch, deadline: Deadline) -> Outcome:
        outcome = Outcome(seconds=batch.per_second())
        unplaced = await self._make_partitions(connection, outcome, deadline)
        async with connection.transaction():
            fresh = await without_annulled(connection, batch.rows, outcome.seconds)
            if has_citus(connection):
                await wait_in_transaction(connection, LIMITS.lock_ms)
            if batch.careful:
                await connection.execute(_ALL_AT_ONCE)
            if batch.blocked:
                await connection.execute(_HARDLY_WAIT)
            for kind, rows in fresh.items():
                outcome.duplicate[kind] = len(batch.rows[kind]) - len(rows)
                if outcome.duplicate[kind]:
                    left = {id(row) for row in rows}
                    outcome.fates |= {id(row): None for row in batch.rows[kind] if id(row) not in left}
                if rows:
                    done = await store_rows(
                        connection, BY_NAME[kind], rows, batch=batch, unplaced=unplaced, progress=deadline.extend
                    )
                    outcome.committed[kind] = done.stored
                    outcome.duplicate[kind] += done.repeated
                    outcome.refused += done.refused
                    outcome.fates |= done.fates
                    if done.later:
                        outcome.later[kind] = done.later
                        outcome.seconds -= Counter(row[1] // 1_000_000 for row in done.later)
            await invalidate(connection, invalidations(batch, outcome.seconds, time.time()))
            await self._quarantine(connection, batch, [*batch.rejected, *outcome.refused], outcome)
        return outcome

    async def _attempt_in_pieces(self, connection: Session, batch: Batch, deadline: Deadline) -> Outcome:
        """After an exception that nobody foresaw: halves of the rows, each a transaction, until the culprit is alone.

        What is committed of it when a later piece fails is met again as repeated.
        """
        outcome, culprits = Outcome(), list[Refusal]()
        pieces = [Batch(rows={kind: rows}) for kind, rows in batch.rows.items()]
        while pieces:
            piece = pieces.pop()
            if not piece.rows_in_all:
                continue
            piece.may_be_stored = piece.careful = True
            piece.received_at, piece.redelivered = batch.received_at, batch.redelivered
            piece.quarantine_strikes = batch.quarantine_strikes
            deadline.extend()
            try:
                outcome.add(await self._attempt(connection, piece, deadline))
            except Exception as error:
                if connection.closed or not _is_ours(error):
                    raise
                if piece.readings == 1:
                    kind, row = next((kind, rows[0]) for kind, rows in piece.rows.items() if rows)
                    culprit = refusal(BY_NAME[kind], row, error, batch.received_at, again=batch.redelivered)
                    culprits.append(culprit)
                    outcome.fates[id(row)] = culprit
                else:
                    pieces += reversed(piece.halves())  # the last is next: the first received is stored first
        async with connection.transaction():
            await self._quarantine(connection, batch, [*batch.rejected, *culprits], outcome)
        outcome.refused += culprits
        return outcome

    async def _quarantine(self, connection: Session, batch: Batch, refusals: list[Refusal], outcome: Outcome) -> None:
        if not refusals or not self._keeps_refusals:
            return
        if batch.quarantine_strikes >= QUARANTINE_STRIKES_MAX:
            outcome.kept.add(Kept(lost=refusals, why="every attempt to write it ends the session"))
            return
        self._in_quarantine = True
        outcome.kept.add(
            await keep(
                connection,
                refusals,
                self._bound,
                retried=batch.may_be_stored,
                was_locked=self._quarantine_locked,
            )
        )
        self._in_quarantine = False

    async def _connected(self, seconds: float) -> Session:
        if self._connection is None:
            connection = await connect(
                self._conninfo, autocommit=True, application_name="wattline ingest", limits=LIMITS
            )
            try:
                with _deadline(connection, seconds):
                    wire.register(connection)
                    if self._left is not None:
                        await connection.execute(_END_FORMER, [self._left.pid, self._left.started])
                        self._left = None
                    row = await (await connection.execute(_BACKEND_START)).fetchone()
            except BaseException:
                await connection.close()
                raise
            self._backend = _Backend(connection.backend_pid, row[0]) if row else None
            self._connection = connection
        return self._connection

    async def _find_blocker(self, connection: Session) -> None:
        with suppress(psycopg.Error, OSError), _deadline(connection, LIMITS.lock_ms / 1000):
            row = await (await connection.execute(_BLOCKER)).fetchone()
            if row is not None:
                pid, application, state, seconds = row
                self.blocker = f"pid {pid} ({application}), {state}, in a transaction for {seconds} s"

    async def _make_partitions(self, connection: Session, outcome: Outcome, deadline: Deadline) -> dict[int, Exception]:
        """Make what is missing. The result are the days of which none can be made; a day of now is never among them."""
        days = {second // DAY_SECONDS for second in outcome.seconds} - self._days
        now = time.monotonic()
        unplaced = {day: error for day, (until, error) in self._locked_days.items() if day in days and until > now}
        days -= unplaced.keys()
        if not days:
            return unplaced
        try:
            await ensure_partitions(connection, [EPOCH + timedelta(days=day) for day in days])
        except Exception as error:
            if connection.closed or (len(days) == 1 and _is_current(*days)):
                raise
            logger.debug("the partitions of a batch cannot be made at once: %s", error)
            for day in sorted(days):
                deadline.extend()
                try:
                    await ensure_partitions(connection, [EPOCH + timedelta(days=day)])
                except Exception as why:
                    locked = isinstance(why, psycopg.errors.LockNotAvailable)
                    if connection.closed or _is_current(day) or (failure_kind(why) == "transient" and not locked):
                        raise
                    if locked:
                        self._locked_days[day] = (time.monotonic() + LOCKED_DAY_SECONDS, why)
                    unplaced[day] = why
        self._days |= days - unplaced.keys()
        return unplaced


@contextmanager
def _deadline(connection: Session, seconds: float) -> Iterator[Deadline]:
    """Hang up on the server unless the work inside ends in time, or says that it goes forward."""
    with connection.within(seconds) as deadline:
        try:
            yield deadline
        except Exception as error:
            if deadline.passed:
                raise FlushTimeoutError(f"no answer to a batch for {seconds:g} s; its session is given up") from error
            raise


def _is_ours(error: Exception) -> bool:
    """An exception that neither PostgreSQL nor the network has raised."""
    return not isinstance(error, psycopg.Error | OSError)


def _is_current(day: int) -> bool:
    """Yesterday, today or tomorrow: without its partition nobody's readings can be stored."""
    return abs(day - int(time.time()) // DAY_SECONDS) <= 1

"""The rows of one kind into its tables, so that a row which is refused costs no other row its place.

The fast path is COPY; a reading that is there already, or anything else that speaks against it, leads to the merge, and
there whatever is refused is found by halving. A repetition with other values than what is stored is a conflict, and
refused. What would refuse every row is no row's fault: it is raised, and nothing is quarantined. Every row ends as
stored, repeated or refused, each counted for itself, so that the sum can be checked.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.seldom import Seldom
from ingestor import wire
from ingestor.batch import Batch, Refusal, Row, first_of_each, in_key_order, repetitions
from ingestor.newest_status import update_status
from ingestor.statements import COPY, FREE_TABLES, LOCKED, MERGE, STORED
from ingestor.transactions import is_alive
from postgres.failures import failure_kind
from telemetry.kinds import Kind
from telemetry.readings import EPOCH, MICROSECOND, ReasonCode
from telemetry.topics import topic_of

logger = logging.getLogger(__name__)

# Devices whose newest row is tried alone when it is not known whether an error is a row's or everybody's.
SAMPLE_DEVICES = 8
DAY_US = 86_400_000_000
# After so many waits for a lock while the rows that need it are looked for, whatever meets one is left out.
LOCK_FAILURES_MAX = 12

Key = tuple[str, int]
"""Device id and microseconds since 1970."""

_unexplained = Seldom()


class SwallowedError(Exception):
    """The table took rows without an error and has not got them: a trigger or rule of its owner's keeps them out."""


class UnbalancedError(Exception):
    """Stored, repeated and refused are not what was received: a fault of ours. Nothing is acknowledged."""


@dataclass(slots=True)
class Stored:
    """What became of the rows of one kind."""

    stored: int = 0
    repeated: int = 0
    refused: list[Refusal] = field(default_factory=list)
    later: list[Row] = field(default_factory=list)
    """Left out, because somebody holds a lock that they need."""
    fates: dict[int, Refusal | None] = field(default_factory=dict)
    """Of those that are repeated or refused, for their receipts."""

    def repeat(self, row: Row) -> None:
        """It is stored already, with the same values."""
        self.repeated += 1
        self.fates[id(row)] = None

    def refuse(self, row: Row, refusal: Refusal) -> None:
        """It goes to quarantine."""
        self.refused.append(refusal)
        self.fates[id(row)] = refusal


async def store_rows(  # noqa: PLR0913 - what is stored, where, and how
    connection: AsyncConnection[TupleRow],
    kind: Kind,
    rows: Sequence[Row],
    *,
    batch: Batch,
    unplaced: Mapping[int, Exception],
    progress: Callable[[], None],
) -> Stored:
    """The rows of one kind of a batch, as a part of a transaction.

    `unplaced` are days (since 1970) whose partition cannot be made, and why; `progress` is called whenever the server
    has answered on the slow path.
    Raises what concerns all rows: a session that ended, a missing partition, a table that takes nothing at all.
    """
    if not batch.may_be_stored and not unplaced:
        ordered = in_key_order(rows)
        try:
            async with connection.transaction():
                await _copy(connection, kind, ordered)
                await update_status(connection, kind, ordered)
                return Stored(stored=len(rows))
        except Exception as error:
            if not _is_of_rows(connection, error):
                raise
    work = _Merging(connection, kind, batch, progress)
    once = first_of_each(rows)
    others = repetitions(rows) if len(once) < len(rows) else []
    work.watch(others)
    if unplaced:
        for row in once:
            if row[1] // DAY_US in unplaced:
                work.leave_out(row, unplaced[row[1] // DAY_US])
        once = [row for row in once if row[1] // DAY_US not in unplaced]
    if once and batch.blocked:
        once = await work.unlocked(once)
    if once:
        await work.merge(once)
    work.compare(others)
    done = work.done
    if done.stored + done.repeated + len(done.refused) + len(done.later) != len(rows):
        raise UnbalancedError(f"of {len(rows)} readings of kind {kind.name} some are not accounted for")
    return work.done


async def _copy(connection: AsyncConnection[TupleRow], kind: Kind, rows: Sequence[Row]) -> None:
    async with connection.cursor() as cursor:
        async with cursor.copy(COPY[kind.name]) as copy:
            for chunk in wire.copy_stream(rows):
                await copy.write(chunk)
        if cursor.rowcount != len(rows):
            raise SwallowedError


def _is_of_rows(connection: AsyncConnection[TupleRow], error: Exception) -> bool:
    """Whether an error may be the fault of some rows, on a session that can go on."""
    return is_alive(connection) and failure_kind(error) in ("data", "fault")


class _Merging:
    """The slow path of one kind in one transaction."""

    def __init__(
        self, connection: AsyncConnection[TupleRow], kind: Kind, batch: Batch, progress: Callable[[], None]
    ) -> None:
        self.done = Stored()
        self._connection = connection
        self._kind = kind
        self._batch = batch
        self._progress = progress
        self._lock_failures = 0
        self._some_pass = False
        """It is known that the tables take rows at all."""
        self._watched: dict[Key, Row | None] = {}
        """Readings that come more than once in the batch, as they are stored; None: not stored, or not yet."""

    async def merge(self, rows: Sequence[Row]) -> None:
        """Leave out what is there already, and halve until what is refused is alone."""
        self._progress()
        try:
            new, known = await self._try(rows)
        except Exception as error:  # noqa: BLE001 - judged by _ends_with, which raises what is not of rows
            if await self._ends_with(rows, error):
                return
        else:
            self._some_pass = self._some_pass or bool(new) or any(there for _, there in known)
            self.done.stored += len(new)
            for row in new:
                if row[:2] in self._watched:
                    self._watched[row[:2]] = row
            for row, there in known:
                self._known(row, there)
            return
        half = len(rows) // 2
        await self.merge(rows[:half])
        await self.merge(rows[half:])

    def watch(self, others: Sequence[Row]) -> None:
        """Remember how these are stored, for `compare`."""
        self._watched = {row[:2]: None for row in others}

    def compare(self, others: Sequence[Row]) -> None:
        """Rows whose device and time came before them in the same batch."""
        if not others:
            return
        later = {row[:2] for row in self.done.later}
        for row in others:
            there = self._watched[row[:2]]
            if row[:2] in later:
                self.done.later.append(row)
            elif there is not None:
                self._known(row, there)
            else:
                self.refuse(row, SwallowedError("another reading of this device and time was refused just before it"))

    def _known(self, row: Row, there: Row | None) -> None:
        """A row that was not new, and what is stored in its place."""
        if there is None:
            self.refuse(row, SwallowedError("a trigger or rule of the tables' owner keeps it out"))
            return
        if row[:2] in self._watched:
            self._watched[row[:2]] = there
        if there == row:
            self.done.repeat(row)
        else:
            batch = self._batch
            found = conflict(self._kind, row, there, batch.received_at, again=batch.redelivered)
            self.done.refuse(row, found)

    async def unlocked(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of devices that nobody has locked; the others are left for later. Raises LockNotAvailable where
        the tables as a whole are locked.
        """
        try:
            async with self._connection.transaction():
                await self._connection.execute(FREE_TABLES[self._kind.name])
        except psycopg.errors.InsufficientPrivilege:
            pass  # LOCK TABLE asks for more rights than what we do here
        locked = await self._locked(sorted({row[0] for row in rows}))
        self.done.later += [row for row in rows if row[0] in locked]
        return [row for row in rows if row[0] not in locked]

    async def _locked(self, devices: Sequence[str]) -> set[str]:
        """Those whose status somebody has locked. None where the devices are spread over the shards of a Citus cluster,
        which locks rows of one shard at a time: the merge finds them by halving.
        """
        try:
            async with self._connection.transaction():
                cursor = await self._connection.execute(LOCKED[self._kind.name], {"devices": devices})
                return {device for (device,) in await cursor.fetchall()}
        except psycopg.errors.FeatureNotSupported:
            return set()

    def leave_out(self, row: Row, error: Exception) -> None:
        """A row whose day has no partition: for later where a lock is why, else it is refused."""
        if isinstance(error, psycopg.errors.LockNotAvailable):
            self.done.later.append(row)
        else:
            self.refuse(row, error)

    def _is_locked(self, error: Exception) -> bool:
        return (
            self._batch.blocked
            and isinstance(error, psycopg.errors.LockNotAvailable)
            and failure_kind(error) == "transient"
            and is_alive(self._connection)
        )

    async def _ends_with(self, rows: Sequence[Row], error: Exception) -> bool:
        """Whether these rows need no further halving, and are accounted for. Raises what is no row's fault."""
        if self._is_locked(error):
            self._lock_failures += 1
            if len(rows) > 1 and self._lock_failures <= LOCK_FAILURES_MAX:
                return False
            self.done.later += rows
            return True
        if not _is_of_rows(self._connection, error):
            raise error
        if not self._some_pass and await self._is_everybodys(rows, error):
            raise error
        if len(rows) > 1:
            return False
        self.refuse(rows[0], error)
        return True

    async def _try(self, rows: Sequence[Row]) -> tuple[Sequence[Row], list[tuple[Row, Row | None]]]:
        """All of them or none: those that were new, and the others, each with what is stored in its place. That is
        nothing where the table has not got it although nobody complained.
        """
        connection, kind = self._connection, self._kind
        async with connection.transaction():
            cursor = await connection.execute(MERGE[kind.name], wire.columns(rows))
            if cursor.rowcount == len(rows):
                await update_status(connection, kind, rows)
                return rows, []
            stored_now = {(device, (ts - EPOCH) // MICROSECOND) for device, ts in await cursor.fetchall()}
            new = [row for row in rows if row[:2] in stored_now]
            others = [row for row in rows if row[:2] not in stored_now]
            known = list(zip(others, await self._stored(others), strict=True))
            if new:
                await update_status(connection, kind, new)
        return new, known

    async def _stored(self, rows: Sequence[Row]) -> list[Row | None]:
        """What is stored under the key of each row; None where nothing is."""
        devices, times = wire.columns(rows)[:2]
        us = [row[1] for row in rows]
        bounds = {"first": EPOCH + min(us) * MICROSECOND, "last": EPOCH + max(us) * MICROSECOND}
        query = STORED[self._kind.name]
        asked = {"devices": devices, "times": times, **bounds}
        cursor = await self._connection.execute(query, asked, prepare=False)
        found: dict[int, tuple[float, ...]] = dict(await cursor.fetchall())
        return [(row[0], row[1], *found[place]) if place in found else None for place, row in enumerate(rows, 1)]

    async def _is_everybodys(self, rows: Sequence[Row], error: Exception) -> bool:
        """Whether no row gets in, as far as some devices chosen at random can tell; each is tried and taken back.

        A value that PostgreSQL refuses is never everybody's, nor is what we cannot even send of a few devices.
        """
        if failure_kind(error) == "data":
            return False
        devices = list({row[0]: row for row in rows}.values())
        if not isinstance(error, psycopg.Error) and len(devices) < SAMPLE_DEVICES:
            return False
        for row in random.sample(devices, min(SAMPLE_DEVICES, len(devices))):
            self._progress()
            try:
                async with self._connection.transaction(force_rollback=True):
                    await self._try([row])
            except Exception as why:
                if not _is_of_rows(self._connection, why):
                    raise
            else:
                self._some_pass = True
                return False
        return True

    def refuse(self, row: Row, error: Exception) -> None:
        batch = self._batch
        self.done.refuse(row, refusal(self._kind, row, error, batch.received_at, again=batch.redelivered))
        if failure_kind(error) != "data" and (count := _unexplained.due(type(error).__name__)):
            logger.error(
                "%d readings could not be stored for a reason of their own and go to quarantine", count, exc_info=error
            )


def refusal(kind: Kind, row: Row, error: Exception, received_at: float, *, again: bool) -> Refusal:
    """The reading as its device would send it, with what there is against it."""
    if isinstance(error, psycopg.Error):
        said = f"PostgreSQL refused it: {error.diag.message_primary or error} ({error.sqlstate})"
    else:
        said = f"PostgreSQL could not be given it: {type(error).__name__}: {error}"
    return _refusal(kind, row, "database_refused", said, received_at, again=again)


def conflict(kind: Kind, row: Row, there: Row, received_at: float, *, again: bool) -> Refusal:
    """A reading whose device and time are stored with other values."""
    differences = "; ".join(
        f"{measure.name} {stored!r} is stored, {came!r} came"
        for measure, stored, came in zip(kind.measures, there[2:], row[2:], strict=True)
        if stored != came
    )
    said = f"this device's reading of that time is stored with other values: {differences}"
    return _refusal(kind, row, "conflict", said, received_at, again=again)


def _refusal(  # noqa: PLR0913 - all that is known of it
    kind: Kind, row: Row, code: ReasonCode, reason: str, received_at: float, *, again: bool
) -> Refusal:
    return Refusal(
        topic=topic_of(kind.name, str(row[0])),
        payload=_as_payload(kind, row),
        code=code,
        reason=reason,
        received_at=received_at,
        again=again,
    )


def _as_payload(kind: Kind, row: Row) -> bytes:
    device_id, timestamp_us, *numbers = row
    try:
        timestamp: object = (EPOCH + timedelta(microseconds=timestamp_us)).isoformat()
    except (OverflowError, TypeError):
        timestamp = timestamp_us
    payload = dict(zip(_fields(kind), (device_id, timestamp, *numbers), strict=False))
    return json.dumps(payload, default=repr).encode()


def _fields(kind: Kind) -> tuple[str, ...]:
    """The JSON names of a row's values."""
    return kind.id_field, "timestamp", *(measure.name for measure in kind.measures)

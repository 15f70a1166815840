"""A batch of readings, and when to write it: pure rules, without a clock or a socket of their own.

A batch carries everything that its flush needs, down to how its messages are acknowledged. It is either committed as a
whole (refused readings go to quarantine) or kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal

from ingestor.receipts.receipt import Fates, Receipt
from ingestor.source import Acknowledge
from telemetry.kinds import KINDS
from telemetry.readings import ReasonCode

Row = tuple[str, int, *tuple[float, ...]]
"""(device id, timestamp in µs since 1970, the measures of its kind in the order of their declaration)"""

Trigger = Literal["interval", "rows", "bytes", "shutdown"]

# Readings that are well formed and still refused, by a clock, the database or a fault of ours. Each of them may
# be wanted later, so none is left out to save the disk.
VALID_CODES: frozenset[ReasonCode] = frozenset({"clock_skew", "too_old", "database_refused", "conflict"})

_device_and_time = itemgetter(0, 1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused message, or a refused item of an array, on its way to quarantine."""

    topic: str
    payload: bytes
    code: ReasonCode
    reason: str
    received_at: float
    """Seconds since 1970."""
    again: bool = False
    """The broker says that it may have delivered this message before."""
    receipt: Receipt | None = None
    """Where the device is told, if it asked."""
    place: int = 0
    """In the array of its message."""


@dataclass(slots=True, eq=False)
class Batch:
    """What was received since the last batch was closed, in the order of receiving."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {kind.name: [] for kind in KINDS})
    """Readings, by the name of their kind."""
    rejected: list[Refusal] = field(default_factory=list)
    """What is to be kept of the refusals: of nonsense at most REJECTED_MAX_PER_SECOND."""
    refusals: Counter[ReasonCode] = field(default_factory=Counter)
    """All of them, counted."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """(monotonic seconds, readings) of each portion received."""
    acknowledgements: list[tuple[Acknowledge, list[int]]] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    """Of the messages that ask for one."""
    messages: int = 0
    unacknowledged: int = 0
    """Messages with QoS 1: these come back if we never acknowledge them; those with QoS 0 do not."""
    payload_bytes: int = 0
    received: int = 0
    """Readings as they were counted on receiving: the other side of this batch's books."""
    received_at: float = 0.0
    """When its first message came, in seconds since 1970."""
    redelivered: bool = False
    """The broker says of some message that it may have delivered it before."""
    may_be_stored: bool = False
    """The broker or we ourselves may have written some of it already: take the path that expects duplicates."""
    careful: bool = False
    """An attempt failed: let the owner's deferred triggers and constraints speak at once, not at COMMIT."""
    in_pieces: bool = False
    """An attempt raised what nobody foresaw: look for the culprit by halving the batch."""
    blocked: bool = False
    """Somebody holds a lock on some of its rows, or of those before it: leave out what is locked, and do not wait."""
    settled: bool = False
    """Nothing of it waits any more, so that it can be acknowledged."""
    rest_of: tuple[Batch, ...] = ()
    """The batches that these rows were left out of: they are settled when these are stored."""
    timeouts: int = 0
    """Attempts that were given up because the server did not answer."""
    quarantine_strikes: int = 0
    """Attempts that ended while its refusals were written."""

    def per_second(self) -> Counter[int]:
        """Readings by the second (since 1970) of their timestamp."""
        return Counter([row[1] // 1_000_000 for rows in self.rows.values() for row in rows])

    @property
    def rows_in_all(self) -> int:
        """How many rows it has, of all kinds."""
        return sum(map(len, self.rows.values()))

    @property
    def readings(self) -> int:
        """Readings in the books as pending while this batch is not committed."""
        return self.rows_in_all + self.refusals.total()

    @property
    def waits_its_turn(self) -> bool:
        """Whether it is acknowledged itself. Rows that were left out are not, until others with messages join them."""
        return not self.rest_of or bool(self.acknowledgements)

    def halves(self) -> list[Batch]:
        """Its rows in two batches without anything else; it has two rows or more."""
        first = {kind: rows[: len(rows) // 2] for kind, rows in self.rows.items()}
        return [
            Batch(rows=first),
            Batch(rows={kind: rows[len(first[kind]) :] for kind, rows in self.rows.items()}),
        ]

    def rest(self, left_out: Mapping[str, list[Row]]) -> Batch:
        """Rows that were left out, as a batch of their own; the acknowledgements stay with this one, the receipts that
        are not complete go along.
        """
        rows = {kind: left_out.get(kind, []) for kind in self.rows}
        return Batch(
            rows=rows,
            received=sum(map(len, rows.values())),
            received_at=self.received_at,
            redelivered=self.redelivered,
            may_be_stored=True,
            careful=True,
            blocked=True,
            rest_of=(*self.rest_of, self) if self.waits_its_turn else self.rest_of,
            receipts=self.receipts,
        )

    def absorb(self, later: Batch) -> None:
        """Take over everything of the batch that was received next."""
        for kind, rows in later.rows.items():
            self.rows[kind] += rows
        self.rejected += later.rejected
        self.refusals.update(later.refusals)
        self.arrivals += later.arrivals
        for acknowledge, packet_ids in later.acknowledgements:
            self.owe(acknowledge, packet_ids)
        self.receipts += later.receipts
        self.messages += later.messages
        self.payload_bytes += later.payload_bytes
        self.received += later.received
        self.received_at = self.received_at or later.received_at
        self.redelivered = self.redelivered or later.redelivered
        self.may_be_stored = self.may_be_stored or later.may_be_stored

    def forget(self) -> None:
        """Its rows and refusals are where they belong; what may remain is an acknowledgement that waits its turn."""
        self.rows = {kind: [] for kind in self.rows}
        self.rejected = []
        self.receipts = []

    def complete_receipts(self, fates: Fates, later: Mapping[str, list[Row]]) -> list[Receipt]:
        """Take out the receipts that can be sent, now that the batch is committed but for the rows in `later`."""
        if not self.receipts:
            return []
        waiting = {id(row) for rows in later.values() for row in rows}
        complete = [receipt for receipt in self.receipts if receipt.settle(fates, waiting)]
        self.receipts = [receipt for receipt in self.receipts if receipt.rows]
        return complete

    def owe(self, acknowledge: Acknowledge, packet_ids: list[int]) -> None:
        """Remember what to acknowledge, and how."""
        if not packet_ids:
            return
        self.unacknowledged += len(packet_ids)
        # Equal, not identical: a method is bound again each time that it is asked for.
        if self.acknowledgements and self.acknowledgements[-1][0] == acknowledge:
            self.acknowledgements[-1][1].extend(packet_ids)
        else:
            self.acknowledgements.append((acknowledge, packet_ids))

    def acknowledge(self) -> int:
        """Send every PUBACK that is owed; the number of messages whose connection has ended since."""
        return sum(len(ids) for acknowledge, ids in self.acknowledgements if not acknowledge(ids))


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """When a batch is due: by its age, or early by its size."""

    interval_seconds: float
    rows_max: int
    bytes_max: int

    def full(self, batch: Batch) -> Trigger | None:
        """Whether nothing more should be added, and why."""
        if batch.readings >= self.rows_max:
            return "rows"
        if batch.payload_bytes >= self.bytes_max:
            return "bytes"
        return None

    def seconds_until_due(self, batch: Batch, now: float) -> float | None:
        """Seconds (0 or less: now) until a batch that is not full must be written; None: it is empty."""
        if not batch.arrivals:
            return None
        return batch.arrivals[0][0] + self.interval_seconds - now


def in_key_order(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order of (device, time), for a batch that repeats no reading.

    Sorted keys keep several ingestors from deadlocking, and give the index its pages in order. Rows compare as they
    are: a key function would double the cost, and only repeated readings could tell the difference.
    """
    return sorted(rows)


def first_of_each(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order of (device, time), of each only the first that was received: where some may repeat."""
    ordered = sorted(rows, key=_device_and_time)
    return list({row[:2]: row for row in reversed(ordered)}.values())[::-1]


def repetitions(rows: Sequence[Row]) -> list[Row]:
    """The rows that `first_of_each` leaves out, in the order of receiving."""
    seen: set[tuple[str, int]] = set()
    others = []
    for row in rows:
        if row[:2] in seen:
            others.append(row)
        else:
            seen.add(row[:2])
    return others


def newest_per_device(rows: Sequence[Row]) -> list[Row]:
    """Of rows in the order of (device, time), each device's last."""
    return list({row[0]: row for row in rows}.values())

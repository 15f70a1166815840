"""A batch of readings, and when to write it: pure rules, without a clock or a socket of their own.

A batch carries everything that its flush needs, down to whose acknowledgement it is: packet ids belong to the
connection that they came on. It is either committed as a whole (refused readings go to quarantine) or kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, TypeVar

from mqtt.connection import Connection
from telemetry.readings import ReasonCode

MeterRow = tuple[str, int, float, float]
"""(meter id, timestamp in µs since 1970, AC energy in kWh, voltage)"""
VehicleRow = tuple[str, int, float, float, float]
"""(vehicle id, timestamp in µs since 1970, state of charge in %, DC energy in kWh, battery temperature in °C)"""
Row = MeterRow | VehicleRow

R = TypeVar("R", bound=Row)

Trigger = Literal["interval", "rows", "bytes", "shutdown"]

# Of a refused payload this much is kept.
KEPT_PAYLOAD_BYTES_MAX = 65536

_device_and_time = itemgetter(0, 1)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused message, or a refused item of an array, on its way to quarantine."""

    topic: str
    payload: bytes
    code: ReasonCode
    reason: str
    received_at: float
    """Seconds since 1970."""


@dataclass(slots=True)
class Batch:
    """What was received since the last batch was closed, in the order of receiving."""

    meters: list[MeterRow] = field(default_factory=list)
    vehicles: list[VehicleRow] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    """What is kept of the refusals: at most REJECTED_MAX_PER_SECOND."""
    refusals: Counter[ReasonCode] = field(default_factory=Counter)
    """All of them, counted."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """(monotonic seconds, readings) of each portion received."""
    acknowledgements: list[tuple[Connection, list[int]]] = field(default_factory=list)
    messages: int = 0
    unacknowledged: int = 0
    """Messages with QoS 1: these come back if we never acknowledge them; those with QoS 0 do not."""
    payload_bytes: int = 0
    may_be_stored: bool = False
    """The broker or we ourselves may have written some of it already: take the path that expects duplicates."""

    def per_second(self) -> Counter[int]:
        """Readings by the second (since 1970) of their timestamp."""
        seconds = [row[1] // 1_000_000 for row in self.meters]
        seconds += [row[1] // 1_000_000 for row in self.vehicles]
        return Counter(seconds)

    @property
    def readings(self) -> int:
        """Readings in the books as pending while this batch is not committed."""
        return len(self.meters) + len(self.vehicles) + self.refusals.total()

    def owe(self, connection: Connection, packet_ids: list[int]) -> None:
        """Remember what to acknowledge, and to whom."""
        if not packet_ids:
            return
        self.unacknowledged += len(packet_ids)
        if self.acknowledgements and self.acknowledgements[-1][0] is connection:
            self.acknowledgements[-1][1].extend(packet_ids)
        else:
            self.acknowledgements.append((connection, packet_ids))

    def acknowledge(self) -> int:
        """Send every PUBACK that is owed; the number of messages whose connection has ended since."""
        return sum(len(ids) for connection, ids in self.acknowledgements if not connection.acknowledge(ids))


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


def in_key_order(rows: Sequence[R]) -> list[R]:
    """The rows in the order of (device, time), for a batch that repeats no reading.

    Sorted keys keep several ingestors from deadlocking, and give the index its pages in order. Rows compare as they
    are: a key function would double the cost, and only repeated readings could tell the difference.
    """
    return sorted(rows)


def first_of_each(rows: Sequence[R]) -> list[R]:
    """The same for a batch that may repeat readings: of each device and time the first that was received."""
    ordered: list[R] = sorted(rows, key=_device_and_time)
    return list({row[:2]: row for row in reversed(ordered)}.values())[::-1]


def newest_per_device(rows: Sequence[R]) -> list[R]:
    """Of rows in the order of (device, time), each device's last."""
    return list({row[0]: row for row in rows}.values())

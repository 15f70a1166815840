"""What was received and is not acknowledged yet: batches that fill, wait their turn, or wait for somebody's lock.

Messages are decoded as they arrive into the open batch. While one batch is written the next one fills. What bounds
memory: for QoS 1 the broker's window; for bytes, arrays and QoS 0 a pause in reading. A batch leaves only by being
stored and acknowledged, in the order of receiving (MQTT-4.6.0-2), or by being delivered again. No I/O.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

import mqtt5

from ingestor.acknowledgements import Acknowledgements
from ingestor.batch import Batch, FlushPolicy, Row, Trigger
from ingestor.clocks import Clocks
from ingestor.decode import Decoder
from ingestor.metrics import IngestMetrics
from ingestor.source import Channel
from ingestor.window import BrokerWindow

logger = logging.getLogger(__name__)

# Readings that wait for somebody's lock are tried again so often; each try is over in a moment.
HELD_SECONDS = 2.0

_is_duplicate = attrgetter("duplicate")


@dataclass(frozen=True)
class PendingLimits:
    """How much may wait in memory before reading pauses."""

    rows: int
    payload_bytes: int


@dataclass(eq=False, kw_only=True)
class Backlog:
    """Filled by the source, emptied by one writer. All methods belong to one event loop."""

    decoder: Decoder
    clocks: Clocks
    policy: FlushPolicy
    limits: PendingLimits
    window: BrokerWindow
    metrics: IngestMetrics
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._channel: Channel | None = None
        self._paused: Channel | None = None
        self._open = Batch()
        self._closed: deque[tuple[Batch, Trigger]] = deque()
        self._writing: Batch | None = None
        self._held: deque[Batch] = deque()
        self._held_until = 0.0
        self._acknowledgements = Acknowledgements(self.window, self.monotonic)
        self._stopping = self._is_over = False
        self._wake = asyncio.Event()

    @property
    def batches(self) -> list[Batch]:
        """Everything that is not stored yet."""
        writing = [] if self._writing is None else [self._writing]
        return [*self._held, *writing, *(batch for batch, _ in self._closed), self._open]

    def pending(self) -> int:
        """Readings received and not committed."""
        return sum(batch.readings for batch in self.batches)

    def inflight(self) -> int:
        """Messages with QoS 1 or 2 received and not acknowledged."""
        return sum(batch.unacknowledged for batch in (*self.batches, *self._acknowledgements.owed))

    def held(self) -> int:
        """Readings that wait for a lock of another session."""
        return sum(batch.readings for batch in self._held)

    # What the source does

    def receive(self, channel: Channel, packets: list[mqtt5.PublishPacket]) -> None:
        """Take a portion of messages as they arrive."""
        if self._is_over:
            return  # nobody writes any more: the broker delivers these again
        batch, window = self._open, self.window
        if channel is not self._channel:
            self._channel = channel
            window.connected()
        was_empty, before, asked = batch.messages == 0, batch.readings, len(batch.receipts)
        received = self.decoder.decode(packets, batch, self.clocks.now())
        packet_ids = [packet_id for packet in packets if (packet_id := packet.packet_id) is not None]
        batch.owe(channel.acknowledge, packet_ids)
        for receipt in batch.receipts[asked:]:
            receipt.channel = channel
        now = self.monotonic()
        window.received(len(packet_ids), now)
        if not batch.redelivered:
            batch.redelivered = any(map(_is_duplicate, packets))
            batch.may_be_stored = batch.may_be_stored or batch.redelivered
        batch.arrivals.append((now, batch.readings - before))
        self.metrics.received(received)
        trigger = self.policy.full(batch)
        if trigger is not None:
            self._close(trigger)
        if was_empty or trigger is not None or window.is_full:
            self._wake.set()
        if self._is_over_limits() or self._stopping:
            channel.pause_reading()
            self._paused = channel
            if (seconds := self.decoder.pause_seconds()) > 0:
                asyncio.get_running_loop().call_later(seconds, self.read_on)

    def read_on(self) -> None:
        """Where nothing speaks against it any more: a batch is settled, a pause is over, or the clocks agree again."""
        if self._paused is not None and not self._stopping and not self._is_over_limits():
            self._paused.resume_reading()
            self._paused = None

    def stop(self, channel: Channel | None) -> None:
        """Receive nothing more, from the source's present channel either; what is in hand is still to be written."""
        self._stopping = True
        if channel is not None:
            channel.pause_reading()
        self._wake.set()

    # What the writer does

    async def next(self) -> tuple[Batch, Trigger] | None:
        """The batch that is to be written now, once there is one; None after `stop`, when all but the held are out."""
        while (due := self.due()) is None:
            if self._stopping:
                self._is_over = True
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(self._seconds_until_due()):
                    await self._wake.wait()
            except TimeoutError:
                pass  # something is due
        return due

    def due(self) -> tuple[Batch, Trigger] | None:
        """The batch that is to be written now, if there is one. It stays in the books until it is settled."""
        now = self.monotonic()
        if not self._closed and (trigger := self._due_by(now)) is not None:
            self._close(trigger)
        if self._closed:
            batch, trigger = self._closed.popleft()
        elif self._held and not self._stopping and now >= self._held_until:
            self._held_until = now + HELD_SECONDS
            batch, trigger = self._held.popleft(), "interval"
        else:
            return None
        if self._held:
            batch.blocked = batch.may_be_stored = True
        self._writing = batch
        return batch, trigger

    def join_waiting(self, batch: Batch) -> None:
        """Let everything that waits behind the batch go with it: other rows tell whether a fault is everybody's."""
        while self._closed:
            batch.absorb(self._closed.popleft()[0])
        batch.absorb(self._open)
        self._open = Batch()

    def settled(self, batch: Batch, later: Mapping[str, list[Row]]) -> None:
        """The batch that was out is stored, except for the rows in `later`, which are held until a lock is free."""
        self._writing = None
        if batch.waits_its_turn:
            self._acknowledgements.owed.append(batch)
        if later:
            self._held.append(batch.rest(later))
        else:
            for done in (*batch.rest_of, batch):
                done.settled = True
            if batch.rest_of:
                self._held_until = 0.0
                if not self._held:
                    logger.info("the readings that waited for a lock are stored")
        self._acknowledgements.send()
        batch.forget()
        self.read_on()

    def deliver_again(self, batch: Batch, why: str) -> None:
        """Nothing of the batch that was out is acknowledged: the broker delivers its messages once more."""
        self._writing = None
        for waiting in batch.rest_of:
            self._acknowledgements.owed.remove(waiting)
        if self._channel is not None:
            self._channel.deliver_again(why)
        self._acknowledgements.send()
        self.read_on()

    # How it works

    def _close(self, trigger: Trigger) -> None:
        self._closed.append((self._open, trigger))
        self._open = Batch()

    def _due_by(self, now: float) -> Trigger | None:
        """Why the open batch, which is not full, is still to be written now."""
        seconds = self.policy.seconds_until_due(self._open, now)
        if seconds is None:
            return None
        if self._stopping:
            return "shutdown"
        if self.window.is_full:
            return "rows"  # nothing more can come before these are acknowledged
        if seconds > 0:
            return None
        self.window.waited(self.policy.interval_seconds, now)
        return "interval"

    def _seconds_until_due(self) -> float | None:
        """None: nothing is due until something comes."""
        now = self.monotonic()
        seconds = self.policy.seconds_until_due(self._open, now)
        if not self._held:
            return seconds
        left = self._held_until - now
        return left if seconds is None else min(left, seconds)

    def _is_over_limits(self) -> bool:
        batches = self.batches
        return (
            self.clocks.problem() is not None
            or self.window.is_exceeded
            or sum(batch.readings for batch in batches) > self.limits.rows
            or sum(batch.payload_bytes for batch in batches) > self.limits.payload_bytes
            or self.decoder.pause_seconds() > 0
        )

"""Messages to the broker: a few connections or thousands, each with a bounded number of publishes under way.

A message whose connection was lost before its PUBACK is sent again, the same bytes: at least once is QoS 1's promise,
and storing it once is the ingestor's. What the broker refused is counted and never sent again. No task per connection
and none per message: a lane is called when there is something to send, and when answers have come.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from access.lists import Entry
from loadgen.counts import Counts
from loadgen.evidence import ACKNOWLEDGED
from loadgen.histogram import Histogram
from loadgen.messages import READING, REFUSABLE, Message
from mqtt.errors import PublishRefused

# Publishes under way on all connections together: at a round trip of 50 ms still 40,000 a second, and few enough that a
# broker whose own window is smaller is not flooded.
OUTSTANDING_MAX = 2000
# Messages that wait for a free place, per connection: enough to keep the places busy, small so that a broker that went
# away stops the schedule instead of filling memory.
WAITING_MAX = 100
# The same for all of thousands of connections together.
WAITING_ALL_MAX = 20_000


class Outlet(Protocol):
    """An open connection that takes messages by the batch: `mqtt.outbox.Outbox`, `asking.AskingOutlet`, or
    `mqtt311.Connection311`.
    """

    @property
    def room(self) -> int: ...
    def send(self, messages: Sequence[Message]) -> None: ...
    def unanswered(self) -> list[Message]: ...
    async def disconnect(self) -> None: ...


class Traffic:
    """What all lanes of a run share."""

    def __init__(self, counts: Counts, latency: Histogram, qos: int = 1) -> None:
        self.counts = counts
        self.qos = qos
        self.latency = latency
        """Due → PUBACK with success, or receipt."""
        self.pending = 0
        """Messages handed to lanes that are not answered yet (with QoS 0: not sent)."""
        self.moved = asyncio.Event()
        """Set whenever there may be room again, or everything is answered."""

    async def wait(self, seconds: float) -> None:
        """Until something has moved, at most so long."""
        self.moved.clear()
        try:
            async with asyncio.timeout(seconds):
                await self.moved.wait()
        except TimeoutError:
            pass


class Lane:
    """One connection with its queue; a device always uses the same one, so its readings keep order."""

    __slots__ = ("_repeats", "_traffic", "_waiting", "_waiting_max", "account", "number", "outlet")

    def __init__(self, number: int, traffic: Traffic, waiting_max: int, account: Entry | None = None) -> None:
        """`account`: as whom it connects; None: as MQTT_URL says."""
        self.number = number
        self.account = account
        self.outlet: Outlet | None = None
        self._traffic = traffic
        self._waiting_max = waiting_max
        self._waiting: deque[Message] = deque()
        self._repeats = 0

    @property
    def counts(self) -> Counts:
        """Of the run."""
        return self._traffic.counts

    @property
    def full(self) -> bool:
        """Whether it takes no more for now."""
        return len(self._waiting) >= self._waiting_max

    @property
    def never_sent(self) -> int:
        """Messages that still wait to be sent for the first time."""
        return len(self._waiting) - min(self._repeats, len(self._waiting))

    def put(self, message: Message) -> None:
        """Hand over a message; `flush` sends it."""
        self._traffic.pending += 1
        self._waiting.append(message)

    def flush(self) -> None:
        """Send what there is room for, as one write."""
        waiting, outlet = self._waiting, self.outlet
        if not waiting or outlet is None:
            return
        room = outlet.room
        if room >= len(waiting):
            batch = list(waiting)
            waiting.clear()
        else:
            batch = [waiting.popleft() for _ in range(room)]
        if batch:
            self._count_sent(batch)
            outlet.send(batch)

    def attach(self, outlet: Outlet) -> None:
        """The connection is there."""
        self.outlet = outlet
        self.flush()
        self._traffic.moved.set()

    def detach(self) -> None:
        """The connection has ended: what it owes an answer is sent again, before everything else."""
        outlet, self.outlet = self.outlet, None
        if outlet is not None:
            unanswered = outlet.unanswered()
            self._waiting.extendleft(reversed(unanswered))
            self._repeats += len(unanswered)

    def answered(self, accepted: list[Message], refused: list[tuple[Message, PublishRefused]]) -> None:
        """Count what the broker has and what it will not have. A hot path: 0.6 µs a message."""
        traffic, now = self._traffic, time.monotonic()
        counts, latency = traffic.counts, traffic.latency
        for message in accepted:
            _, _, due, role, evidence, place = message
            if role == READING:
                counts.acknowledged += 1
                latency.add(now - due)
            if evidence is not None and role != REFUSABLE:
                evidence.acknowledged[place] = ACKNOWLEDGED
        for message, error in refused:
            if message.role == READING:
                counts.refused[str(error)] += 1
        traffic.pending -= len(accepted) + len(refused)
        self.flush()
        traffic.moved.set()

    def _count_sent(self, batch: list[Message]) -> None:
        counts = self._traffic.counts
        again = min(self._repeats, len(batch))
        self._repeats -= again
        counts.published += sum(message.role == READING for message in batch[again:])
        counts.published_again += sum(message.role == READING for message in batch[:again])
        counts.messages += len(batch)
        if self._traffic.qos == 0:
            self._traffic.pending -= len(batch)


class Switchboard:
    """Many lanes as one, where each device has a connection of its own: a message goes by that of its device."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        """`lanes` by the topic of their device."""
        self._lanes = lanes
        self._busy: dict[int, Lane] = {}

    @property
    def full(self) -> bool:
        """Whether one of them takes no more for now."""
        return any(lane.full for lane in self._busy.values())

    def put(self, message: Message) -> None:
        lane = self._lanes[message.topic]
        lane.put(message)
        self._busy[lane.number] = lane

    def flush(self) -> None:
        """Send what there is room for."""
        for lane in self._busy.values():
            lane.flush()
        self._busy = {number: lane for number, lane in self._busy.items() if lane.full}


def under_way_per_lane(lanes: int) -> int:
    """Its share of OUTSTANDING_MAX."""
    return max(1, OUTSTANDING_MAX // lanes)


def waiting_per_lane(lanes: int) -> int:
    """Its share of WAITING_ALL_MAX, at most WAITING_MAX."""
    return max(1, min(WAITING_MAX, WAITING_ALL_MAX // lanes))

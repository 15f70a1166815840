"""Readings to the broker with QoS 1: a few connections, each with a bounded number of publishes under way.

A reading whose connection was lost before its PUBACK is sent again, the same bytes: at least once is QoS 1's promise,
and storing it once is the ingestor's. What the broker refused is counted and never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from loadgen.counts import Counts
from loadgen.fleet import Reading
from loadgen.record import Record
from telemetry.errors import LinkLost, PublishRefused
from telemetry.mqtt import Link

# Publishes under way on all connections together: at a round trip of 50 ms still 20,000 a second, and few enough that a
# broker whose own window is smaller is not flooded.
OUTSTANDING_MAX = 1000
# Readings that wait for a free place, per connection: enough to keep the places busy, small so that a broker that went
# away stops the schedule instead of filling memory.
WAITING_MAX = 100
# Also keeps a worker from spinning in the moment between a connection's end and the link's notice of it.
RETRY_SECONDS = 0.05


class Lane:
    """One connection with its queue and its workers; a device always uses the same one, so its readings keep order."""

    def __init__(self, link: Link, counts: Counts, record: Record | None) -> None:
        self._link = link
        self._counts = counts
        self._record = record
        self._waiting: asyncio.Queue[Reading] = asyncio.Queue(WAITING_MAX)

    def start(self, group: asyncio.TaskGroup, workers: int) -> list[asyncio.Task[None]]:
        """The workers, as tasks of `group`; they run until they are cancelled. They raise LinkRefused."""
        return [group.create_task(self._work()) for _ in range(workers)]

    async def put(self, reading: Reading) -> None:
        """Hand over a reading; waits while the lane is full."""
        if self._record is not None:
            self._record.add(reading)
        await self._waiting.put(reading)

    async def drained(self) -> None:
        """Wait until everything handed over has its answer."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            reading = await self._waiting.get()
            try:
                await self._publish(reading)
            finally:
                self._waiting.task_done()

    async def _publish(self, reading: Reading) -> None:
        if self._link.connection is None:
            await self._link.wait_connected()
        counts = self._counts
        counts.published += 1
        while True:
            try:
                await self._link.publish(reading.device.topic, reading.payload)
            except PublishRefused as refused:
                counts.refused[str(refused)] += 1
                return
            except LinkLost:
                await asyncio.sleep(RETRY_SECONDS)
                await self._link.wait_connected()
                counts.published_again += 1
            else:
                counts.acknowledged += 1
                if self._record is not None:
                    self._record.acknowledge(reading)
                return


def workers_per_lane(lanes: Sequence[Lane]) -> int:
    """Its share of OUTSTANDING_MAX."""
    return max(1, OUTSTANDING_MAX // len(lanes))

"""How long until a reading is in the tables for everybody to see: samples, looked for by their keys.

`ingested_at` cannot say it: it is the start of the transaction that stored the reading, not its commit. So up to 50
readings a second are noted when they are due, and one connection asks every 20 ms which of them are visible. The
result is off by the time between two looks, which is reported with it. It must never hold up a publisher.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg

from loadgen.fleet import Reading
from loadgen.histogram import Histogram
from loadgen.stored import Tables, why_unreadable
from postgres.connecting import connect
from telemetry.kinds import SqlByKind
from telemetry.readings import EPOCH

SAMPLES_PER_SECOND_MAX: Final = 50
POLL_SECONDS: Final = 0.02
# Looked for at a time, oldest first; and remembered at all, some minutes of samples for an ingestor that is away.
SOUGHT_MAX: Final = 200
REMEMBERED_MAX: Final = 20_000
RETRY_SECONDS: Final = 1.0
# BETWEEN lets the planner leave out the other days' partitions.
VISIBLE = SqlByKind("""
    SELECT {id}, ts FROM {history}
      JOIN unnest(%(ids)s::text[], %(stamps)s::timestamptz[]) AS sought(device, at) ON {id} = device AND ts = at
     WHERE ts BETWEEN %(first)s AND %(last)s""")


class Sought(NamedTuple):
    """A reading that is looked for."""

    kind: str
    device_id: str
    ts: datetime
    due: float


class Committed:
    """The samples of one run and what became of them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._sought: dict[tuple[str, datetime], Sought] = {}
        self._next_sample = 0.0
        self.latency = Histogram()
        """Due → visible."""
        self.gaps = Histogram()
        """Between two looks."""
        self.skipped = 0
        """Samples that found no place: REMEMBERED_MAX were being looked for."""
        self.problem: str | None = None
        """Why the database could not be asked, if it could not."""

    @property
    def missing(self) -> int:
        """Samples not seen yet."""
        return len(self._sought)

    def offer(self, reading: Reading, due: float) -> None:
        """Take the reading as a sample if it is time for one."""
        if due < self._next_sample:
            return
        self._next_sample = due + 1 / SAMPLES_PER_SECOND_MAX
        if len(self._sought) >= REMEMBERED_MAX:
            self.skipped += 1
            return
        ts = EPOCH + timedelta(microseconds=reading.ts_us)
        self._sought[reading.device.id, ts] = Sought(reading.device.kind, reading.device.id, ts, due)

    async def run(self) -> None:
        """Look until cancelled; a database that is away is asked again later."""
        while True:
            try:
                async with await connect(
                    self._tables.conninfo, autocommit=True, application_name="wattline-loadgen-latency"
                ) as connection:
                    await self._look(connection)
            except psycopg.Error as error:
                self.problem = why_unreadable(self._tables, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def settle(self, seconds: float) -> None:
        """Wait until all samples are seen, at most so long."""
        deadline = time.monotonic() + seconds
        while self._sought and time.monotonic() < deadline:  # noqa: ASYNC110 - what it waits for is polled itself
            await asyncio.sleep(POLL_SECONDS)

    def as_json(self) -> dict[str, Any]:
        gap = {"p50": round(self.gaps.quantile(0.5) * 1e3, 1), "max": round(self.gaps.longest_seconds * 1e3, 1)}
        return {**self.latency.milliseconds(), "resolution": gap, "missing": self.missing, "skipped": self.skipped}

    def lines(self) -> list[str]:
        """For a person."""
        if not self.latency.count and self.problem is not None:
            return [f"publish → committed: not measured: {self.problem}"]
        line = (
            f"publish → committed: {self.latency.line()} ({self.latency.count:,} samples, looked for every "
            f"{self.gaps.quantile(0.5) * 1e3:,.0f} ms, at most {self.gaps.longest_seconds * 1e3:,.0f} ms)"
        )
        if not self.missing and not self.skipped:
            return [line]
        return [line, f"of the samples {self.missing:,} were not seen in time and {self.skipped:,} not looked for"]

    async def _look(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        looked = time.monotonic()
        while True:
            oldest = list(self._sought.values())[:SOUGHT_MAX]
            for kind, query in VISIBLE.items():
                samples = [sample for sample in oldest if sample.kind == kind]
                if samples:
                    rows = await (await connection.execute(query, _parameters(samples))).fetchall()
                    now = time.monotonic()
                    for device_id, ts in rows:
                        sample = self._sought.pop((device_id, ts), None)
                        if sample is not None:
                            self.latency.add(now - sample.due)
            await asyncio.sleep(max(0.0, looked + POLL_SECONDS - time.monotonic()))
            now = time.monotonic()
            if oldest:
                self.gaps.add(now - looked)
            looked = now


def _parameters(samples: Sequence[Sought]) -> dict[str, object]:
    stamps = [sample.ts for sample in samples]
    return {
        "ids": [sample.device_id for sample in samples],
        "stamps": stamps,
        "first": min(stamps),
        "last": max(stamps),
    }

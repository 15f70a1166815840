"""What the tables need now and then, off the path of the readings: partitions ahead, retention, a look for silence.

It has a connection of its own, and its failures are said and tried again; they never stop the ingest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.settings import Settings
from ingestor.hourly import delete_expired_sums
from ingestor.metrics import IngestMetrics
from ingestor.schema.partitions import (
    days_ahead,
    delete_rejected,
    drop_expired,
    ensure_partitions,
    oldest_day_kept,
)
from postgres.connecting import connect
from postgres.words import explain
from telemetry.topics import Kind

logger = logging.getLogger(__name__)

SILENCE_LOOK_SECONDS = 30.0
# Partitions are made three days ahead, so an hour is often enough even if many rounds fail.
ROUND_SECONDS = 3600.0

# Devices that have reported before and have not for 5 minutes. A late reading is a sign of life too.
SILENT: dict[Kind, LiteralString] = {
    "meter": "SELECT count(*) FROM meter_status WHERE last_updated < now() - interval '5 minutes'",
    "vehicle": "SELECT count(*) FROM vehicle_status WHERE last_updated < now() - interval '5 minutes'",
}


class Maintenance:
    """Runs until cancelled."""

    def __init__(self, settings: Settings, metrics: IngestMetrics, connected: Callable[[], bool]) -> None:
        """While not `connected` to the broker, silence is ours and not the devices'; the gauges stand still then."""
        self._settings = settings
        self._metrics = metrics
        self._connected = connected
        self._next_round = 0.0
        self._problem = ""

    async def run(self) -> None:
        """Look and tidy, again and again."""
        while True:
            try:
                connection = await connect(
                    self._settings.database_conninfo, autocommit=True, application_name="wattline maintenance"
                )
                async with connection:
                    while True:
                        await self._look(connection)
                        self._problem = ""
                        await asyncio.sleep(SILENCE_LOOK_SECONDS)
            except psycopg.Error as error:
                problem = explain(error, self._settings.database_label)
                if problem != self._problem:
                    logger.warning("maintenance: %s; trying again", problem)
                    self._problem = problem
                await asyncio.sleep(SILENCE_LOOK_SECONDS)

    async def _look(self, connection: AsyncConnection[TupleRow]) -> None:
        if time.monotonic() >= self._next_round:
            await self._tidy(connection)
            self._next_round = time.monotonic() + ROUND_SECONDS
        if self._connected():
            for kind, query in SILENT.items():
                row = await (await connection.execute(query)).fetchone()
                self._metrics.silent(kind, row[0] if row else 0)

    async def _tidy(self, connection: AsyncConnection[TupleRow]) -> None:
        now = datetime.now(UTC)
        made = await ensure_partitions(connection, days_ahead(now))
        dropped = await drop_expired(connection, self._settings.retention_days, now)
        if self._settings.retention_days:
            oldest = datetime.combine(oldest_day_kept(self._settings.retention_days, now), datetime.min.time(), UTC)
            await delete_expired_sums(connection, oldest)
        deleted = await delete_rejected(connection, self._settings.rejected_retention_days)
        for done, names in (("made", made), ("dropped", dropped)):
            if names:
                logger.info("partitions %s: %s", done, ", ".join(names))
        if deleted:
            logger.info("deleted %d refused messages after %d days", deleted, self._settings.rejected_retention_days)

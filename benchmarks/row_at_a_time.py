"""A row-at-a-time ingestor, as most are written: for each message an INSERT, an UPSERT and a COMMIT, then its PUBACK.

For the comparison only. It has wattline's own link and decoder, so that what is compared is the way of writing. One
message after another, because acknowledgements must go out in the order of receiving.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import mqtt5
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.settings import Settings
from ingestor.batch import Batch, Row
from ingestor.decode import Decoder
from ingestor.rejected.limit import KeepLimit
from mqtt.link import Connection, Link, LinkOptions
from postgres.connecting import connect
from telemetry.rules import Rules
from telemetry.topics import ALL_TELEMETRY

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
METER_HISTORY: LiteralString = """
    INSERT INTO meter_readings_history (meter_id, ts, kwh_consumed_ac, voltage) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
METER_STATUS: LiteralString = """
    INSERT INTO meter_status (meter_id, last_reading, kwh_consumed_ac, voltage, last_updated)
    VALUES (%s, %s, %s, %s, now())
    ON CONFLICT (meter_id) DO UPDATE SET
        last_reading = excluded.last_reading, kwh_consumed_ac = excluded.kwh_consumed_ac,
        voltage = excluded.voltage, last_updated = excluded.last_updated
    WHERE excluded.last_reading > meter_status.last_reading
"""
VEHICLE_HISTORY: LiteralString = """
    INSERT INTO vehicle_readings_history (vehicle_id, ts, soc, kwh_delivered_dc, battery_temp)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
VEHICLE_STATUS: LiteralString = """
    INSERT INTO vehicle_status (vehicle_id, last_reading, soc, kwh_delivered_dc, battery_temp, last_updated)
    VALUES (%s, %s, %s, %s, %s, now())
    ON CONFLICT (vehicle_id) DO UPDATE SET
        last_reading = excluded.last_reading, soc = excluded.soc, kwh_delivered_dc = excluded.kwh_delivered_dc,
        battery_temp = excluded.battery_temp, last_updated = excluded.last_updated
    WHERE excluded.last_reading > vehicle_status.last_reading
"""


async def ingest_row_at_a_time(settings: Settings, count: int) -> None:
    """Store and acknowledge `count` messages."""
    decoder = Decoder(Rules.from_settings(settings), keep_limit=KeepLimit(settings.rejected_max_per_second))
    options = LinkOptions.from_settings(
        settings,
        client_id=settings.mqtt_client_id,
        clean_start=False,
        session_expiry_seconds=settings.mqtt_session_expiry_seconds,
        receive_maximum=settings.max_inflight,
    )
    waiting: deque[tuple[Connection, mqtt5.PublishPacket]] = deque()
    arrived = asyncio.Event()

    def take(connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        waiting.extend((connection, packet) for packet in packets)
        arrived.set()

    async with (
        await connect(settings.database_conninfo, autocommit=True) as database,
        Link(options, subscribe=[ALL_TELEMETRY], on_publish=take) as link,
    ):
        for _ in range(count):
            while not waiting:
                arrived.clear()
                await arrived.wait()
            connection, packet = waiting.popleft()
            batch = Batch()
            decoder.decode([packet], batch, time.time())
            await _store(database, batch)
            if packet.packet_id is not None:
                # On the connection that it came on: a resumed session delivers before the link calls itself connected.
                connection.acknowledge([packet.packet_id])
        if link.connection is not None:
            # The broker answers in order, so it has taken the acknowledgements: none of these messages comes again.
            await link.connection.unsubscribe(ALL_TELEMETRY)


async def _store(database: AsyncConnection[TupleRow], batch: Batch) -> None:
    async with database.transaction():
        for rows, history, status in (
            (batch.rows["meter"], METER_HISTORY, METER_STATUS),
            (batch.rows["vehicle"], VEHICLE_HISTORY, VEHICLE_STATUS),
        ):
            for row in rows:
                values = _values(row)
                await database.execute(history, values)
                await database.execute(status, values)


def _values(row: Row) -> tuple[object, ...]:
    device_id, timestamp_us, *numbers = row
    return (device_id, EPOCH + timedelta(microseconds=timestamp_us), *numbers)

"""The SQL of a flush, one set a kind of reading.

Columns come in the order of a row: id, timestamp, numbers. `last_updated` is taken from `excluded`: Citus allows no
function in DO UPDATE SET.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from telemetry.topics import Kind


@dataclass(frozen=True)
class Statements:
    """What is written for a kind of reading, and the JSON names of its columns."""

    kind: Kind
    fields: tuple[str, ...]
    copy: LiteralString
    """New readings, all of them: fails on the first that is there already."""
    merge: LiteralString
    """The same, leaving out those that are there already: the first one stored wins."""
    newest: LiteralString
    """The newest reading of each device: an older one never overwrites a newer one."""


METER = Statements(
    kind="meter",
    fields=("meterId", "timestamp", "kwhConsumedAc", "voltage"),
    copy="COPY meter_readings_history (meter_id, ts, kwh_consumed_ac, voltage) FROM STDIN (FORMAT binary)",
    merge="""
        INSERT INTO meter_readings_history (meter_id, ts, kwh_consumed_ac, voltage)
        SELECT * FROM unnest(%b::text[], %b::timestamptz[], %b::float8[], %b::float8[])
        ON CONFLICT (meter_id, ts) DO NOTHING
    """,
    newest="""
        INSERT INTO meter_status (meter_id, last_reading, kwh_consumed_ac, voltage, last_updated)
        SELECT reading.*, now() FROM unnest(%b::text[], %b::timestamptz[], %b::float8[], %b::float8[]) AS reading
        ON CONFLICT (meter_id) DO UPDATE SET
            last_reading = excluded.last_reading,
            kwh_consumed_ac = excluded.kwh_consumed_ac,
            voltage = excluded.voltage,
            last_updated = excluded.last_updated
        WHERE excluded.last_reading > meter_status.last_reading
    """,
)

VEHICLE = Statements(
    kind="vehicle",
    fields=("vehicleId", "timestamp", "soc", "kwhDeliveredDc", "batteryTemp"),
    copy="""
        COPY vehicle_readings_history (vehicle_id, ts, soc, kwh_delivered_dc, battery_temp) FROM STDIN (FORMAT binary)
    """,
    merge="""
        INSERT INTO vehicle_readings_history (vehicle_id, ts, soc, kwh_delivered_dc, battery_temp)
        SELECT * FROM unnest(%b::text[], %b::timestamptz[], %b::float8[], %b::float8[], %b::float8[])
        ON CONFLICT (vehicle_id, ts) DO NOTHING
    """,
    newest="""
        INSERT INTO vehicle_status (vehicle_id, last_reading, soc, kwh_delivered_dc, battery_temp, last_updated)
        SELECT reading.*, now()
        FROM unnest(%b::text[], %b::timestamptz[], %b::float8[], %b::float8[], %b::float8[]) AS reading
        ON CONFLICT (vehicle_id) DO UPDATE SET
            last_reading = excluded.last_reading,
            soc = excluded.soc,
            kwh_delivered_dc = excluded.kwh_delivered_dc,
            battery_temp = excluded.battery_temp,
            last_updated = excluded.last_updated
        WHERE excluded.last_reading > vehicle_status.last_reading
    """,
)

# Refusals into quarantine.
QUARANTINE: LiteralString = """
    INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason)
    SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::bytea[], %s::text[], %s::text[])
"""

# The same where the broker, or we ourselves, may have brought some of them before: each is kept once.
QUARANTINE_ONCE: LiteralString = """
    INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason)
    SELECT refused.*
    FROM unnest(%s::timestamptz[], %s::text[], %s::bytea[], %s::text[], %s::text[])
        AS refused (received_at, topic, payload, reason_code, reason)
    WHERE NOT EXISTS (
        SELECT FROM rejected_messages AS kept
        WHERE kept.topic = refused.topic
            AND md5(kept.payload) = md5(refused.payload)
            AND kept.reason_code = refused.reason_code
            AND kept.received_at > refused.received_at - interval '1 day'
    )
"""

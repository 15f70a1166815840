"""The topics of the contract: `v1/telemetry/meter/{meterId}` and `v1/telemetry/vehicle/{vehicleId}`."""

from __future__ import annotations

from typing import Literal

Kind = Literal["meter", "vehicle"]
KINDS: tuple[Kind, ...] = ("meter", "vehicle")

ALL_TELEMETRY = "v1/telemetry/#"
METER_PREFIX = "v1/telemetry/meter/"
VEHICLE_PREFIX = "v1/telemetry/vehicle/"


def topic_of(kind: Kind, device_id: str) -> str:
    """Where a device publishes its readings."""
    return (METER_PREFIX if kind == "meter" else VEHICLE_PREFIX) + device_id


def subscription_filter(share_group: str | None) -> str:
    """What an ingestor subscribes to: everything, or its share of it (MQTT 5, section 4.8.2)."""
    return ALL_TELEMETRY if share_group is None else f"$share/{share_group}/{ALL_TELEMETRY}"

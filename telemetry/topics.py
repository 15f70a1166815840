"""The topics of the contract: `v1/telemetry/{kind}/{deviceId}`."""

from __future__ import annotations

from telemetry.kinds import KINDS as DECLARED
from telemetry.kinds import TOPIC_ROOT

Kind = str
"""The name of a kind."""
KINDS: tuple[Kind, ...] = tuple(kind.name for kind in DECLARED)

ALL_TELEMETRY = f"{TOPIC_ROOT}/#"


def topic_of(kind: Kind, device_id: str) -> str:
    """Where a device publishes its readings."""
    return f"{TOPIC_ROOT}/{kind}/{device_id}"


def subscription_filter(share_group: str | None) -> str:
    """What an ingestor subscribes to: everything, or its share of it (MQTT 5, section 4.8.2)."""
    return ALL_TELEMETRY if share_group is None else f"$share/{share_group}/{ALL_TELEMETRY}"

"""What the broker grants in its CONNACK, held against what we need: refused where it cannot work, a warning elsewhere.

Each line says what it means for the readings, and what to change.
"""

from __future__ import annotations

from collections.abc import Sequence

import mqtt5

from mqtt.options import LinkOptions


def why_unfit(connack: mqtt5.ConnAckPacket, options: LinkOptions, filters: Sequence[str]) -> str | None:
    """Why this broker cannot serve a link with these topic filters; None: it can."""
    if connack.max_qos == mqtt5.QoS.AT_MOST_ONCE:
        return "it takes QoS 0 only, and wattline needs QoS 1 to lose nothing; allow QoS 1 there"
    if not connack.shared_subscription_available and any(each.startswith("$share/") for each in filters):
        return "it has no shared subscriptions; unset MQTT_SHARE_GROUP and run one ingestor, or use another broker"
    if not connack.wildcard_subscription_available and any("#" in each or "+" in each for each in filters):
        return "it has no wildcard subscriptions, which wattline needs; use another broker"
    if options.session_expiry_seconds > 0 and connack.session_expiry_interval == 0:
        return (
            "it keeps no session, so whatever devices publish while we are away would be lost; "
            "allow a session expiry of days there"
        )
    return None


def shortcomings(connack: mqtt5.ConnAckPacket, options: LinkOptions) -> list[str]:
    """What works less well than it should with this broker, a line each."""
    lines = []
    granted, asked = connack.session_expiry_interval, options.session_expiry_seconds
    if granted is not None and granted < asked:
        lines.append(
            f"it keeps our session for {granted} s while we are away, not for the {asked} s of "
            "MQTT_SESSION_EXPIRY_SECONDS; what devices publish after that is lost: raise its limit"
        )
    largest, wanted = connack.max_packet_size, options.packet_bytes_wanted
    if largest is not None and largest < wanted:
        lines.append(
            f"it takes packets of {largest} bytes at most, and a device's payload may have {wanted} bytes; "
            "it refuses larger ones, and wattline never hears of them: raise its limit"
        )
    assigned = connack.assigned_client_id
    if assigned is not None and assigned != options.client_id:
        lines.append(
            f"it calls us {assigned!r} instead of {options.client_id!r}; unless that name is always the same, each "
            "connection has a new session, and what was queued for the last one is lost"
        )
    return lines


def session_lost(broker: str, client_id: str) -> str:
    """What to say when the broker has no session of ours although there was one."""
    return (
        f"the broker at {broker} has lost our session ({client_id!r}): what devices published while we were away, and "
        "what we had not acknowledged, is not delivered any more. Was it restarted without persistence, or replaced, "
        "or were we away for longer than MQTT_SESSION_EXPIRY_SECONDS? Devices that keep readings should send them again"
    )

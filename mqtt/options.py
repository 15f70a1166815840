"""What a connection to the broker needs to know, put together from the settings in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from config.broker import BrokerAddress
from mqtt.trust import Trust

if TYPE_CHECKING:  # the settings know PostgreSQL's driver, which this room has no use for
    from config.settings import Settings

# What the broker's own limit (max_packet_size in mosquitto/mosquitto.conf) lets in must reach us: a broker discards
# a message that is too large for its subscriber although it has acknowledged it to the publisher. A topic (64 kB) may
# come on top, where the publisher used an alias for it.
PACKET_BYTES_MAX = 4 * 1024 * 1024 + 2 * 65536
# One less than MQTT 5 allows. 65,535 is the protocol's default, so the codec leaves it out, and then Mosquitto takes
# its own max_inflight_messages, where 65535 means "no limit": it sends its whole queue, packet ids in use twice.
RECEIVE_MAXIMUM_MAX = 65534


@dataclass(frozen=True)
class LinkOptions:
    """Where to connect, as whom, and with which limits."""

    broker: BrokerAddress
    client_id: str
    clean_start: bool = True
    session_expiry_seconds: int = 0
    receive_maximum: int = RECEIVE_MAXIMUM_MAX
    """Messages with QoS 1 or 2 that the broker may send ahead of our acknowledgement."""
    packet_bytes_max: int = PACKET_BYTES_MAX
    keepalive_seconds: int = 30
    """A connection that is silent for about this long is given up, on either side."""
    connect_timeout_seconds: float = 10.0
    tls: Trust | None = None
    """Certificates, read again when they have changed; None = no TLS."""
    packet_bytes_wanted: int = 0
    """A broker that takes only smaller packets from its publishers is worth a warning; 0 = any will do."""

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        client_id: str,
        clean_start: bool = True,
        session_expiry_seconds: int = 0,
        receive_maximum: int = RECEIVE_MAXIMUM_MAX,
    ) -> Self:
        """Raises SettingsError when a certificate file cannot be used."""
        return cls(
            broker=settings.broker,
            client_id=client_id,
            clean_start=clean_start,
            session_expiry_seconds=session_expiry_seconds,
            receive_maximum=receive_maximum,
            keepalive_seconds=settings.mqtt_keepalive_seconds,
            tls=Trust(settings.mqtt_tls_ca, settings.mqtt_tls_cert, settings.mqtt_tls_key)
            if settings.broker.tls
            else None,
        )

"""What a connection to the broker needs to know, put together from the settings in one place."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from config.broker import BrokerAddress
from config.errors import SettingsError

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
    tls: ssl.SSLContext | None = None

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
            tls=_tls_context(settings) if settings.broker.tls else None,
        )


def _tls_context(settings: Settings) -> ssl.SSLContext:
    ca, certificate, key = settings.mqtt_tls_ca, settings.mqtt_tls_cert, settings.mqtt_tls_key
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"MQTT_TLS_CA: cannot use {ca}: {_why(error)}") from None
    # Debian's Python leaves this to OpenSSL's configuration, which may allow anything, or only more than that.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if certificate is not None and key is not None:
        try:
            # With an encrypted key OpenSSL would ask on the terminal; an empty password makes it fail instead.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"MQTT_TLS_CERT, MQTT_TLS_KEY: cannot use {certificate}, {key}: {_why(error)}"
            ) from None
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a usable PEM file ({error.reason or error})"
    return error.strerror or str(error)

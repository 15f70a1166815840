"""Where the broker is, from MQTT_URL. Its texts never repeat the URL, which may hold a password."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

INGESTOR_ACCOUNT = "telemetry"
"""The ingestor's account where the broker has one for each client; why it is called so: access/rights.py."""


class BrokerAddress(BaseModel):
    """Where the broker is and who we are to it, from MQTT_URL."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int
    tls: bool
    username: str | None
    password: SecretStr | None

    def __str__(self) -> str:
        """`mqtt://host:port`: for logs, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def broker_address(url: str) -> BrokerAddress:
    """MQTT_URL, taken apart. Raises ValueError with a text that does not repeat the URL, which may hold a password."""
    expected = "expected mqtt[s]://user:pass@host:port"
    try:
        parts = urlsplit(url)
    except ValueError:  # its text quotes a part of the URL
        raise ValueError(f"{expected}; write [ in a password as %5B, ] as %5D") from None
    if parts.scheme not in ("mqtt", "mqtts"):
        raise ValueError(f"{expected}; its scheme is neither mqtt nor mqtts")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{expected}; its port is not a number from 1 to 65535")
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{expected}, and nothing after the port")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username) if parts.username is not None else None,
        password=SecretStr(unquote(parts.password)) if parts.password is not None else None,
    )

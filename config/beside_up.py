"""A command beside a running `wattline up`: it takes broker and database from there where neither is set."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from config.errors import SettingsError
from config.running import DATA_DIR, NotRunningError, find_running, forget_other_servers


def places_beside_up(
    given: AbstractSet[str], asked: Path | None, usual: Path | None, *, publishes: bool
) -> dict[str, Any]:
    """The settings that a running `up` answers for: broker and database, or none of them, so that readings and refused
    messages of one system never get into another.

    `given` are the settings that somebody has set. `asked` is the data directory of an option, which wins over them;
    `usual` that of WATTLINE_DATA_DIR. `publishes`: no broker is guessed. Raises SettingsError.
    """
    database = sorted(name.upper() for name in given - {"database_logins"} if name.startswith("database_"))
    if asked is None and (database or "mqtt_url" in given):
        if publishes and "mqtt_url" not in given:
            raise SettingsError(
                f"MQTT_URL: is not set although {', '.join(database)} is; say where to publish: set MQTT_URL, or name "
                "the data directory of a running `wattline up` with --data-dir"
            )
        return {}
    try:
        running = find_running(asked or usual or DATA_DIR)
    except NotRunningError as error:
        if asked is not None:
            raise SettingsError(f"--data-dir: {error}") from None
        if usual is not None:
            raise SettingsError(f"WATTLINE_DATA_DIR: {error}") from None
        if publishes:
            raise SettingsError(
                f"MQTT_URL: is not set, and {error}; say where to publish: set MQTT_URL, or name the data directory of "
                "a running `wattline up` with --data-dir (or WATTLINE_DATA_DIR)"
            ) from None
        return {}
    forget_other_servers()
    return {
        "database_url": running.database_url,
        "mqtt_url": running.mqtt_url,
        "mqtt_tls_ca": running.mqtt_tls_ca,
        **dict.fromkeys(("mqtt_gateway_url", "mqtt_monitor_url", "mqtt_tls_cert", "mqtt_tls_key")),
    }

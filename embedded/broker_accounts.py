"""The accounts of `wattline up --secure` at its broker: of wattline's parts, and of each simulated device.

The parts' secrets are new at each start and nowhere but in their environments. The devices' are in a file that a
restart finds again, as devices keep theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from access.errors import AccessError
from access.lists import Entry, csv_text, read_devices, with_new_secrets
from access.passwords import new_secret
from access.rights import OURS
from config.broker import INGESTOR_ACCOUNT
from embedded.account import write_for
from embedded.secure_mosquitto import SecureMosquittoServer
from processes.child import Account

GATEWAY_ACCOUNT, MONITOR_ACCOUNT = f"{OURS}gateway", f"{OURS}monitor"
FOLDER = "broker"
DEVICES, AUTHORITY = "devices.csv", "ca.pem"


class BrokerAccounts:
    """The accounts of one run. The account that runs wattline's commands finds files in a folder of its own home."""

    def __init__(self, broker: SecureMosquittoServer, home: Path, devices: Sequence[str]) -> None:
        self._broker = broker
        self._home = home
        self._folder = home / FOLDER
        self._devices = devices
        roles = {INGESTOR_ACCOUNT: "ingestor", GATEWAY_ACCOUNT: "gateway", MONITOR_ACCOUNT: "monitor"}
        self._parts = {name: (role, new_secret()) for name, role in roles.items()}

    def set_up(self, account: Account | None) -> None:
        """Before the broker's start. Raises EmbeddedError."""
        entries = self._entries()
        self._broker.set_up(self._parts, entries)
        for folder in (self._home, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if account:
                os.chown(folder, account.uid, account.gid)
        write_for(account, self._folder / DEVICES, csv_text(entries))
        write_for(account, self._folder / AUTHORITY, self._broker.ca_file.read_text("utf-8"))

    def environment(self, handed_over: bool) -> Mapping[str, str]:
        """What every command is told; `handed_over`: it starts in that home, and may not enter the folders above."""
        return {"MQTT_URL": self._broker.url, "MQTT_TLS_CA": self._path(AUTHORITY, handed_over)}

    def environment_of(self, name: str) -> Mapping[str, str]:
        """What one of wattline's parts is told beside that."""
        ingestor, gateway, monitor = (
            self._broker.url_for(account, self._parts[account][1])
            for account in (INGESTOR_ACCOUNT, GATEWAY_ACCOUNT, MONITOR_ACCOUNT)
        )
        return {
            "ingestor": {"MQTT_URL": ingestor, "MQTT_CLIENT_ID": INGESTOR_ACCOUNT, "MQTT_MONITOR_URL": monitor},
            "api": {"MQTT_GATEWAY_URL": gateway},
        }.get(name, {})

    def devices_file(self, handed_over: bool) -> str:
        """Where the devices' secrets are."""
        return self._path(DEVICES, handed_over)

    def _path(self, name: str, handed_over: bool) -> str:
        return f"{FOLDER}/{name}" if handed_over else str((self._folder / name).absolute())

    def _entries(self) -> list[Entry]:
        """The devices with the secrets that they have, or with new ones."""
        try:
            known = {entry.device: entry for entry in read_devices(str(self._folder / DEVICES), new=False)}
        except AccessError:
            known = {}
        return [known.get(entry.device, entry) for entry in with_new_secrets(self._devices)]

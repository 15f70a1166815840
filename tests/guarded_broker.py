"""The embedded broker with access rules: TLS, passwords, whatever Mosquitto's configuration knows."""

from __future__ import annotations

from pathlib import Path

from embedded.account import account_for, write_for
from embedded.mosquitto import MosquittoServer
from embedded.ports import LOOPBACK, free_ports

TLS = """
allow_anonymous true
listener {tls_port} {loopback}
certfile server.pem
keyfile server.key
"""
PASSWORDS = """
allow_anonymous false
password_file passwords
"""


class GuardedBroker(MosquittoServer):
    """The embedded broker with more lines in its configuration, or others in the place of some, and files beside it."""

    def __init__(self, folder: Path, lines: str, files: dict[str, str]) -> None:
        super().__init__(folder)
        self.tls_port = free_ports(1)[0]
        self._lines = lines.format(tls_port=self.tls_port, loopback=LOOPBACK)
        self._files = files

    def _configuration(self) -> str:
        for name, text in self._files.items():
            write_for(account_for(self.data), self.data / name, text)
        ours = {line.split(" ")[0] for line in self._lines.splitlines() if line} - {"listener"}
        others = [line for line in super()._configuration().splitlines() if line.split(" ")[0] not in ours]
        return "\n".join([*others, self._lines])

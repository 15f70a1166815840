"""A real Mosquitto as a child process: one loopback port, its sessions and queues in its own folder.

    broker = MosquittoServer(Path(".wattline/mosquitto"), port=1883)
    broker.start()

Only the head of its configuration is generated: listener, access, folder. Everything that makes a promise is in
`mosquitto/mosquitto.conf`, which it never changes.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from embedded.account import account_for, write_for
from embedded.child import Program
from embedded.errors import EmbeddedError
from embedded.leftovers import end_leftovers, mark_of
from embedded.mosquitto_program import MosquittoProgram, mosquitto_program
from embedded.ports import LOOPBACK, free_ports
from embedded.service import Service

RULES = Path(__file__).parent.parent / "mosquitto" / "mosquitto.conf"


class MosquittoServer(Service):
    """One broker and its folder: `data/` with the configuration of this start and the snapshot."""

    name = "mosquitto"
    label = "Mosquitto"

    def __init__(
        self, folder: Path, *, port: int = 0, program: MosquittoProgram | None = None, log: Path | None = None
    ) -> None:
        """`port` 0: any free one, chosen at the first launch and kept."""
        super().__init__(log or folder.absolute() / "mosquitto.log")
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.port = port
        self._program = program

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:PORT`, once launched."""
        return f"mqtt://{LOOPBACK}:{self.port}"

    def prepare(self) -> Program:
        """Folder, account, program, port, configuration."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        account = account_for(self.data)
        self._program = self._program or mosquitto_program(account)
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            if account:
                os.chown(self.data, account.uid, account.gid)
        self.port = self.port or free_ports(1)[0]
        end_leftovers("mosquitto", self.data)  # a second broker on the same snapshot would overwrite it
        configuration = f"{mark_of(self.data)}.conf"
        for earlier in self.data.glob("*.conf"):
            earlier.unlink()
        write_for(account, self.data / configuration, self._configuration())
        return Program(
            name=self.name,
            # By relative paths: the account may not be able to enter the folders above.
            command=(str(self._program.path), "-c", configuration),
            log=self.log,
            environment={"PATH": os.defpath, "TZ": "UTC", **self._program.environment},
            directory=self.data,
            account=account,
            orphan_signal=signal.SIGTERM,
        )

    def is_ready(self) -> bool:
        """Whether it runs and listens."""
        if not self.running:
            return False
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((LOOPBACK, self.port)) == 0

    def _configuration(self) -> str:
        try:
            rules = RULES.read_text(encoding="utf-8")
        except OSError as error:
            raise EmbeddedError(f"cannot read {RULES}: {error.strerror}; run from a clone of the project") from None
        head = f"listener {self.port} {LOOPBACK}\nallow_anonymous true\npersistence_location ./\n"
        return f"# Generated at each start.\n{head}\n{rules}"

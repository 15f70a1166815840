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
import time
from collections.abc import Callable
from pathlib import Path

from embedded.account import account_for, can_read_inside, write_for
from embedded.errors import EmbeddedError
from embedded.leftovers import end_leftovers, mark_of
from embedded.mosquitto_program import MosquittoProgram, mosquitto_program
from embedded.ports import LOOPBACK, free_ports
from embedded.snapshot import NAME, damage_of, keep, set_aside
from processes.child import Account, Program, last_lines
from processes.errors import ProcessError
from processes.service import Service

# How every version ends where it cannot restore the snapshot, whatever it says before.
REFUSAL = "Couldn't open database"
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
RULES = Path(__file__).parent.parent / "mosquitto" / "mosquitto.conf"


class MosquittoServer(Service):
    """One broker and its folder: `data/` with the configuration of this start and the snapshot."""

    name = "mosquitto"
    label = "Mosquitto"
    log: Path

    def __init__(
        self, folder: Path, *, port: int = 0, program: MosquittoProgram | None = None, log: Path | None = None
    ) -> None:
        """`port` 0: any free one, chosen at the first launch and kept."""
        super().__init__(log or folder.absolute() / "mosquitto.log")
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.port = port
        self._program = program
        self._log_start = 0  # of the last launch

    @property
    def url(self) -> str:
        """`mqtt://127.0.0.1:PORT`, once launched."""
        return f"mqtt://{LOOPBACK}:{self.port}"

    def prepare(self) -> Program:
        """Folder, account, program, port, configuration."""
        account = self.make_folders()
        self._program = self._program or mosquitto_program(account)
        self.port = self.port or free_ports(1)[0]
        end_leftovers("mosquitto", self.data)  # a second broker on the same snapshot would overwrite it
        self._save_what_cannot_be_read(account)
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

    def make_folders(self, *inside: str) -> Account | None:
        """Its folder, `data/` and those `inside` it, for the account that runs it, which is the answer."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        account = account_for(self.data)
        for folder in (self.data, *(self.data / name for name in inside)):
            if not folder.exists():
                folder.mkdir(mode=0o700)
                if account:
                    os.chown(folder, account.uid, account.gid)
        return account

    def wait_ready(self, timeout_seconds: float | None = None, pause: Callable[[float], None] = time.sleep) -> None:
        """Also where the snapshot has to be set aside first."""
        try:
            super().wait_ready(timeout_seconds, pause)
        except ProcessError:
            if not self._refused_the_snapshot():
                raise
            self.launch()
            super().wait_ready(timeout_seconds, pause)

    def is_ready(self) -> bool:
        """Whether it runs and listens."""
        if not self.running:
            return False
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((LOOPBACK, self.port)) == 0

    def _save_what_cannot_be_read(self, account: Account | None) -> None:
        """Of a damaged snapshot Mosquitto reads what it can, or refuses it; the rest it would write over."""
        snapshot = self.data / NAME
        refused, self._log_start = self._refused_the_snapshot(), self.log.stat().st_size if self.log.exists() else 0
        if not os.path.lexists(snapshot):
            return
        if account and snapshot.exists() and not can_read_inside(snapshot, account):
            raise EmbeddedError(f"{snapshot} cannot be read by the user {account.name}, who runs the broker: chown it")
        damage = damage_of(snapshot)
        aside = set_aside(snapshot) if refused else keep(snapshot) if damage else None
        if aside:
            print(
                f"the broker's snapshot {damage or 'cannot be read'}; it is kept as {aside}, and messages and sessions "
                "that were waiting in it may be lost",
                flush=True,
            )

    def _refused_the_snapshot(self) -> bool:
        """Whether the last launch ended over it."""
        if self.running or not self.exit_status:
            return False
        if REFUSAL in last_lines(self.log, since=self._log_start):
            return True
        return -self.exit_status in CRASHES and damage_of(self.data / NAME) is not None

    def _configuration(self) -> str:
        head = f"listener {self.port} {LOOPBACK}\nallow_anonymous true\npersistence_location ./\n"
        return f"# Generated at each start.\n{head}\n{read_rules(RULES)}"


def read_rules(file: Path) -> str:
    """A part of the broker's configuration. Raises EmbeddedError."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise EmbeddedError(f"cannot read {file}: {error.strerror}; run from a clone of the project") from None

"""A real PostgreSQL as a child process: its own data directory, one loopback port, scram passwords, no socket file.

    server = PostgresServer(Path(".wattline/postgres"))
    server.start()
    psycopg.connect(server.url)     # postgresql://postgres@127.0.0.1:PORT/energy_db?passfile=...

The password is in a file that only we can read, never in the URL. It never touches a data directory that another
major version wrote.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg

from config.arguments import PORT_MAX
from embedded.account import account_for, can_read, write_for
from embedded.errors import EmbeddedError
from embedded.leftovers import end_leftovers, mark_of
from embedded.ports import LOOPBACK, free_ports, trouble_with
from embedded.postgres_programs import PostgresPrograms, postgres_programs
from processes.child import Account, Program
from processes.service import Service

DATABASE = "energy_db"
SUPERUSER = "postgres"
PRIVATE = 0o700
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the system's own
SHARED_MEMORY_BYTES_MIN = 256_000_000
SETTINGS = Path(__file__).with_name("postgresql.conf")
# A data directory below a folder that the server's account may not enter (root's home) is still its own: it enters
# by the working directory that we hand over, and this is how Linux lets it name that.
WORKING_DIRECTORY = "/proc/self/cwd"


class PostgresServer(Service):
    """One server and its folder: `data/`, `pgpass` (0600), `port` (the one it had last)."""

    name = "postgres"
    label = "PostgreSQL"
    start_seconds = 60.0  # a crash recovery replays up to max_wal_size

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        programs: PostgresPrograms | None = None,
        log: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`port` 0: the last one, else any free one. `settings` win over postgresql.conf."""
        super().__init__(log or folder.absolute() / "postgres.log")
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.passfile = self.folder / "pgpass"
        self.port = port
        self._programs = programs
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        """Of the database energy_db, once launched; holds no secret."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Of any database of this server; holds no secret."""
        return (
            f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/{quote(database, '')}"
            f"?passfile={quote(str(self.passfile))}"
        )

    def url_as(self, user: str) -> str:
        """Of energy_db for another user, whose password is not in our file."""
        return f"postgresql://{quote(user, '')}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def password(self) -> str:
        """The superuser's, once launched; only for who may not read the file."""
        return _password_in(self.passfile)

    def prepare(self) -> Program:
        """Folder, account, data directory, settings, port."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        account = account_for(self.data)
        programs = self._programs or postgres_programs(account)
        if not self.data.exists():
            self._create(programs, account)
        self._check(programs)
        self._choose_port()
        # Nobody else starts a server in this folder, so one that is found there is ours, left by a parent that died.
        end_leftovers("postgres", self.data, (signal.SIGQUIT,))
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        write_for(account, self.data / "postgresql.conf", SETTINGS.read_text(encoding="utf-8"))
        settings = {
            **_shared_memory(),
            **self._settings,
            "cluster_name": mark_of(self.data),  # stands in the title of each of its processes
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return Program(
            name=self.name,
            command=(programs.postgres, "-D", _as_seen_by(account, self.data), "-p", str(self.port), *options),
            log=self.log,
            environment=_environment(),
            directory=self.data,
            account=account,
            stop_signals=(signal.SIGINT, signal.SIGQUIT),  # "fast": ends the sessions; "immediate": recovers later
            orphan_signal=signal.SIGINT,
        )

    def is_ready(self) -> bool:
        """Whether it serves energy_db, which is created on the first occasion."""
        if not self.running:
            return False
        try:
            with psycopg.connect(self.url_of("postgres"), connect_timeout=2, autocommit=True) as connection:
                exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if exists is None:
                    connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        except psycopg.OperationalError:
            return False
        return True

    def _create(self, programs: PostgresPrograms, account: Account | None) -> None:
        """Run initdb on a draft that becomes `data` when it is complete."""
        password = _password(self.passfile)
        draft = self.folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=PRIVATE)
        with tempfile.NamedTemporaryFile("w") as for_initdb:  # 0600; initdb reads it as the server's account
            for_initdb.write(password)
            for_initdb.flush()
            if account:
                os.chown(draft, account.uid, account.gid)
                os.chown(for_initdb.name, account.uid, account.gid)
            _check_rights(draft, account)
            command = [programs.initdb, "-D", _as_seen_by(account, draft), f"--pwfile={for_initdb.name}"]
            command += [f"--username={SUPERUSER}", "--auth-host=scram-sha-256", "--auth-local=reject"]
            # The builtin provider sorts the same on every system; without --encoding an unset LANG gives SQL_ASCII.
            command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            command += [f"--set={name}={value}" for name, value in _shared_memory().items()]
            result = subprocess.run(
                command,
                cwd=draft,
                env=_environment(),
                capture_output=True,
                text=True,
                check=False,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        if result.returncode != 0:
            raise EmbeddedError(f"initdb could not create {self.data}: {result.stderr.strip()}")
        draft.rename(self.data)

    def _check(self, programs: PostgresPrograms) -> None:
        ours = programs.major_version()
        try:
            theirs = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise EmbeddedError(f"{self.data} is not a data directory of PostgreSQL: {error.strerror}") from None
        if theirs != ours:
            raise EmbeddedError(
                f"{self.data} was written by PostgreSQL {theirs}, and this is {ours}: "
                "dump it with the old version, or choose another --data-dir"
            )
        if not self.passfile.exists() or not self.password.strip("\0"):
            raise EmbeddedError(f"{self.passfile}, the password of the data beside it, is missing: put it back")

    def _choose_port(self) -> None:
        memory = self.folder / "port"
        if not self.port:
            remembered = memory.read_bytes().strip() if memory.exists() else b""
            known = int(remembered) if remembered.isdigit() and int(remembered) <= PORT_MAX else 0
            self.port = free_ports(1)[0] if not known or trouble_with(known) else known
        memory.write_text(str(self.port), encoding="ascii")


def _password(passfile: Path) -> str:
    """A new password, in libpq's format and readable by us alone; or the one of an attempt that did not finish."""
    if passfile.exists():
        return _password_in(passfile)
    password = secrets.token_urlsafe(24)
    descriptor = os.open(passfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{LOOPBACK}:*:*:{SUPERUSER}:{password}\n")
    return password


def _shared_memory() -> dict[str, str]:
    """Parallel queries share memory in /dev/shm, of which a container has little; there, in files of the server."""
    if sys.platform != "linux":
        return {}
    try:
        if shutil.disk_usage(SHARED_MEMORY).total >= SHARED_MEMORY_BYTES_MIN and os.access(SHARED_MEMORY, os.W_OK):
            return {}
    except OSError:
        pass
    return {"dynamic_shared_memory_type": "mmap"}


def _check_rights(folder: Path, account: Account | None) -> None:
    """Raises EmbeddedError where they are not what was asked for: initdb would, without a word of what to do."""
    status = folder.stat()
    if stat.S_IMODE(status.st_mode) != PRIVATE or status.st_uid != (account.uid if account else os.geteuid()):
        raise EmbeddedError(
            f"the file system of {folder.parent} keeps no owners and rights (a shared or a Windows folder?), "
            "and PostgreSQL needs them: choose another --data-dir"
        )


def _password_in(passfile: Path) -> str:
    return passfile.read_text(encoding="utf-8").strip().rpartition(":")[2]


def _as_seen_by(account: Account | None, data: Path) -> str:
    if account is None or can_read(data, account):
        return str(data)
    if not Path(WORKING_DIRECTORY).is_dir():
        raise EmbeddedError(
            f"the user {account.name}, who runs the servers, cannot reach {data}: choose another --data-dir"
        )
    return WORKING_DIRECTORY


def _environment() -> dict[str, str]:
    """Nothing of ours: a PGPORT, PGDATA or LANG meant for somebody else must not change the server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

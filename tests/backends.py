"""The real PostgreSQL and the real broker of the tests: child processes by default, containers on request.

`TEST_BACKEND=containers` needs a Docker engine and takes the images of docker-compose.yml; nothing else differs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Protocol

from embedded.mosquitto import MosquittoServer
from embedded.postgres import PostgresServer
from embedded.postgres_programs import PostgresPrograms
from processes.child import Account


class Server(Protocol):
    """What tests may do to a server; the port and the data stay the same through all of it."""

    @property
    def port(self) -> int: ...
    def __hash__(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Database(Server, Protocol):
    def url_of(self, database: str) -> str: ...


class Broker(Server, Protocol):
    @property
    def url(self) -> str: ...


class CopiedPostgres(PostgresServer):
    """Begins with a copy of a data directory that nobody has used: initdb would cost ten times as much."""

    def _create(self, programs: PostgresPrograms, account: Account | None) -> None:
        fresh = _fresh_data(programs, account)
        # cp, because Python's own copies leave the owner out.
        subprocess.run(["cp", "-a", fresh.passfile, self.passfile], check=True)
        subprocess.run(["cp", "-a", fresh.data, self.data], check=True)


@cache
def _fresh_data(programs: PostgresPrograms, account: Account | None) -> PostgresServer:
    """Made once a process, and removed with it."""
    folder = Path(tempfile.mkdtemp(prefix="wattline-initdb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    fresh = PostgresServer(folder)
    fresh._create(programs, account)
    return fresh


def new_database(folder: Path) -> Database:
    """A PostgreSQL of its own, not started."""
    if _containers():
        from tests.containers import ContainerDatabase  # noqa: PLC0415 - loads a Docker client

        return ContainerDatabase()
    # No test takes the power away, and what a killed server wrote is with the kernel.
    return CopiedPostgres(folder, settings={"fsync": "off"})


def new_broker(folder: Path) -> Broker:
    """A Mosquitto of its own with the project's configuration, not started."""
    if _containers():
        from tests.containers import ContainerBroker  # noqa: PLC0415 - loads a Docker client

        return ContainerBroker()
    return MosquittoServer(folder)


def _containers() -> bool:
    return os.environ.get("TEST_BACKEND", "embedded") == "containers"

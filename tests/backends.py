"""The real PostgreSQL and the real broker of the tests: child processes by default, containers on request.

`TEST_BACKEND=containers` needs a Docker engine and takes the images of docker-compose.yml; nothing else differs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from embedded.mosquitto import MosquittoServer
from embedded.postgres import PostgresServer


class Server(Protocol):
    """What tests may do to a server; the port and the data stay the same through all of it."""

    @property
    def port(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Database(Server, Protocol):
    def url_of(self, database: str) -> str: ...


class Broker(Server, Protocol):
    @property
    def url(self) -> str: ...


def new_database(folder: Path) -> Database:
    """A PostgreSQL of its own, not started."""
    if _containers():
        from tests.containers import ContainerDatabase  # noqa: PLC0415 - loads a Docker client

        return ContainerDatabase()
    return PostgresServer(folder)


def new_broker(folder: Path) -> Broker:
    """A Mosquitto of its own with the project's configuration, not started."""
    if _containers():
        from tests.containers import ContainerBroker  # noqa: PLC0415 - loads a Docker client

        return ContainerBroker()
    return MosquittoServer(folder)


def _containers() -> bool:
    return os.environ.get("TEST_BACKEND", "embedded") == "containers"

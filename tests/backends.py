"""The real PostgreSQL and the real broker of the tests: child processes by default, containers on request.

`TEST_BACKEND=containers` needs a Docker engine and takes the images of docker-compose.yml; nothing else differs.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol

from testcontainers.core.container import DockerContainer

from embedded.mosquitto import RULES, MosquittoServer
from embedded.ports import free_ports
from embedded.postgres import PostgresServer
from tests.waiting import wait_until

START_SECONDS = 60.0


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
    return ContainerDatabase() if _containers() else PostgresServer(folder)


def new_broker(folder: Path) -> Broker:
    """A Mosquitto of its own with the project's configuration, not started."""
    return ContainerBroker() if _containers() else MosquittoServer(folder)


class _Container:
    """A container that is made at the first start and kept, with its data, until the test session ends."""

    def __init__(self, image: str, inner_port: int) -> None:
        self.port = free_ports(1)[0]
        self._container = DockerContainer(image).with_bind_ports(inner_port, self.port)
        self._made = False

    def start(self) -> None:
        if self._made:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._made = True
        wait_until(self.is_ready, START_SECONDS, f"port {self.port} of the container")

    def stop(self) -> None:
        self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class ContainerDatabase(_Container):
    def __init__(self) -> None:
        super().__init__("postgres:18", 5432)
        self._container.with_env("POSTGRES_PASSWORD", "test").with_env("POSTGRES_DB", "energy_db")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres:test@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        # Its first start serves a moment on a socket file only, while it sets itself up.
        status = self._container.exec(["pg_isready", "--host=127.0.0.1"]).exit_code
        return status == 0 and super().is_ready()


class ContainerBroker(_Container):
    def __init__(self) -> None:
        super().__init__("eclipse-mosquitto:2", 1883)
        for source, name in ((RULES, "conf.d/mosquitto.conf"), (RULES.with_name("container.conf"), "mosquitto.conf")):
            self._container.with_volume_mapping(source, f"/mosquitto/config/{name}", "ro")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


def _containers() -> bool:
    return os.environ.get("TEST_BACKEND", "embedded") == "containers"

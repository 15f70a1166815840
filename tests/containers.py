"""PostgreSQL and Mosquitto as containers, for `TEST_BACKEND=containers`: the images of docker-compose.yml."""

from __future__ import annotations

import socket

from testcontainers.core.container import DockerContainer

from embedded.mosquitto import RULES
from embedded.ports import LOOPBACK, free_ports
from tests.waiting import wait_until

START_SECONDS = 60.0


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
            return probe.connect_ex((LOOPBACK, self.port)) == 0


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


# That of docker-compose.yml; a test compares them.
MOSQUITTO_IMAGE = "eclipse-mosquitto:2.1.2-alpine"


class ContainerBroker(_Container):
    def __init__(self) -> None:
        super().__init__(MOSQUITTO_IMAGE, 1883)
        for source, name in ((RULES, "conf.d/mosquitto.conf"), (RULES.with_name("container.conf"), "mosquitto.conf")):
            self._container.with_volume_mapping(source, f"/mosquitto/config/{name}", "ro")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

"""Few open files and many clients: some are told to come back later, everybody else is served, and nothing ends."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from analytics_api.live.stream import listeners_max
from config.open_files import raise_limit
from serving.server import connections_max
from tests.api_client import api_client
from tests.api_process import prepare
from tests.backends import Broker
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

FILES = 256
CROWD = FILES + 50
STREAM = b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def crowd(port: int, first_words: bytes) -> Iterator[list[socket.socket]]:
    """More connections than the server may have files; each says its first words and stays."""
    with ExitStack() as stack:
        connections = []
        for _ in range(CROWD):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(first_words)
            connections.append(connection)
        yield connections


def answered(connection: socket.socket) -> bytes:
    """The head of the answer, or "" where the connection was ended."""
    try:
        return connection.recv(2_000).partition(b"\r\n\r\n")[0]
    except ConnectionResetError:
        return b""


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[WattlineProcess]:
    prepare(database_url)
    settings = {"DATABASE_URL": database_url, "API_WRITE_LOOPBACK": "1"}
    process = WattlineProcess("api", folder=tmp_path, open_files=FILES, **settings)
    process.start()
    process.wait_ready()
    yield process
    process.kill()
    assert "Traceback" not in process.output()


def test_more_listeners_than_files_leave_the_others_served(api: WattlineProcess) -> None:
    with crowd(api.http_port, STREAM) as connections:
        heads = [answered(connection) for connection in connections]
        listening = [head for head in heads if head.startswith(b"HTTP/1.1 200 ")]
        refused = [head for head in heads if head.startswith(b"HTTP/1.1 503 ")]
        assert len(listening) == listeners_max(connections_max(FILES))
        assert len(listening) + len(refused) == CROWD
        assert all(b"retry-after: " in head for head in refused)
        for _ in range(10):
            assert get_status(f"{api.http_url}/healthz") == 200
            assert get_status(f"{api.http_url}/v1/telemetry/meter/M/status") == 404


@pytest.mark.parametrize("first_words", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_connections_that_ask_for_nothing_make_room(api: WattlineProcess, first_words: bytes) -> None:
    with crowd(api.http_port, first_words), api_client(api.http_url, timeout=30) as client:
        path = "/v1/telemetry/meter/M/status"
        wait_until(lambda: client.get(path).status_code == 404, what="room for somebody who asks")
        for _ in range(10):
            assert client.get(path).status_code == 404
        assert get_status(f"{api.http_url}/readyz") == 200


def test_slow_bodies_do_not_take_every_place_for_long(api: WattlineProcess) -> None:
    """They are being served, so those that come last are turned away, with an answer; and a body has its time."""
    head = b"POST /v1/telemetry/meter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    with crowd(api.http_port, head + b"Content-Type: application/json\r\n\r\n") as connections:
        refusal = answered(connections[-1])
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in refusal
        wait_until(lambda: get_status(f"{api.http_url}/healthz") == 200, what="an answer")
        assert answered(connections[0]).startswith(b"HTTP/1.1 408 ")
    assert "new ones are answered 503" in api.output()
    metrics = httpx.get(f"{api.http_url}/metrics").text
    assert f"wattline_http_connections_max {connections_max(FILES):.1f}" in metrics
    refused = re.search(r"^wattline_http_connections_refused_total (\d+)", metrics, re.MULTILINE)
    assert refused is not None
    assert int(refused[1]) > 0


def test_strangers_at_the_metrics_leave_the_ingestor_its_files(
    database_url: str, broker_factory: Callable[[], Broker], tmp_path: Path
) -> None:
    broker = broker_factory()
    process = WattlineProcess(
        "ingest", folder=tmp_path, open_files=FILES, DATABASE_URL=database_url, MQTT_URL=broker.url
    )
    process.start()
    try:
        process.wait_ready()
        with crowd(process.metrics_port, b""):
            wait_until(lambda: get_status(f"{process.metrics_url}/metrics") == 200, what="room for somebody who asks")
            broker.stop()
            wait_until(lambda: get_status(f"{process.metrics_url}/readyz") == 503, what="the broker is missed")
            broker.start()
            wait_until(lambda: get_status(f"{process.metrics_url}/readyz") == 200, what="the broker is found again")
        assert process.stop() == 0
    finally:
        process.kill()
    assert "Traceback" not in process.output()


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert raise_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
        assert raise_limit(250) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_fleet_that_needs_more_is_told_before_anything_is_published(tmp_path: Path) -> None:
    options = ("--meters", "900", "--vehicles", "0", "--connections", "900")
    process = WattlineProcess("loadgen", *options, folder=tmp_path, open_files=FILES, MQTT_URL="mqtt://127.0.0.1:1")
    process.start()
    assert process.wait() == 2
    assert f"--connections 900 needs 964 open files and the limit is {FILES}: raise it" in process.output()

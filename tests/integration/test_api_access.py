"""Tokens, CORS, headers and request ids of a running API; what a stranger gets, and what no log says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api_client import api_client, post
from tests.api_process import prepare, prepared_database, running_api
from tests.backends import Database
from tests.processes import WattlineProcess

PATH, ORIGIN = "/v1/telemetry/meter", "https://fleet.example.com"
READ, WRITE = {"Authorization": "Bearer r3ad"}, {"Authorization": "Bearer wr1te"}


@pytest.fixture(scope="module")
def guarded(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WattlineProcess]:
    """An API with tokens for reading and writing, and one origin."""
    tokens = {"API_READ_TOKENS": "other, r3ad", "API_WRITE_TOKENS": "wr1te", "API_CORS_ORIGINS": ORIGIN}
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url, LOG_LEVEL="DEBUG", **tokens) as process,
    ):
        yield process
        assert "Traceback" not in process.output()


@pytest.fixture
def client(guarded: WattlineProcess) -> Iterator[httpx.Client]:
    with api_client(guarded.http_url, timeout=10) as made:
        yield made


def test_tokens(client: httpx.Client, guarded: WattlineProcess) -> None:
    status = f"{PATH}/UNKNOWN/status"
    refused = client.get(status)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get(status, headers=WRITE).status_code == 401
    assert client.get(status, headers=READ).status_code == 404
    assert client.post(PATH, json={}, headers=READ).status_code == 401
    assert client.post(PATH, json={}, headers=WRITE).status_code == 400
    assert client.put("/v1/vehicles/V/meter", json={}, headers=READ).status_code == 401
    assert client.get("/healthz").status_code == 200
    assert "r3ad" not in guarded.output()
    assert "wr1te" not in guarded.output()


def test_browsers(client: httpx.Client) -> None:
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    asked = {**preflight, "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = client.options(PATH, headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert client.options(PATH, headers=asked | {"Origin": "https://evil.example.com"}).status_code == 400
    assert client.post(PATH, json={}, headers=WRITE | {"Origin": "https://evil.example.com"}).status_code == 403
    answer = client.post(PATH, json={}, headers=WRITE | {"Origin": ORIGIN})
    assert answer.status_code == 400
    assert {"retry-after", "x-request-id"} <= set(
        answer.headers["access-control-expose-headers"].lower().replace(" ", "").split(",")
    )


@pytest.mark.parametrize("path", ["/", "/static/live.js", "/healthz", "/nowhere", f"{PATH}/A/status"])
def test_every_answer_has_the_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert headers["x-request-id"]


def test_a_sane_request_id_is_kept_and_logged_and_another_is_replaced(
    client: httpx.Client, guarded: WattlineProcess
) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    for insane in ("two words", "x" * 65, "<b>"):
        assert client.get("/healthz", headers={"X-Request-ID": insane}).headers["x-request-id"] != insane
    good = {
        "meterId": "M",
        "kwhConsumedAc": 1,
        "voltage": 1,
        "timestamp": "2020-01-01T00:00:00Z",
    }
    client.post(PATH, json=good, headers=WRITE | {"X-Request-ID": "mine-2"})
    assert "(request mine-1)" in guarded.output()


def raw_status(process: WattlineProcess, request: str) -> int:
    """The status of a request, sent as it is written."""
    with socket.create_connection(("127.0.0.1", process.http_port), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        return int(connection.makefile("rb").readline().split()[1])


def nginx(method: str, port: int, path: str, body: str = "") -> str:
    """What a plain `proxy_pass` makes of a request from anywhere."""
    head = f"{method} {path} HTTP/1.0\nHost: 127.0.0.1:{port}\nConnection: close\n"
    return f"{head}Content-Type: application/json\nContent-Length: {len(body)}\n\n{body}" if body else f"{head}\n"


def test_without_tokens_nobody_writes_and_only_this_machine_reads(database_url: str, tmp_path: Path) -> None:
    prepare(database_url)
    with running_api(tmp_path, database_url, API_WRITE_LOOPBACK="0") as process:
        port, path = process.http_port, f"{PATH}/UNKNOWN/status"
        assert raw_status(process, nginx("POST", port, PATH, "{}")) == 403
        assert raw_status(process, nginx("PUT", port, "/v1/vehicles/V/meter", "{}")) == 403
        refusal = post(process.http_url + PATH, json={})
        assert refusal.status_code == 403
        assert "API_WRITE_TOKENS" in refusal.json()["message"]
        assert raw_status(process, nginx("GET", port, path)) == 404
        assert raw_status(process, f"GET http://localhost{path} HTTP/1.1\nHost: localhost\n\n") == 404
        for request in (
            f"GET {path} HTTP/1.1\nHost: rebound.example.com:{port}\n\n",
            f"GET {path} HTTP/1.0\n\n",
            f"GET {path} HTTP/1.1\nHost: localhost\nHost: example.com\n\n",
            f"GET http://example.com{path} HTTP/1.1\nHost: localhost\n\n",
            f"GET http://localhost@example.com{path} HTTP/1.1\nHost: localhost\n\n",
            f"GET {path} HTTP/1.1\nHost: example.com\nX-Forwarded-Host: localhost\n\n",
            "GET / HTTP/1.1\nHost: example.com\n\n",
        ):
            assert raw_status(process, request) == 403, request
        assert raw_status(process, "GET /readyz HTTP/1.0\n\n") == 200

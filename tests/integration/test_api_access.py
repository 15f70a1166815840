"""Tokens, CORS, headers and request ids of a running API; what a stranger gets, and what no log says."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.api_process import prepared_database, running_api
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
    with httpx.Client(base_url=guarded.http_url, timeout=10) as made:
        yield made


def test_tokens(client, guarded):
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


def test_browsers(client):
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
def test_every_answer_has_the_headers(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert headers["x-request-id"]


def test_a_sane_request_id_is_kept_and_logged_and_another_is_replaced(client, guarded):
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

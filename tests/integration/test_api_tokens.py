"""Hashed tokens, too many wrong ones, and the line that each write leaves, on a running API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from analytics_api.http.wrong_tokens import ATTEMPTS_MAX
from config.tokens import entry_of
from tests.api_client import api_client
from tests.api_process import prepared_database, running_api
from tests.backends import Database
from tests.processes import WattlineProcess
from tests.waiting import wait_until

LINK, VALID = "/v1/vehicles/VEH-1/meter", {"meterId": "METER-1", "validFrom": "2026-01-31T14:00:00Z"}


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WattlineProcess]:
    settings = {
        "API_READ_TOKENS": entry_of("r3ad", None),
        "API_WRITE_TOKENS": entry_of("wr1te", "desk"),
        "API_TRUSTED_PROXIES": "127.0.0.1",
    }
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url, **settings) as process,
    ):
        yield process


@pytest.fixture
def client(api: WattlineProcess) -> Iterator[httpx.Client]:
    with api_client(api.http_url, timeout=10) as made:
        yield made


def asks(token: str, address: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}


def test_a_hash_opens_nothing_and_its_token_does(client: httpx.Client) -> None:
    entry = entry_of("r3ad", None)
    assert client.get("/v1/telemetry/meter", headers=asks("r3ad", "192.0.2.1")).status_code == 200
    assert client.get("/v1/telemetry/meter", headers=asks(entry, "192.0.2.1")).status_code == 401
    assert client.get("/v1/telemetry/meter", headers=asks(entry.partition(":")[2], "192.0.2.1")).status_code == 401


def test_who_guesses_is_not_listened_to_for_a_while_and_nobody_else_notices(
    client: httpx.Client, api: WattlineProcess
) -> None:
    path = "/v1/telemetry/meter"
    assert client.get(path, headers=asks("r3ad", "2001:db8::1")).status_code == 200
    for number in range(ATTEMPTS_MAX):
        refused = client.put(LINK, json=VALID, headers=asks(f"guess{number}", f"2001:db8::{number}"))
        assert refused.status_code == 401
    limited = client.put(LINK, json=VALID, headers=asks("wr1te", "2001:db8::77"))
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 6
    assert client.get(path, headers=asks("r3ad", "2001:db8::1")).status_code == 200, "it was right from here before"
    assert client.put(LINK, json=VALID, headers=asks("wr1te", "2001:db8:0:1::1")).status_code == 200
    assert client.get(path, headers={"X-Forwarded-For": "2001:db8::5"}).status_code == 401, "no token is no guess"
    for _ in range(ATTEMPTS_MAX + 1):  # a token of the other list is a mistake, no guess
        assert client.get(path, headers=asks("wr1te", "192.0.2.9")).status_code == 401
    assert metric_of(api, "refused") >= ATTEMPTS_MAX
    assert metric_of(api, "not_compared") == 1
    assert api.output().count("wrong tokens from 2001:db8::") == 1, "a line a minute"
    assert "guess" not in api.output()


def test_each_write_leaves_a_line_without_a_secret(client: httpx.Client, api: WattlineProcess) -> None:
    headers = asks("wr1te", "203.0.113.9")
    assert client.put(LINK, json=VALID, headers=headers).status_code == 200
    assert client.put("/v1/vehicles/V%0A2026/meter", json=VALID, headers=headers).status_code == 400
    assert client.delete(f"{LINK}?token=s3cret", headers=headers).status_code == 400
    assert client.delete(LINK, params={"validFrom": VALID["validFrom"]}, headers=headers).status_code == 200
    wait_until(lambda: api.output().count("write by desk from 203.0.113.9") == 4, what="four lines")
    said = [line.partition("write by ")[2] for line in api.output().splitlines() if "203.0.113.9" in line]
    lines = [line.partition(" (request ")[0] for line in said]
    time = "from 2026-01-31T14:00:00.000Z until further notice"
    assert lines == [
        f"desk from 203.0.113.9: PUT {LINK} (meter METER-1 {time}): 200",
        "desk from 203.0.113.9: PUT /v1/vehicles/V%0A2026/meter: 400",
        f"desk from 203.0.113.9: DELETE {LINK}: 400",
        f"desk from 203.0.113.9: DELETE {LINK}?validFrom=2026-01-31T14%3A00%3A00Z: 200",
    ]
    for secret in ("wr1te", "r3ad", "s3cret"):
        assert secret not in api.output()


def test_who_writes_without_a_token_is_named_so(postgres_server: Database, tmp_path: Path) -> None:
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path, url) as api,
        api_client(api.http_url) as client,
    ):
        assert client.put(LINK, json=VALID).status_code == 200
        wait_until(lambda: "write by this machine from 127.0.0.1: PUT" in api.output(), what="its line")


def metric_of(api: WattlineProcess, outcome: str) -> float:
    text = httpx.get(f"{api.http_url}/metrics").text
    name = f'wattline_api_wrong_tokens_total{{outcome="{outcome}"}} '
    return float(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name))

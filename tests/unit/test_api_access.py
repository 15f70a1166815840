"""Who may read and write; bodies that take too long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from analytics_api.http import bodies
from analytics_api.http.access import AccessRules
from analytics_api.http.errors import BodyTimeoutError
from analytics_api.http.wrong_tokens import WrongTokens
from config.errors import SettingsError
from config.settings import Settings, load_settings
from config.tokens import tokens

LOCAL = {"host": "localhost:3000"}
OURS = ["localhost:3000", "LocalHost", "localhost.", "localhost:", "127.0.0.1", "127.9.9.9:1", "[::1]:3000", "[0:0::1]"]
FOREIGN = [
    "",
    "rebound.example.com",
    "rebound.example.com:3000",
    "10.0.0.1",
    "0.0.0.0:3000",
    "localhost.example.com",
    "localhost@example.com",
    "example.com@localhost",
    "localhost:3000@example.com",
    "localhost/example.com",
    "localhost, example.com",
    "127.0.0.1.example.com",
    "[::2]",
    "[::1",
    "::1",
    "local host",
    "localhost..",
]


def rules(**changes: Any) -> AccessRules:
    defaults: dict[str, Any] = {
        "read_tokens": None,
        "write_tokens": None,
        "origins": frozenset(),
        "loopback_only": True,
        "write_loopback": True,
        "hosts": frozenset(),
        "hosts_matter": True,
    }
    return AccessRules(**(defaults | changes))


def status(asked: AccessRules, method: str, path: str = "/v1/x", target_host: str | None = None, **headers: str) -> int:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": pairs}
    if target_host is not None:
        scope["target_host"] = target_host
    refusal = asked.refusal(scope, WrongTokens())
    return 200 if refusal is None else int(refusal.status)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "ANYTHING"])
@pytest.mark.parametrize("host", OURS)
def test_where_it_is_said_so_this_machine_writes_without_tokens(method: str, host: str) -> None:
    assert status(rules(), method, host=host) == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_without_tokens_nobody_writes_unless_it_is_said_so(method: str) -> None:
    asked = rules(write_loopback=False)
    assert status(asked, method, **LOCAL) == 403
    refusal = asked.refusal(
        {"type": "http", "method": method, "path": "/", "headers": [(b"host", b"localhost")]}, WrongTokens()
    )
    assert "API_WRITE_TOKENS" in str(refusal)
    assert "API_WRITE_LOOPBACK" in str(refusal)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        *[{"host": host} for host in FOREIGN],
        {**LOCAL, "forwarded": "for=1.2.3.4"},
        {**LOCAL, "x_forwarded_for": "1.2.3.4"},
        {**LOCAL, "x_forwarded_host": "a"},
        {**LOCAL, "x_real_ip": "1.2.3.4"},
        {**LOCAL, "via": "1.1 proxy"},
        {**LOCAL, "origin": "https://evil.example.com"},
        {**LOCAL, "origin": "null"},
        {**LOCAL, "target_host": "example.com"},
    ],
)
def test_without_tokens_nobody_else_writes(headers: dict[str, Any] | dict[str, str]) -> None:
    assert status(rules(), "POST", **headers) == 403


def test_without_tokens_an_api_that_others_reach_takes_no_writes() -> None:
    assert status(rules(loopback_only=False), "POST", **LOCAL) == 403


def test_a_listed_host_reads_and_does_not_write() -> None:
    asked = rules(hosts=frozenset({"fleet.example.com"}))
    for host in ("fleet.example.com", "Fleet.Example.COM.:8443"):
        assert status(asked, "GET", host=host) == 200
        assert status(asked, "POST", host=host) == 403


@pytest.mark.parametrize("host", OURS)
def test_on_loopback_our_names_read_without_a_token(host: str) -> None:
    assert status(rules(), "GET", host=host) == 200
    assert status(rules(), "GET", host=host, target_host=host, x_forwarded_host="fleet.example.com") == 200


@pytest.mark.parametrize("path", ["/v1/x", "/", "/metrics", "/openapi.json"])
@pytest.mark.parametrize("host", FOREIGN)
def test_on_loopback_a_foreign_host_reads_nothing(host: str, path: str) -> None:
    asked = rules()
    assert status(asked, "GET", path, host=host) == 403
    assert status(asked, "GET", path) == 403
    assert status(asked, "GET", path, host=host, x_forwarded_host="localhost") == 403
    assert status(asked, "GET", path, host="localhost", target_host=host) == 403
    assert status(asked, "GET", path, host=host, target_host="localhost") == 403
    assert status(asked, "GET", "/healthz", host=host) == 200


def test_a_token_is_good_under_any_host() -> None:
    asked = rules(read_tokens=tokens("reader"), write_tokens=tokens("writer"))
    assert status(asked, "GET", host="fleet.example.com", authorization="Bearer reader") == 200
    assert status(asked, "POST", host="fleet.example.com", authorization="Bearer writer") == 200
    assert status(asked, "GET", "/", host="fleet.example.com") == 200


@pytest.mark.parametrize(
    ("given", "loopback_only", "host", "expected"),
    [
        ({}, False, "fleet.example.com", 200),
        ({"api_allowed_hosts": "Fleet.example.com., b:1"}, False, "fleet.example.com", 200),
        ({"api_allowed_hosts": "Fleet.example.com., b:1"}, True, "b:9", 200),
        ({"api_allowed_hosts": "fleet.example.com"}, False, "other.example.com", 403),
        ({"host": "wattline.local"}, True, "WATTLINE.local:3000", 200),
        ({"host": "::1"}, True, "[::1]:3000", 200),
        ({}, True, "wattline.local:3000", 403),
    ],
)
def test_which_hosts_count_follows_from_the_settings(
    given: dict[str, Any] | dict[str, str], loopback_only: bool, host: str, expected: int
) -> None:
    asked = AccessRules.of(Settings(_env_file=None, **given), loopback_only=loopback_only)
    assert status(asked, "GET", host=host) == expected


@pytest.mark.parametrize("value", ["https://fleet.example.com", "*", "a,", "a b", "fleet.example.com/x", "u@h"])
def test_a_list_of_hosts_that_names_none_is_a_settings_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="API_ALLOWED_HOSTS"):
        load_settings(api_allowed_hosts=value)


def test_own_and_listed_origins_write() -> None:
    assert status(rules(), "POST", **LOCAL, origin="http://localhost:3000") == 200
    listed = rules(origins=frozenset({"https://fleet.example.com"}))
    assert status(listed, "POST", **LOCAL, origin="https://fleet.example.com") == 200


def test_a_token_counts_for_what_it_is_listed_for() -> None:
    asked = rules(read_tokens=tokens("reader,second"), write_tokens=tokens("writer"), loopback_only=False)
    for method, token, expected in [
        ("GET", "reader", 200),
        ("GET", "second", 200),
        ("HEAD", "writer", 401),
        ("POST", "writer", 200),
        ("POST", "reader", 401),
    ]:
        assert status(asked, method, authorization=f"Bearer {token}") == expected
    assert status(asked, "GET", authorization="Basic reader") == 401
    assert status(asked, "GET") == 401
    assert status(asked, "POST") == 401


@pytest.mark.parametrize(
    "path", ["/", "/static/live.js", "/api", "/api/swagger.js", "/openapi.json", "/healthz", "/readyz", "/metrics"]
)
def test_what_is_open_stays_open(path: str) -> None:
    assert status(rules(read_tokens=tokens("reader")), "GET", path) == 200


@pytest.mark.parametrize("path", ["/v1/stream", "/apiv1", "/static", "//", "/metrics/"])
def test_nothing_else_is_open(path: str) -> None:
    expected = 200 if path == "/static" else 401
    assert status(rules(read_tokens=tokens("reader")), "GET", path) == expected


@pytest.mark.parametrize("name", ["API_READ_TOKENS", "API_WRITE_TOKENS", "API_CORS_ORIGINS"])
@pytest.mark.parametrize("value", [",", "s3cret,", "s3c ret", " "])
def test_a_list_with_a_gap_is_a_settings_error_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    assert "s3c" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.05)
    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with pytest.raises(BodyTimeoutError):
        await bodies.json_body(request)

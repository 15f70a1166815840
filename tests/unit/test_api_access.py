"""Who may read and write; bodies that take too long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from analytics_api import bodies
from analytics_api.access import AccessRules
from analytics_api.errors import BodyTimeoutError
from config.errors import SettingsError
from config.settings import load_settings

LOCAL = {"host": "localhost:3000"}


def rules(**changes: Any) -> AccessRules:
    defaults = {"read_tokens": None, "write_tokens": None, "origins": frozenset(), "loopback_only": True}
    return AccessRules(**(defaults | changes))


def status(asked: AccessRules, method: str, path: str = "/v1/x", **headers: str) -> int:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    refusal = asked.refusal({"type": "http", "method": method, "path": path, "headers": pairs})
    return 200 if refusal is None else int(refusal.status)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "ANYTHING"])
@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1", "127.9.9.9:1", "[::1]:3000"])
def test_without_tokens_this_machine_writes(method, host):
    assert status(rules(), method, host=host) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "rebound.example.com"},
        {"host": "10.0.0.1"},
        {**LOCAL, "forwarded": "for=1.2.3.4"},
        {**LOCAL, "x_forwarded_for": "1.2.3.4"},
        {**LOCAL, "x_forwarded_host": "a"},
        {**LOCAL, "x_real_ip": "1.2.3.4"},
        {**LOCAL, "via": "1.1 proxy"},
        {**LOCAL, "origin": "https://evil.example.com"},
        {**LOCAL, "origin": "null"},
    ],
)
def test_without_tokens_nobody_else_writes(headers):
    assert status(rules(), "POST", **headers) == 403


def test_without_tokens_an_api_that_others_reach_takes_no_writes():
    assert status(rules(loopback_only=False), "POST", **LOCAL) == 403


def test_own_and_listed_origins_write():
    assert status(rules(), "POST", **LOCAL, origin="http://localhost:3000") == 200
    listed = rules(origins=frozenset({"https://fleet.example.com"}))
    assert status(listed, "POST", **LOCAL, origin="https://fleet.example.com") == 200


def test_a_token_counts_for_what_it_is_listed_for():
    asked = rules(read_tokens=(b"reader", b"second"), write_tokens=(b"writer",), loopback_only=False)
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
def test_what_is_open_stays_open(path):
    assert status(rules(read_tokens=(b"reader",)), "GET", path) == 200


@pytest.mark.parametrize("path", ["/v1/stream", "/apiv1", "/static", "//", "/metrics/"])
def test_nothing_else_is_open(path):
    expected = 200 if path == "/static" else 401
    assert status(rules(read_tokens=(b"reader",)), "GET", path) == expected


@pytest.mark.parametrize("name", ["API_READ_TOKENS", "API_WRITE_TOKENS", "API_CORS_ORIGINS"])
@pytest.mark.parametrize("value", [",", "s3cret,", "s3c ret", " "])
def test_a_list_with_a_gap_is_a_settings_error_without_the_secret(monkeypatch, tmp_path, name, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    assert "s3c" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_that_never_ends_is_given_up(monkeypatch):
    async def receive() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.05)
    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with pytest.raises(BodyTimeoutError):
        await bodies.json_body(request)

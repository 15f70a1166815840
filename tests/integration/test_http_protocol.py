"""What the server does with requests that are no requests: bounded, refused in the contract's form, never hanging."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from analytics_api.http.listening import listen
from serving import protocol
from serving.places import Places
from serving.protocol import HEAD_BYTES_MAX, URL_BYTES_MAX
from serving.server import BoundedServer, bounded_config

WAIT_SECONDS = 5.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, bytes]]


async def _echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


def converse(conversation: Conversation, keepalive_seconds: int = 5) -> bytes:
    """Hold one conversation with a server of ours; what it returns."""

    async def held() -> bytes:
        sockets = listen("127.0.0.1", 0)
        app = Starlette(routes=[Route("/", _echo, methods=["GET", "POST"])])
        server = BoundedServer(bounded_config(app, keepalive_seconds=keepalive_seconds, lifespan="off"), Places(2))
        serving = asyncio.create_task(server.serve(sockets))
        reader, writer = await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1])
        try:
            return await asyncio.wait_for(conversation(reader, writer), WAIT_SECONDS)
        finally:
            writer.close()
            server.should_exit = True
            await serving

    return asyncio.run(held())


def sending(*chunks: bytes) -> Conversation:
    """Send the chunks, then read until the server closes."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        return await reader.read()

    return conversation


def assert_refused(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    failure = json.loads(body)
    assert failure["success"] is False
    assert failure["message"]
    assert failure["errors"] == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400(request_bytes: bytes) -> None:
    assert_refused(converse(sending(request_bytes)), 400)


def test_an_address_is_bounded() -> None:
    longest = b"GET /?" + b"x" * (URL_BYTES_MAX - 2) + b" HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert converse(sending(longest)).startswith(b"HTTP/1.1 200 ")
    assert_refused(converse(sending(longest.replace(b"?", b"?x"))), 414)
    assert_refused(converse(sending(b"GET /", *[b"x" * 1000] * 9)), 414)


def test_a_head_is_bounded() -> None:
    assert_refused(converse(sending(b"GET / HTTP/1.1\r\n", *[b"X-Long: " + b"x" * 1000 + b"\r\n"] * 80)), 431)
    assert_refused(converse(sending(b"GET / HTTP/1.1\r\nX-Long: ", b"x" * (HEAD_BYTES_MAX + 1))), 431)


def test_many_requests_and_long_bodies_are_no_long_head() -> None:
    length = 2 * HEAD_BYTES_MAX
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    halves = [b"x" * (length // 2)] * 2
    answers = converse(sending(post, *halves, post, *halves, GET * 3000, last))
    assert answers.count(b"HTTP/1.1 200 OK") == 3003


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"\r\n", GET + b"GET / HT", GET + b"\r\n"])
def test_a_head_that_does_not_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(beginning)
        answers = b""
        while not reader.at_eof():
            try:
                answers += await asyncio.wait_for(reader.read(1000), 0.02)
            except TimeoutError:
                writer.write(b"\r\n" if not beginning.endswith(b"HT") else b"T")
        return answers

    assert converse(drip).count(b"HTTP/1.1 200 OK") == beginning.count(GET)


def test_a_silent_connection_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.2)
    assert converse(sending()) == b""


def test_a_connection_that_is_kept_is_no_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.2)

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for _ in range(2):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n0")
            with pytest.raises(TimeoutError):  # nothing comes, no end either, for longer than a head may take
                await asyncio.wait_for(reader.read(1), 0.5)
        writer.write(GET.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        return await reader.read()

    assert converse(kept).startswith(b"HTTP/1.1 200 OK")


def test_a_kept_connection_ends_when_its_time_is_over() -> None:
    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET)
        return await reader.read()

    assert converse(idle, keepalive_seconds=1).count(b"HTTP/1.1 200 OK") == 1


def test_a_slow_answer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 0.1)

    async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        for byte in (b"1", b"2", b"3", b"4", b"5"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)
            writer.write(byte)
        return await reader.read()

    assert converse(slow_body).endswith(b"\r\n\r\n5")


def test_an_upgrade_that_is_not_offered_is_an_ordinary_request() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    async def first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(request)
        return await reader.readline()

    assert converse(first_line) == b"HTTP/1.1 200 OK\r\n"

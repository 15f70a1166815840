"""The live stream against a real database: what its events say, and who waits for whom (nobody)."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import psycopg
import pytest
import uvicorn
from sse_starlette.sse import SendTimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message

from analytics_api.database.questions import Database as ApiDatabase
from analytics_api.description.kind_schemas import FleetEvent
from analytics_api.live import stream as streams
from analytics_api.live.stream import CHANGED_MAX, Listener, Stream, TooManyListenersError
from serving.protocol import BoundedProtocol
from tests.api_process import MeterRow, VehicleRow, prepare, prepared_database, running_api, store
from tests.backends import Database
from tests.processes import WattlineProcess
from tests.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.citus_too

SCANS_A_QUESTION = 2  # of each status table: for the counters, for the changes


@pytest.fixture(scope="module")
def url(postgres_server: Database) -> Iterator[str]:
    with prepared_database(postgres_server) as prepared:
        yield prepared


@pytest.fixture
def api(url: str, tmp_path: Path) -> Iterator[WattlineProcess]:
    with running_api(tmp_path, url) as process:
        yield process


async def events(client: httpx.AsyncClient, base: str) -> AsyncGenerator[dict[str, str], None]:
    """The stream's events: their fields by name."""
    async with client.stream("GET", f"{base}/v1/stream", timeout=20) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if not line:
                if fields.get("event") == "fleet":
                    FleetEvent.model_validate_json(fields["data"], strict=True)
                yield fields
                fields = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


def test_an_event_names_what_changed_once(api: WattlineProcess, url: str) -> None:
    async def heard() -> None:
        async with httpx.AsyncClient() as client:
            listening = events(client, api.http_url)
            assert await anext(listening) == {"retry": "2000"}
            first = await anext(listening)
            assert first["event"] == "fleet"
            moment = datetime.now(UTC)
            await asyncio.to_thread(
                store, url, [MeterRow("METER-001", moment, 1.5)], [VehicleRow("VEH-001", moment, 1.2)]
            )
            meters, vehicles, numbers = [], [], [int(first["id"])]
            for _ in range(3):
                event = await anext(listening)
                data = json.loads(event["data"])
                numbers.append(int(event["id"]))
                meters += data["meters"]
                vehicles += data["vehicles"]
            assert [meter["meterId"] for meter in meters] == ["METER-001"]
            assert meters[0]["kwhConsumedAc"] == 1.5
            assert [vehicle["vehicleId"] for vehicle in vehicles] == ["VEH-001"]
            assert numbers == sorted(set(numbers))
            assert (data["totalMeters"], data["totalVehicles"], data["silentDevices"]) == (1, 1, 0)
            await listening.aclose()

    asyncio.run(heard())


def test_a_change_that_commits_late_is_not_missed_and_lists_are_bounded(url: str) -> None:
    async def asked_thrice() -> None:
        async with ApiDatabase(url, "test") as database:
            stream = Stream(database, silent_after=300)
            listener = Listener()
            stream._listeners.add(listener)
            moment = datetime.now(UTC)
            await asyncio.to_thread(store, url, [MeterRow(f"EARLY-{n:03}", moment, 1) for n in range(CHANGED_MAX + 5)])
            await stream._ask()
            first = json.loads((await listener.take()).split(b"data: ")[1])
            assert len(first["meters"]) == CHANGED_MAX
            assert first["more"] >= 5
            late = moment - timedelta(seconds=3)  # it began before what was sent, and commits now
            await asyncio.to_thread(store, url, [MeterRow("LATE", late, 1)])
            await stream._ask()
            second = json.loads((await listener.take()).split(b"data: ")[1])
            assert [meter["meterId"] for meter in second["meters"]] == ["LATE"]

    asyncio.run(asked_thrice())


@pytest.mark.one_server  # its books
def test_a_hundred_listeners_cost_one_question_a_second(api: WattlineProcess, url: str) -> None:
    async def listen(client: httpx.AsyncClient) -> list[int]:
        listening = events(client, api.http_url)
        heard: list[int] = []
        async for event in listening:
            if event.get("event") == "fleet":
                heard.append(int(event["id"]))
            if len(heard) == 4:
                break
        await listening.aclose()
        return heard

    async def all_listen() -> list[list[int]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits) as client:
            return await asyncio.gather(*(listen(client) for _ in range(100)))

    before = _scans(url)
    started = time.monotonic()
    heard = asyncio.run(all_listen())
    seconds = time.monotonic() - started
    assert len(heard) == 100
    last = max(number for one in heard for number in one)
    assert last <= seconds + 1  # every number is one question's, and it is asked at once
    # Nobody listens any more: the asking ends.
    wait_until(lambda: _is_quiet(url), 10, "an end of the questions")
    assert api.stop(10) == 0  # PostgreSQL has counted all that a connection did once that has ended
    wait_until(lambda: _scans(url) - before >= SCANS_A_QUESTION * last, 10, "PostgreSQL's count")
    questions, rest = divmod(_scans(url) - before, SCANS_A_QUESTION)
    assert rest == 0
    assert questions in (last, last + 1)  # one may have been under way when the last listener left


def _scans(url: str) -> int:
    """How often the status of all meters was read through, which only the stream does here."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'meter_status'").fetchone()
    assert found is not None
    return int(found[0])


def _is_quiet(url: str) -> bool:
    """No question of the stream began within the last 1.5 s."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT bool_and(query_start < clock_timestamp() - interval '1.5 s') FROM pg_stat_activity"
            " WHERE application_name = 'wattline api' AND datname = current_database() AND query LIKE '%AS numbers%'"
        ).fetchone()
        return found is not None and found[0] is not False


def test_a_late_listener_gets_the_newest_and_is_told_what_it_missed() -> None:
    async def late() -> bytes:
        listener = Listener()
        for event in (b"one", b"two", b"three"):
            listener.put(event)
        return await listener.take()

    assert asyncio.run(late()) == b'event: skipped\ndata: {"events":2}\n\nthree'


def test_listeners_are_bounded(url: str) -> None:
    async def crowd() -> None:
        async with ApiDatabase(url, "test") as database, Stream(database, silent_after=300, listeners_max=2) as stream:
            first = stream.join()
            stream.join()
            with pytest.raises(TooManyListenersError) as refusal:
                stream.join()
            assert refusal.value.headers["Retry-After"]
            assert refusal.value.headers["Connection"] == "close"
            stream.leave(first)
            stream.join()

    asyncio.run(crowd())


def test_a_listener_that_takes_nothing_holds_up_nobody_and_is_cut_off(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def heard() -> list[float]:
        moments: list[float] = []
        async with (
            ApiDatabase(url, "test") as database,
            Stream(database, silent_after=300, patience_seconds=1.0) as stream,
            serving(stream) as port,
        ):
            silent = socket.socket()
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            silent.connect(("127.0.0.1", port))
            silent.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await wait_until_async(lambda: stream._listeners, what="the silent listener")
            async with httpx.AsyncClient() as client:
                listening = events(client, f"http://127.0.0.1:{port}")
                async for event in listening:
                    if event.get("event") != "fleet":
                        continue
                    moments.append(time.monotonic())
                    # All that fits into an event, for the next one: 50 KB.
                    meters = [MeterRow(f"MANY-{n:03}", datetime.now(UTC), 1) for n in range(CHANGED_MAX)]
                    await asyncio.to_thread(store, url, meters)
                    if len(stream._listeners) == 1 and len(moments) >= 3:
                        break
                    assert len(moments) < 12, "it was not cut off"
                await listening.aclose()
            silent.settimeout(5)
            with silent, suppress(ConnectionResetError):
                while silent.recv(65_536):  # what the kernel had taken; a TimeoutError if no end follows
                    pass
        return moments

    moments = asyncio.run(heard())
    assert max(later - earlier for earlier, later in pairwise(moments)) < 2.5
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@asynccontextmanager
async def serving(stream: Stream) -> AsyncIterator[int]:
    """The stream alone, from our own protocol on a port whose connections take little at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        config = uvicorn.Config(Starlette(routes=streams.routes(stream)), http=BoundedProtocol, log_config=None)
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        await wait_until_async(lambda: server.started, what="the server")
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running


def test_a_server_without_our_hook_is_told_of_the_cut(url: str) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def listened() -> None:
        async with (
            ApiDatabase(url, "test") as database,
            Stream(database, silent_after=300, patience_seconds=0.1) as stream,
        ):
            scope = {"type": "http", "method": "GET", "path": "/v1/stream", "headers": []}
            response = await streams.listen(stream, Request(scope))
            with pytest.raises(SendTimeoutError):
                await response(scope, receive, send)
            assert not stream._listeners

    asyncio.run(listened())


def test_the_time_of_a_listener_is_no_time_of_an_answer(api: WattlineProcess) -> None:
    async def listened() -> None:
        async with httpx.AsyncClient() as client:
            listening = events(client, api.http_url)
            await anext(listening)
            await listening.aclose()

    asyncio.run(listened())

    def counted() -> str:
        text = httpx.get(f"{api.http_url}/metrics").text
        return text if 'wattline_http_requests_total{method="GET",route="/v1/stream",status="200"} 1.0' in text else ""

    metrics = wait_until(counted, 10, "the request among the metrics")
    seconds = [line for line in metrics.splitlines() if line.startswith("wattline_http_request_seconds_count")]
    assert seconds
    assert not [line for line in seconds if "/v1/stream" in line]


def test_sigterm_with_listeners_ends_in_time(api: WattlineProcess) -> None:
    async def listened() -> int:
        async with httpx.AsyncClient() as client:
            listening = [events(client, api.http_url) for _ in range(5)]
            for one in listening:
                await anext(one)
            status = await asyncio.to_thread(api.stop, 5.0)
            for one in listening:
                with suppress(StopAsyncIteration, httpx.HTTPError):
                    while True:
                        await anext(one)
            return status

    assert asyncio.run(listened()) == 0
    assert "Traceback" not in api.output()


def test_the_stream_outlives_an_outage(postgres_factory: Callable[[], Database], tmp_path: Path) -> None:
    server = postgres_factory()
    database = server.url_of("energy_db")
    prepare(database)

    async def heard(base: str) -> list[str]:
        kinds: list[str] = []
        async with httpx.AsyncClient() as client:
            listening = events(client, base)
            async for event in listening:
                kind = event.get("event", "")
                if kind and kind not in kinds[-1:]:
                    kinds.append(kind)
                    if kinds == ["fleet"]:
                        await asyncio.to_thread(server.stop)
                    if kind == "problem":
                        assert json.loads(event["data"])["message"]
                        await asyncio.to_thread(server.start)
                if len(kinds) >= 3 and kinds[-1] == "fleet":
                    break
            await listening.aclose()
        return kinds

    with running_api(tmp_path, database) as process:
        kinds = asyncio.run(asyncio.wait_for(heard(process.http_url), 40))
    assert kinds[0] == "fleet"
    assert "problem" in kinds
    assert kinds[-1] == "fleet"

"""The live stream against a real database: what its events say, and who waits for whom (nobody)."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from analytics_api import stream as streams
from analytics_api.database import Database as ApiDatabase
from analytics_api.stream import CHANGED_MAX, Listener, Stream, TooManyListenersError
from tests.api_process import MeterRow, VehicleRow, prepare, prepared_database, running_api, store
from tests.backends import Database
from tests.processes import WattlineProcess
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def url(postgres_server: Database) -> Iterator[str]:
    with prepared_database(postgres_server) as prepared:
        yield prepared


@pytest.fixture
def api(url: str, tmp_path: Path) -> Iterator[WattlineProcess]:
    with running_api(tmp_path, url) as process:
        yield process


async def events(client: httpx.AsyncClient, base: str) -> AsyncIterator[dict[str, str]]:
    """The stream's events: their fields by name."""
    async with client.stream("GET", f"{base}/v1/stream", timeout=20) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if not line:
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
            stream = Stream(database)
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


def test_a_hundred_listeners_cost_one_question_a_second(api: WattlineProcess, url: str) -> None:
    async def listen(client: httpx.AsyncClient) -> list[str]:
        listening = events(client, api.http_url)
        heard: list[str] = []
        async for event in listening:
            if event.get("event") == "fleet":
                heard.append(event["id"])
            if len(heard) == 3:
                break
        await listening.aclose()
        return heard

    async def all_listen() -> list[list[str]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits) as client:
            return await asyncio.gather(*(listen(client) for _ in range(100)))

    started = time.monotonic()
    heard = asyncio.run(all_listen())
    seconds = time.monotonic() - started
    assert len(heard) == 100
    numbers = {int(number) for one in heard for number in one}
    assert len(numbers) <= seconds + 2  # every event is one question, whoever hears it
    # Nobody listens any more: the next listener finds a new beginning, so the asking had ended.
    wait_until(lambda: _is_quiet(url), 10, "an end of the questions")


def _is_quiet(url: str) -> bool:
    """No question of the stream began within the last 1.5 s."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT bool_and(query_start < clock_timestamp() - interval '1.5 s') FROM pg_stat_activity"
            " WHERE application_name = 'wattline api' AND datname = current_database() AND query LIKE '%fleet%'"
        ).fetchone()
        return found is not None and found[0] is not False


def test_a_late_listener_gets_the_newest_and_is_told_what_it_missed() -> None:
    async def late() -> bytes:
        listener = Listener()
        for event in (b"one", b"two", b"three"):
            listener.put(event)
        return await listener.take()

    assert asyncio.run(late()) == b'event: skipped\ndata: {"events":2}\n\nthree'


def test_listeners_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LISTENERS_MAX", 2)

    async def crowd() -> None:
        async with ApiDatabase(url, "test") as database, Stream(database) as stream:
            first = stream.join()
            stream.join()
            with pytest.raises(TooManyListenersError) as refusal:
                stream.join()
            assert refusal.value.headers["Retry-After"]
            stream.leave(first)
            stream.join()

    asyncio.run(crowd())


def test_a_listener_that_takes_nothing_holds_up_nobody(api: WattlineProcess) -> None:
    async def heard() -> int:
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            silent.connect(("127.0.0.1", api.http_port))
            silent.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            async with httpx.AsyncClient() as client:
                listening = events(client, api.http_url)
                number = 0
                async for event in listening:
                    number += event.get("event") == "fleet"
                    if number == 3:
                        break
                await listening.aclose()
                return number

    started = time.monotonic()
    assert asyncio.run(heard()) == 3
    assert time.monotonic() - started < 8


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


def test_the_stream_outlives_an_outage(postgres_factory, tmp_path: Path) -> None:
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

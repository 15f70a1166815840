"""The broker's own figures as metrics, and that asking for them costs the readings nothing, whatever the broker is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config.settings import load_settings
from embedded.mosquitto import MosquittoServer
from ingestor.broker_watch import BrokerWatch
from mqtt.connection import Connection
from mqtt.link import Link
from mqtt.options import LinkOptions
from tests.fake_broker import anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

DROPPED, QUEUED = "wattline_broker_dropped_total", "wattline_broker_queued_messages"


class TalkativeBroker(MosquittoServer):
    """The embedded broker; it tells its figures every second, and has a small queue."""

    def __init__(self, folder: Path, lines: str = "") -> None:
        super().__init__(folder)
        self._lines = lines

    def _configuration(self) -> str:
        rules = super()._configuration().replace("max_queued_messages 5000000", "max_queued_messages 50")
        return f"{rules}\nsys_interval 1\n{self._lines}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` of a developer is; and less patience."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ingestor.broker_watch.RETRY_SECONDS", 0.2)
    monkeypatch.setattr("ingestor.broker_watch.PROOF_SECONDS", 0.5)


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Any]:
    """`start_broker(lines)`: one with these lines in its configuration."""
    started: list[TalkativeBroker] = []

    def start(lines: str = "") -> TalkativeBroker:
        broker = TalkativeBroker(tmp_path / "talkative", lines)
        broker.start()
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.stop()


def options(server: TalkativeBroker, client_id: str, *, user: str = "ann", **changes: Any) -> LinkOptions:
    url = server.url.replace("mqtt://", f"mqtt://{user}@")
    made = LinkOptions.from_settings(load_settings(mqtt_url=url), client_id=client_id)
    return LinkOptions(**{**vars(made), "clean_start": False, "session_expiry_seconds": 600, **changes})


@asynccontextmanager
async def watched(
    given: LinkOptions, registry: CollectorRegistry, received: list[bytes], **more: Any
) -> AsyncIterator[Link]:
    """A link as the ingestor has it, watched."""

    def take(connection: Connection, packets: list[Any]) -> None:
        received.extend(packet.payload for packet in packets)
        connection.acknowledge([packet.packet_id for packet in packets if packet.packet_id is not None])

    watch = BrokerWatch(given, registry)
    async with Link(given, subscribe=["v1/#"], on_publish=take, before_connect=watch.introduce, **more) as link:
        await link.wait_connected(30)
        watching = asyncio.create_task(watch.run(link))
        try:
            yield link
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


async def publish(broker: TalkativeBroker, count: int) -> None:
    connection = await Connection.open(options(broker, "device", user="bob", clean_start=True))
    for number in range(count):
        await connection.publish("v1/x", b"%d" % number)
    await connection.disconnect()


async def test_the_queue_and_what_was_dropped_from_it(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    registry = CollectorRegistry()
    received: list[Any] = []
    # Somebody with a queue of 50 who is away; 20 of 70 messages find no room in it.
    absent = await Connection.open(options(broker, "absent"))
    await absent.subscribe("v1/#")
    await absent.disconnect()
    await publish(broker, 70)
    async with watched(options(broker, "me"), registry, received):
        await wait_until_async(lambda: registry.get_sample_value(DROPPED) == 20, what="what was dropped")
        await wait_until_async(lambda: registry.get_sample_value(QUEUED) == 50, what="what is queued")
        back = await Connection.open(options(broker, "absent", clean_start=True))
        await back.disconnect(end_session=True)
        await wait_until_async(lambda: registry.get_sample_value(QUEUED) == 0, what="an empty queue")
    assert registry.get_sample_value(QUEUED) is None
    assert received == []


async def test_nothing_of_it_is_left_at_the_broker(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    registry = CollectorRegistry()
    received: list[Any] = []
    async with watched(options(broker, "me"), registry, received):
        await wait_until_async(lambda: registry.get_sample_value(QUEUED) is not None, 30)
    again: list[bytes] = []
    async with watched(options(broker, "me"), registry, again) as link:
        assert link.connection is not None
        assert link.connection.session_present
        await publish(broker, 1)
        await wait_until_async(lambda: again == [b"0"])
        await wait_until_async(lambda: registry.get_sample_value(QUEUED) is not None, 30)
        assert again == [b"0"]


@pytest.mark.parametrize("first_start", [True, False])
async def test_a_broker_that_takes_both_for_one_client_loses_nothing_by_it(
    start_broker: Callable[..., Any], first_start: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = start_broker("use_username_as_clientid true")
    registry = CollectorRegistry()
    received: list[Any] = []
    given = options(broker, "me")
    if not first_start:
        session = await Connection.open(given)
        await session.subscribe("v1/#")
        await session.disconnect()
        await publish(broker, 10)
    lost: list[None] = []
    async with watched(given, registry, received, on_session_lost=lambda: lost.append(None)) as link:
        await wait_until_async(lambda: "own counts are not watched" in caplog.text, 30)
        await wait_until_async(lambda: link.connection is not None, 30)
        if first_start:
            await publish(broker, 10)
        await wait_until_async(lambda: received == [b"%d" % number for number in range(10)], 30)
        assert link.connection is not None
        assert lost == []
    assert registry.get_sample_value(QUEUED) is None


@pytest.mark.parametrize(
    "lines",
    ["sys_interval 0", "max_connections 1", "acl_file acl"],
    ids=["tells nothing", "one connection only", "reading it is forbidden"],
)
async def test_a_broker_that_tells_nothing_or_refuses_is_fine(
    start_broker: Callable[..., Any], lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare: Callable[[TalkativeBroker], str] = TalkativeBroker._configuration

    def with_access_rules(broker: TalkativeBroker) -> str:
        (broker.data / "acl").write_text("pattern readwrite v1/#\n")
        (broker.data / "acl").chmod(0o644)
        return prepare(broker)

    monkeypatch.setattr(TalkativeBroker, "_configuration", with_access_rules)
    broker = start_broker(lines)
    registry = CollectorRegistry()
    received: list[Any] = []
    async with watched(options(broker, "me"), registry, received) as link:
        assert link.connection is not None
        await link.connection.publish("v1/x", b"1")
        await wait_until_async(lambda: received == [b"1"], 30)
        assert registry.get_sample_value(DROPPED) is None

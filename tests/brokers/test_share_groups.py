"""What share groups rest on, tried on each broker: kills, a restart, members that come and go, and its own habits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest

from config.broker import broker_address
from mqtt.connection import Connection
from mqtt.options import LinkOptions
from tests.backends import Broker
from tests.brokers.java import Moquette, missing
from tests.brokers.kinds import Kind
from tests.devices import Device, readings_of_fleet
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load, publish_all
from tests.faults.test_ingest_members import (  # noqa: F401 - a test, which runs here once more
    test_from_one_to_four_to_two_members_nothing_is_lost_and_nothing_stranded,
)
from tests.processes import WattlineProcess
from tests.waiting import wait_until_async

pytestmark = pytest.mark.timeout(600)  # a broker in Java takes its time to start

PER_SECOND = 200
MORE_THAN_ANY_SMALL_WINDOW = 2000
SETTLED_SECONDS = 1.0
FILTER = "$share/crew/v1/telemetry/#"


@pytest.fixture
def gives_to_absent(kind: Kind) -> bool:
    return kind.gives_to_absent


def test_kills_and_a_restart_lose_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    start_ingestor: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    publisher: Device,
    kind: Kind,
    request: pytest.FixtureRequest,
) -> None:
    if kind.not_yet_back is not None:
        request.applymarker(pytest.mark.xfail(reason=kind.not_yet_back, raises=AssertionError))
    pair = [start_ingestor(MQTT_SHARE_GROUP="crew", MQTT_CLIENT_ID=name, FLUSH_INTERVAL_MS="20") for name in "ab"]
    with Load(publisher, PER_SECOND) as load:
        for round_of in range(4):
            load.wait_published(PER_SECOND // 2)
            killed = pair[round_of % 2]
            killed.kill()
            load.wait_published(PER_SECOND // 2)
            killed.start()
            killed.wait_ready()
            if round_of == 1:
                broker.stop()
                broker.start()
                for ingestor in pair:
                    ingestor.wait_ready()
        load.wait_published(PER_SECOND // 2)
    publisher.wait_acknowledged(60)
    # One that forgets its shared subscriptions says "no matching subscribers" until the first member is back.
    assert_stored_once(database_url, publisher.acknowledged, perhaps=publisher.refused, timeout=60)
    for ingestor in pair:
        assert assert_books_balance(ingestor) > 0


class Member:
    """A member of a share group that counts what it gets, and acknowledges it or not."""

    def __init__(self, broker: Broker, name: str, *, acknowledges: bool = True) -> None:
        self.received = 0
        self._acknowledges = acknowledges
        self._options = LinkOptions(
            broker_address(broker.url), name, clean_start=False, session_expiry_seconds=3600, receive_maximum=65534
        )

    async def connect(self, *, subscribe: bool = True) -> None:
        self._connection = await Connection.open(self._options, self._take)
        if subscribe:
            await self._connection.subscribe(FILTER)

    async def disconnect(self) -> None:
        await self._connection.disconnect()

    async def settled(self) -> int:
        """How much it has got, once nothing more comes."""
        since = time.monotonic()
        before = -1

        def is_settled() -> bool:
            nonlocal before, since
            if self.received != before:
                before, since = self.received, time.monotonic()
            return time.monotonic() - since > SETTLED_SECONDS

        await wait_until_async(is_settled, what="nothing more comes")
        return self.received

    def _take(self, connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        self.received += len(packets)
        if self._acknowledges:
            connection.acknowledge([packet.packet_id for packet in packets if packet.packet_id is not None])


def published(publisher: Device, count: int) -> list[Any]:
    """So many readings, and the broker's answers to each."""
    before = len(publisher.acknowledged)
    publish_all(publisher, readings_of_fleet(count, prefix=f"{before}-"))
    publisher.wait_acknowledged()
    return publisher.acknowledged[before:]


def test_its_window_for_a_member_is_as_we_say(kind: Kind, broker: Broker, publisher: Device) -> None:
    async def story() -> int:
        member = Member(broker, "a", acknowledges=False)
        await member.connect()
        await member.disconnect()
        await asyncio.to_thread(published, publisher, MORE_THAN_ANY_SMALL_WINDOW)
        await member.connect()
        got = await member.settled()
        await member.disconnect()
        return got

    assert asyncio.run(story()) == (kind.window or MORE_THAN_ANY_SMALL_WINDOW)


def test_what_it_does_for_a_member_that_is_away_is_as_we_say(kind: Kind, broker: Broker, publisher: Device) -> None:
    async def story() -> int:
        present, absent = Member(broker, "a"), Member(broker, "b")
        for member in (present, absent):
            await member.connect()
        await absent.disconnect()
        await asyncio.to_thread(published, publisher, 100)
        got = await present.settled()
        await present.disconnect()
        return got

    assert asyncio.run(story()) == (50 if kind.gives_to_absent else 100)


def test_what_a_restart_keeps_is_as_we_say(kind: Kind, broker: Broker, publisher: Device) -> None:
    async def story() -> tuple[int, int]:
        member = Member(broker, "a")
        await member.connect()
        await member.disconnect()
        queued = await asyncio.to_thread(published, publisher, 100)
        assert len(queued) == 100
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        taken = await asyncio.to_thread(published, publisher, 10)
        await member.connect(subscribe=False)
        got = await member.settled()
        await member.disconnect()
        return len(taken), got

    taken, got = asyncio.run(story())
    assert taken == (10 if kind.keeps_shared_subscriptions else 0)
    assert got == 100 + taken, "what it has acknowledged with success"


@pytest.mark.xdist_group("moquette")
def test_one_that_speaks_mqtt_3_only_is_refused_with_a_line(
    start_wattline: Callable[..., WattlineProcess], database_url: str, tmp_path: Any
) -> None:
    if (line := missing()) is not None:
        pytest.skip(line)
    moquette = Moquette(tmp_path / "moquette")
    moquette.start()
    try:
        ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=moquette.url)
        assert ingestor.wait() == 1
    finally:
        moquette.stop()
    errors = [line for line in ingestor.output().splitlines() if " ERROR " in line]
    assert len(errors) == 1
    assert "MQTT 5" in errors[0]

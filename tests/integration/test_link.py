"""The link and a real broker: what is acknowledged, what comes again, and what a restart, a cut or silence does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqtt5
import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from config.settings import load_settings
from mqtt.connection import Connection
from mqtt.errors import LinkLost, LinkRefused, PublishRefused
from mqtt.link import Link, LinkOptions
from mqtt.options import RECEIVE_MAXIMUM_MAX
from mqtt.outbox import Outbox
from tests.backends import Broker
from tests.devices import device
from tests.fake_broker import anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.proxy import TcpProxy
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

FILTERS = {"plain": "v1/#", "shared": "$share/crew/v1/#"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` of a developer is."""
    monkeypatch.chdir(tmp_path)


@dataclass(frozen=True)
class Numbered:
    """What an outbox sends."""

    payload: bytes
    topic: str = "v1/telemetry/meter/M"


class Inbox:
    """What a subscriber received; `acknowledges` says whether it answers at once."""

    def __init__(self, *, acknowledges: bool = True) -> None:
        self.acknowledges = acknowledges
        self.packets: list[mqtt5.PublishPacket] = []
        self.unacknowledged: list[tuple[Connection, int]] = []

    def __call__(self, connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        self.packets += packets
        self.unacknowledged += [(connection, packet.packet_id) for packet in packets if packet.packet_id is not None]
        if self.acknowledges:
            self.acknowledge(len(self.unacknowledged))

    def acknowledge(self, count: int) -> bool:
        """The oldest `count`; True when the broker was told."""
        due, self.unacknowledged = self.unacknowledged[:count], self.unacknowledged[count:]
        return due[0][0].acknowledge([packet_id for _, packet_id in due])

    @property
    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.packets]

    async def has(self, *payloads: bytes) -> None:
        await wait_until_async(lambda: self.payloads == list(payloads), what=f"exactly {payloads} in {self.payloads}")

    async def holds(self, count: int) -> None:
        await wait_until_async(lambda: len(self.packets) >= count, what=f"{count} messages")


def options_for(url: str, client_id: str, **changes: Any) -> LinkOptions:
    made = LinkOptions.from_settings(load_settings(mqtt_url=url), client_id=client_id)
    return LinkOptions(**{**vars(made), "connect_timeout_seconds": 3.0, **changes})


def kept(url: str, **changes: Any) -> LinkOptions:
    """As the ingestor connects: a session that outlives the connection."""
    return options_for(url, "ingestor", **{"clean_start": False, "session_expiry_seconds": 60} | changes)


@asynccontextmanager
async def subscriber(options: LinkOptions, inbox: Inbox, subscribe: str = "v1/#", **more: Any) -> AsyncIterator[Link]:
    async with Link(options, subscribe=[subscribe], on_publish=inbox, **more) as link:
        await link.wait_connected(30)
        yield link


@asynccontextmanager
async def publisher(url: str, **changes: Any) -> AsyncIterator[Link]:
    async with Link(options_for(url, "device", **changes)) as link:
        await link.wait_connected(30)
        yield link


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


async def send(link: Link, payloads: list[bytes]) -> None:
    await asyncio.gather(*(link.publish("v1/telemetry/meter/M", payload) for payload in payloads))


# Acknowledging


async def test_what_is_unacknowledged_comes_again_with_the_dup_flag_and_nothing_else(broker: Broker) -> None:
    inbox = Inbox(acknowledges=False)
    async with publisher(broker.url) as link:
        async with subscriber(kept(broker.url), inbox):
            await send(link, numbered(10))
            await inbox.has(*numbered(10))
            assert not any(packet.duplicate for packet in inbox.packets)
            assert inbox.acknowledge(4)
        again = Inbox()
        async with subscriber(kept(broker.url), again) as reconnected:
            assert reconnected.connection is not None
            assert reconnected.connection.session_present
            await again.has(*numbered(6, start=4))
            assert all(packet.duplicate for packet in again.packets)
            assert not inbox.acknowledge(6)  # packet ids of a connection that has ended
        last = Inbox()
        async with subscriber(kept(broker.url), last):
            await send(link, [b"new"])
            await last.has(b"new")
            assert not last.packets[0].duplicate


async def test_a_goodbye_loses_no_acknowledgement_although_messages_are_still_coming(broker: Broker) -> None:
    inbox = Inbox(acknowledges=False)
    async with publisher(broker.url) as link:
        async with subscriber(kept(broker.url), inbox) as receiving:
            await send(link, [b"x" * 1000] * 50)
            await inbox.holds(50)
            assert receiving.connection is not None
            receiving.connection.pause_reading()
            await send(link, [b"y" * 1000] * 200)  # unread when we leave
            inbox.acknowledge(50)
        again = Inbox()
        async with subscriber(kept(broker.url), again):
            await again.holds(200)
            assert set(again.payloads) == {b"y" * 1000}


async def test_no_more_messages_come_unacknowledged_than_we_asked_for(broker: Broker) -> None:
    """Mosquitto 2.0.11 keeps to it only at first: there each PUBACK brings a whole window of messages."""
    inbox = Inbox(acknowledges=False)
    async with publisher(broker.url) as link, subscriber(kept(broker.url, receive_maximum=10), inbox):
        await send(link, numbered(25))
        await inbox.has(*numbered(10))
        inbox.acknowledges = True
        inbox.acknowledge(10)
        await inbox.has(*numbered(25))


async def test_the_largest_window_is_one_too(broker: Broker) -> None:
    """Mosquitto takes 65,535, from its configuration or by default, for "no limit"."""
    inbox = Inbox(acknowledges=False)
    async with subscriber(kept(broker.url), inbox):
        pass
    connection = await Connection.open(options_for(broker.url, "device"))
    outbox = Outbox[Numbered](connection, 10_000, lambda accepted, refused: None)
    waiting = [Numbered(b"%d" % number) for number in range(RECEIVE_MAXIMUM_MAX + 3000)]
    while waiting or outbox.unanswered():
        portion, waiting = waiting[: min(outbox.room, 2000)], waiting[min(outbox.room, 2000) :]
        outbox.send(portion)
        await asyncio.sleep(0)
    await outbox.disconnect()
    async with subscriber(kept(broker.url, receive_maximum=RECEIVE_MAXIMUM_MAX), inbox) as link:
        await wait_until_async(lambda: len(inbox.packets) >= RECEIVE_MAXIMUM_MAX, what="a full window")
        assert link.connection is not None
        await link.connection.subscribe("another/#")  # its answer comes behind whatever else was sent
        assert len(inbox.packets) == RECEIVE_MAXIMUM_MAX
        assert len({packet.packet_id for packet in inbox.packets}) == RECEIVE_MAXIMUM_MAX


async def test_a_session_without_expiry_ends_with_its_connection(broker: Broker) -> None:
    inbox = Inbox(acknowledges=False)
    async with publisher(broker.url) as link:
        for _ in range(2):
            async with subscriber(kept(broker.url, session_expiry_seconds=0), inbox) as receiving:
                assert receiving.connection is not None
                assert not receiving.connection.session_present
                await send(link, [b"1"])
                await wait_until_async(lambda: inbox.unacknowledged)
                inbox.unacknowledged.clear()
    await inbox.has(b"1", b"1")


async def test_an_old_filter_is_left(broker: Broker) -> None:
    old, new = Inbox(), Inbox()
    async with publisher(broker.url) as link:
        async with subscriber(kept(broker.url), old, "v1/#"):
            pass
        async with subscriber(kept(broker.url), new, "$share/crew/v1/#", unsubscribe=["v1/#", "never/#"]):
            await send(link, [b"once", b"last"])
            await new.has(b"once", b"last")


# Publishing


async def test_qos_0_is_published_and_received(broker: Broker) -> None:
    inbox = Inbox()
    async with publisher(broker.url) as link, subscriber(kept(broker.url), inbox):
        await link.publish("v1/telemetry/meter/M", b"0", qos=0)
        await inbox.has(b"0")
        assert inbox.packets[0].packet_id is None


async def test_nobody_subscribed_is_no_success(broker: Broker) -> None:
    async with publisher(broker.url) as link:
        with pytest.raises(PublishRefused, match="is the ingestor running") as raised:
            await link.publish("v1/telemetry/meter/M", b"1")
        assert raised.value.code == 0x10


async def test_a_message_too_large_for_the_broker_is_refused_and_the_connection_stays(broker: Broker) -> None:
    inbox = Inbox()
    async with publisher(broker.url) as link, subscriber(kept(broker.url), inbox):
        connection = link.connection
        with pytest.raises(PublishRefused, match="the broker takes 4259840"):
            await link.publish("v1/telemetry/meter/M", b"x" * 4_300_000)
        largest = b"x" * 4_259_000
        await link.publish("v1/telemetry/meter/M", largest)
        await wait_until_async(lambda: inbox.payloads == [largest], what="the largest message")
        assert link.connection is connection


async def test_whatever_a_device_may_put_around_its_payload_arrives(broker: Broker) -> None:
    """A message that our codec could not read would come again and again, and nothing behind it ever."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 0
    properties.MessageExpiryInterval = 100
    properties.ContentType = "application/json; charset=ÿ\U0010fffd"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\xff\xfe"
    properties.UserProperty = pairs = [("", ""), ("k", "v"), ("k", "v"), ("ключ", "x" * 1000)]
    inbox = Inbox()
    async with subscriber(kept(broker.url), inbox):
        with device(broker.port) as dev:
            publish: Callable[..., paho.MQTTMessageInfo] = dev._client.publish
            for topic in ("v1/telemetry/meter/M", "v1/é\U0001f600", "v1/" + "x" * 65000, "v1//$SYS/"):
                publish(topic, b"\xff\x00", qos=2, properties=properties)
            await inbox.holds(4)
    assert [packet.qos for packet in inbox.packets] == [mqtt5.QoS.AT_LEAST_ONCE] * 4
    assert inbox.packets[0].user_properties == pairs


# Restart, cut, silence


async def answered(link: Link) -> None:
    """Until the broker has read all that was sent to it: it answers in order."""
    assert link.connection is not None
    await link.connection.unsubscribe("never/subscribed")


@pytest.mark.parametrize("kind", FILTERS)
async def test_a_broker_restart_is_survived(broker: Broker, kind: str) -> None:
    inbox = Inbox()
    async with publisher(broker.url) as link, subscriber(kept(broker.url), inbox, FILTERS[kind]) as receiving:
        await send(link, [b"before"])
        await inbox.has(b"before")
        await answered(receiving)
        broker.stop()
        await wait_until_async(lambda: receiving.connection is None)
        with pytest.raises(LinkLost):
            await link.publish("v1/telemetry/meter/M", b"lost")
        broker.start()
        await receiving.wait_connected(30)
        await link.wait_connected(30)
        await send(link, [b"after"])
        await inbox.has(b"before", b"after")


async def test_a_broker_restart_brings_back_what_was_unacknowledged(broker: Broker) -> None:
    inbox = Inbox(acknowledges=False)
    async with subscriber(kept(broker.url), inbox) as receiving:
        async with publisher(broker.url) as link:
            await send(link, numbered(3))
        await inbox.has(*numbered(3))
        inbox.acknowledge(1)
        await answered(receiving)
        broker.stop()
        broker.start()
        await inbox.has(*numbered(3), *numbered(2, start=1))
        await receiving.wait_connected(30)


async def test_a_broker_that_is_not_there_yet(broker: Broker) -> None:
    broker.stop()
    async with Link(options_for(broker.url, "early")) as link:
        with pytest.raises(LinkLost) as raised:
            await link.wait_connected(0.2)
        assert str(raised.value) == (
            f"no connection to a broker at {broker.url} (connection refused); is it running? Check MQTT_URL"
        )
        broker.start()
        await link.wait_connected(30)


async def test_a_cut_connection_comes_back_and_loses_nothing(
    broker: Broker, proxy_factory: Callable[[int], TcpProxy]
) -> None:
    proxy = proxy_factory(broker.port)
    inbox = Inbox(acknowledges=False)
    came_back: list[bool] = []
    url = f"mqtt://127.0.0.1:{proxy.port}"
    async with (
        publisher(broker.url) as link,
        subscriber(kept(url), inbox, on_reconnect=lambda: came_back.append(True)) as receiving,
    ):
        await send(link, numbered(2))
        await inbox.has(*numbered(2))
        proxy.cut()
        await send(link, [b"meanwhile"])
        await inbox.has(*numbered(2), *numbered(2), b"meanwhile")
        assert [packet.duplicate for packet in inbox.packets] == [False, False, True, True, False]
        await receiving.wait_connected(30)
        assert came_back == [True]


async def test_a_half_dead_connection_is_noticed_and_replaced(
    broker: Broker, proxy_factory: Callable[[int], TcpProxy], caplog: pytest.LogCaptureFixture
) -> None:
    proxy = proxy_factory(broker.port)
    inbox = Inbox()
    url = f"mqtt://127.0.0.1:{proxy.port}"
    async with subscriber(kept(url, keepalive_seconds=1, connect_timeout_seconds=0.5), inbox) as receiving:
        proxy.blackhole()
        started = time.monotonic()
        await wait_until_async(lambda: receiving.connection is None, what="silence is noticed")
        assert time.monotonic() - started > 0.9  # that it is soon after is tested without a network
        proxy.restore()
        await receiving.wait_connected(30)
        async with publisher(broker.url) as link:
            await send(link, [b"1"])
        await inbox.has(b"1")
    assert any("has been silent for 1.0 s" in record.message for record in caplog.records)


async def test_paused_for_longer_than_the_keepalive_nobody_gives_up(broker: Broker) -> None:
    inbox = Inbox()
    async with (
        publisher(broker.url) as link,
        subscriber(kept(broker.url, keepalive_seconds=1), inbox) as receiving,
    ):
        connection = receiving.connection
        assert connection is not None
        connection.pause_reading()
        await send(link, numbered(3))
        await asyncio.sleep(1.7)  # the broker gives up at 1.5 keepalives, we at 1.3
        assert inbox.payloads == []
        connection.resume_reading()
        await inbox.has(*numbered(3))
        assert receiving.connection is connection


# Who else connects


async def test_a_client_id_that_two_use_is_named(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Mosquitto says that a session was taken over from 2.0.15 on; before it just cuts."""
    monkeypatch.setattr("mqtt.link.BACKOFF_SECONDS_MIN", 0.01)
    caplog.set_level(logging.WARNING, "telemetry")
    said: list[str] = []

    async def run(link: Link) -> None:
        try:
            await link.run()
        except LinkRefused as refused:
            said.append(str(refused))

    twins = [asyncio.create_task(run(Link(options_for(broker.url, "twin")))) for _ in range(2)]
    await wait_until_async(
        lambda: any("client id 'twin'" in line for line in [*said, *(record.message for record in caplog.records)]),
        5,
        "the client id is named",
    )
    for twin in twins:
        twin.cancel()
    await asyncio.wait(twins)

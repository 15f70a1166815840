"""What a link makes of the broker's terms: a lost session, less than was asked for, filters that are to go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest
from mqtt5 import QoS, SubAckReasonCode

from mqtt.link import Link
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

SHARED = "$share/crew/v1/#"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules as they are, in less time."""
    monkeypatch.setattr("mqtt.link.BACKOFF_SECONDS_MIN", 0.02)
    monkeypatch.setattr("mqtt.link.UNSUBSCRIBE_RETRY_SECONDS", 0.05)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    """The lines for people, of warnings and worse."""
    caplog.set_level(logging.INFO, "mqtt")
    return lambda: [record.message for record in caplog.records if record.levelno >= logging.WARNING]


class Story:
    """What a link tells those who asked to hear of it."""

    def __init__(self) -> None:
        self.lost = 0
        self.left: list[str] = []

    def on_session_lost(self) -> None:
        self.lost += 1

    async def on_unsubscribed(self, topic_filter: str) -> None:
        self.left.append(topic_filter)


def link_to(broker: FakeBroker, story: Story, *, subscribe: str = "v1/#", **more: Any) -> Link:
    """As the ingestor's: with a session that is to be kept."""
    options = {name: more.pop(name) for name in ("session_expiry_seconds", "packet_bytes_wanted") if name in more}
    return Link(
        broker.options(clean_start=False, connect_timeout_seconds=0.5, **{"session_expiry_seconds": 600} | options),
        subscribe=[subscribe],
        on_session_lost=story.on_session_lost,
        on_unsubscribed=story.on_unsubscribed,
        **more,
    )


async def asked_to_leave(session: Session) -> mqtt5.UnsubscribePacket:
    return await session.expect(mqtt5.UnsubscribePacket)


def left(packet: mqtt5.UnsubscribePacket, *codes: mqtt5.UnsubAckReasonCode) -> mqtt5.UnsubAckPacket:
    return mqtt5.UnsubAckPacket(packet.packet_id, list(codes) or [mqtt5.UnsubAckReasonCode.SUCCESS])


# Filters that are to go


async def test_a_refused_unsuback_is_tried_again_on_the_same_connection_and_the_next(
    warnings: Callable[..., Any],
) -> None:
    story = Story()
    async with FakeBroker() as broker:
        async with link_to(broker, story, unsubscribe=["old/#", "older/#"]) as link:
            session = await broker.welcome()
            await session.grant()
            session.send(left(await asked_to_leave(session), mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED))
            session.send(left(await asked_to_leave(session)))
            await wait_until_async(lambda: story.left == ["older/#"])
            again = await asked_to_leave(session)
            assert again.patterns == ["old/#"]
            session.send(left(again, mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED))
            assert link.connection is not None
            await asked_to_leave(session)
            session.reset()
            session = await broker.welcome(session_present=True)
            await session.grant()
            session.send(left(await asked_to_leave(session)))
            await wait_until_async(lambda: story.left == ["older/#", "old/#"])
        assert len([line for line in warnings() if "did not unsubscribe old/#" in line]) == 1


async def test_an_unsubscribe_without_an_answer_costs_nobody_the_connection(warnings: Callable[..., Any]) -> None:
    story = Story()
    async with FakeBroker() as broker, link_to(broker, story, unsubscribe=["old/#"]) as link:
        session = await broker.welcome()
        await session.grant()
        await asked_to_leave(session)
        packet = await asked_to_leave(session)  # after the first was given up
        assert link.connection is not None
        session.send(left(packet, mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED))
        await wait_until_async(lambda: story.left == ["old/#"])
        assert len([line for line in warnings() if "sent no UNSUBACK in time" in line]) == 1


async def test_what_cannot_be_noted_down_is_left_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(topic_filter: str) -> None:
        raise RuntimeError(topic_filter)

    async with FakeBroker() as broker:
        options = broker.options()
        async with Link(options, subscribe=["v1/#"], unsubscribe=["old/#"], on_unsubscribed=fails) as link:
            session = await broker.welcome()
            await session.grant()
            session.send(left(await asked_to_leave(session)))
            await wait_until_async(lambda: "could not note down that old/# is unsubscribed" in caplog.text)
            assert link.connection is not None


# A lost session


async def test_a_session_that_the_broker_lost_is_counted_and_explained(warnings: Callable[..., Any]) -> None:
    story = Story()
    async with FakeBroker() as broker, link_to(broker, story):
        session = await broker.welcome()  # the first: nothing is missed
        await session.grant()
        session.reset()
        session = await broker.welcome(session_present=True)
        await session.grant()
        assert story.lost == 0
        session.reset()
        session = await broker.welcome()
        await session.grant()
        assert story.lost == 1
        (line,) = [line for line in warnings() if "has lost our session" in line]
        assert "'tester'" in line
        assert "MQTT_SESSION_EXPIRY_SECONDS" in line


@pytest.mark.parametrize(("present", "lost"), [(True, 0), (False, 1)])
async def test_a_session_of_an_earlier_process_is_missed_from_the_start(present: bool, lost: int) -> None:
    story = Story()
    async with FakeBroker() as broker, link_to(broker, story, known_to_broker=True):
        await broker.subscribed(session_present=present)
        assert story.lost == lost


async def test_who_keeps_no_session_misses_none() -> None:
    story = Story()
    async with FakeBroker() as broker, link_to(broker, story, session_expiry_seconds=0):
        session = await broker.welcome()
        await session.grant()
        session.reset()
        await broker.subscribed()
        assert story.lost == 0


# Less than was asked for


@pytest.mark.parametrize(
    ("connack", "said"),
    [
        ({"session_expiry_interval": 60}, "keeps our session for 60 s while we are away, not for the 600 s"),
        ({"max_packet_size": 1000}, "takes packets of 1000 bytes at most, and a device's payload may have 5000"),
        ({"assigned_client_id": "you"}, "calls us 'you' instead of 'tester'"),
    ],
)
async def test_less_than_was_asked_for_is_said_once(
    connack: dict[str, int] | dict[str, str], said: str, warnings: Callable[..., Any]
) -> None:
    async with FakeBroker() as broker, link_to(broker, Story(), packet_bytes_wanted=5000) as link:
        for _ in range(3):
            session = await broker.welcome(session_present=True, **connack)
            await session.grant()
            await link.wait_connected(5)
            session.reset()
            await wait_until_async(lambda: link.connection is None)
        assert len([line for line in warnings() if said in line]) == 1


@pytest.mark.parametrize(
    "connack",
    [
        {},
        {"session_expiry_interval": 600, "max_packet_size": 5000, "assigned_client_id": "tester"},
        {"receive_max": 1, "topic_alias_max": 5, "retain_available": False, "subscription_id_available": False},
        {"max_qos": mqtt5.QoS.AT_LEAST_ONCE, "shared_subscription_available": False, "server_keep_alive": 10},
        {"user_properties": [("a", "b")], "response_info": "r", "reason_str": "welcome"},
    ],
)
async def test_what_is_enough_is_not_worth_a_word(connack: Any, warnings: Callable[..., Any]) -> None:
    async with FakeBroker() as broker, link_to(broker, Story(), packet_bytes_wanted=5000) as link:
        await broker.subscribed(**connack)
        await link.wait_connected(5)
        assert warnings() == []


@pytest.mark.parametrize(
    ("connack", "said"),
    [
        ({"max_qos": mqtt5.QoS.AT_MOST_ONCE}, "it takes QoS 0 only"),
        ({"shared_subscription_available": False}, "it has no shared subscriptions; unset MQTT_SHARE_GROUP"),
        ({"wildcard_subscription_available": False}, "it has no wildcard subscriptions"),
        ({"session_expiry_interval": 0}, "it keeps no session"),
    ],
)
async def test_what_cannot_work_is_refused_at_connect_and_tried_again(
    connack: dict[str, QoS] | dict[str, bool] | dict[str, int], said: str, warnings: Callable[..., Any]
) -> None:
    async with FakeBroker() as broker, link_to(broker, Story(), subscribe=SHARED) as link:
        for _ in range(2):
            session = await broker.welcome(**connack)
            assert not any(isinstance(packet, mqtt5.SubscribePacket) for packet in await session.until_closed())
        assert link.connection is None
        lines = warnings()
        assert len(lines) == 1
        assert lines[0].startswith(f"the broker at mqtt://127.0.0.1:{broker.port} cannot serve us: {said}")
        await broker.subscribed()
        await link.wait_connected(5)


@pytest.mark.parametrize("code", [mqtt5.SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE])
async def test_more_than_was_asked_for_is_fine(code: SubAckReasonCode) -> None:
    async with FakeBroker() as broker, link_to(broker, Story()) as link:
        session = await broker.welcome()
        packet = await session.expect(mqtt5.SubscribePacket)
        session.send(mqtt5.SubAckPacket(packet.packet_id, [code]))
        await link.wait_connected(5)


async def test_a_keepalive_of_hours_does_not_make_us_slow_to_notice() -> None:
    async with FakeBroker() as broker:
        options = broker.options(keepalive_seconds=1)
        async with Link(options, subscribe=["v1/#"]) as link:
            session = await broker.welcome(server_keep_alive=7200)
            await session.grant()
            await link.wait_connected(5)
            await session.expect(mqtt5.PingReqPacket)


async def test_a_link_that_ends_while_it_unsubscribes_leaves_nothing_behind() -> None:
    async with FakeBroker() as broker:
        async with link_to(broker, Story(), unsubscribe=["old/#"]):
            session = await broker.welcome()
            await session.grant()
            await asked_to_leave(session)
        assert [type(packet) for packet in await session.until_closed()] == [mqtt5.DisconnectPacket]
        await asyncio.sleep(0)

"""The link: a connection that comes back, and says why while it is away."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import mqtt5
import pytest

from mqtt.errors import LinkLost, LinkRefused
from mqtt.link import Link
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules as they are, in a tenth of the time."""
    monkeypatch.setattr("mqtt.link.BACKOFF_SECONDS_MIN", 0.02)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    """The lines for people, of warnings and worse."""
    caplog.set_level(logging.INFO, "mqtt")
    return lambda: [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def refuses(**connack: Any) -> mqtt5.ConnAckPacket:
    return mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY, **connack)


# Up


async def test_a_link_subscribes_publishes_and_says_goodbye() -> None:
    async with FakeBroker() as broker:
        async with Link(broker.options(), subscribe=["a/#", "b/#"], unsubscribe=["old/#"]) as link:
            assert link.connection is None
            session = await broker.welcome()
            assert await session.grant() == "a/#"
            assert link.connection is None
            assert await session.grant() == "b/#"
            await link.wait_connected(30)
            assert link.connection is not None
            packet = await session.expect(mqtt5.UnsubscribePacket)  # the old one only now: nothing falls in between
            session.send(mqtt5.UnsubAckPacket(packet.packet_id, [mqtt5.UnsubAckReasonCode.SUCCESS]))
            publishing = asyncio.create_task(link.publish("t", b"x"))
            session.send(mqtt5.PubAckPacket((await session.expect(mqtt5.PublishPacket)).packet_id))
            await publishing
        assert [type(packet) for packet in await session.until_closed()] == [mqtt5.DisconnectPacket]
        assert link.connection is None
        with pytest.raises(LinkLost, match="we closed the link"):
            await link.publish("t", b"x")


async def test_after_a_cut_it_connects_and_subscribes_again_and_repeats_no_publish(
    warnings: Callable[..., Any],
) -> None:
    came_back: list[bool] = []
    async with (
        FakeBroker() as broker,
        Link(broker.options(), subscribe=["a/#"], on_reconnect=lambda: came_back.append(True)) as link,
    ):
        session = await broker.welcome()
        await session.grant()
        await link.wait_connected(30)
        first = link.connection
        publishing = asyncio.create_task(link.publish("t", b"once"))
        await session.expect(mqtt5.PublishPacket)
        session.reset()
        with pytest.raises(LinkLost, match="was cut"):
            await publishing
        assert link.connection is None
        assert came_back == []
        session = await broker.welcome(session_present=True)
        assert await session.grant() == "a/#"
        await link.wait_connected(30)
        assert link.connection is not first
        assert came_back == [True]
        assert len(warnings()) == 1
        assert warnings()[0].endswith("was cut: connection reset by peer; trying again")
    packets = await session.until_closed()
    assert [type(packet) for packet in packets] == [mqtt5.DisconnectPacket]


async def test_packet_ids_die_with_their_connection() -> None:
    async with FakeBroker() as broker, Link(broker.options()) as link:
        for _ in range(2):
            session = await broker.welcome(receive_max=1)
            await link.wait_connected(30)
            publishing = asyncio.create_task(link.publish("t", b"x"))
            assert (await session.expect(mqtt5.PublishPacket)).packet_id == 1
            session.close()
            with pytest.raises(LinkLost):
                await publishing


# Away


async def test_while_away_everybody_hears_the_reason_at_once() -> None:
    async with FakeBroker() as broker, Link(broker.options()) as link:
        with pytest.raises(LinkLost, match=r"^not connected to the broker at mqtt://.* yet$"):
            await link.publish("t", b"x")
        session = await broker.session()
        await session.expect(mqtt5.ConnectPacket)
        session.send(refuses())
        with pytest.raises(LinkLost, match="it is busy"):
            await link.wait_connected(0.1)
        for _ in range(2):
            with pytest.raises(LinkLost, match="it is busy") as raised:
                await link.publish("t", b"x")
        assert sum(1 for entry in raised.traceback if entry.name == "publish") == 1


async def test_waiting_for_the_connection_outlasts_failures() -> None:
    async with FakeBroker() as broker, Link(broker.options()) as link:
        waiting = [asyncio.create_task(link.wait_connected(30)) for _ in range(3)]
        for _ in range(3):
            session = await broker.session()
            await session.expect(mqtt5.ConnectPacket)
            session.close()
        waiting[0].cancel()
        await broker.welcome()
        await asyncio.gather(*waiting[1:])


async def test_attempts_come_ever_more_slowly(monkeypatch: pytest.MonkeyPatch, warnings: Callable[..., Any]) -> None:
    attempts: list[float] = []
    async with FakeBroker() as broker, Link(broker.options()):
        for _ in range(5):
            session = await broker.session()
            attempts.append(time.monotonic())
            await session.expect(mqtt5.ConnectPacket)
            session.send(refuses())
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    for number, pause in enumerate(pauses, 1):
        assert pause >= 0.02 * 2**number / 4
    assert len(warnings()) == 1  # the same reason is worth one line, not five


async def test_an_accepted_connection_that_is_cut_at_once_is_no_reason_to_hurry() -> None:
    attempts: list[float] = []
    async with FakeBroker() as broker, Link(broker.options()):
        for _ in range(5):
            session = await broker.welcome()
            attempts.append(time.monotonic())
            session.close()
    assert attempts[4] - attempts[3] >= 0.02 * 2**4 / 4


async def test_the_pause_has_a_limit_and_a_good_connection_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[tuple[float, float]] = []

    def no_pause(least: float, most: float) -> float:
        pauses.append((least, most))
        return 0.0

    monkeypatch.setattr("config.backoff.random.uniform", no_pause)
    monkeypatch.setattr("mqtt.link.BACKOFF_SECONDS_MIN", 0.2)
    monkeypatch.setattr("mqtt.link.GOOD_CONNECTION_SECONDS", 0.0)
    async with FakeBroker() as broker, Link(broker.options()) as link:
        for _ in range(8):
            session = await broker.session()
            await session.expect(mqtt5.ConnectPacket)
            session.send(refuses())
        session = await broker.welcome()
        await link.wait_connected(30)
        session.close()
        await broker.welcome()
        assert [most for _, most in pauses] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 0.2]
        assert all(least == most / 2 for least, most in pauses)


# Over


@pytest.mark.parametrize("by", ["connack", "disconnect"])
async def test_a_refusal_that_is_final_ends_the_link(by: str, warnings: Callable[..., Any]) -> None:
    async with FakeBroker() as broker, Link(broker.options(client_id="twin")) as link:
        session = await broker.session()
        await session.expect(mqtt5.ConnectPacket)
        if by == "connack":
            session.send(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.CLIENT_ID_NOT_VALID))
        else:
            session.send(mqtt5.ConnAckPacket())
            await link.wait_connected(30)
            session.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
            await wait_until_async(lambda: link.connection is None)
        for _ in range(2):
            with pytest.raises(LinkRefused):
                await link.wait_connected(30)
            with pytest.raises(LinkRefused):
                await link.publish("t", b"x")
        await asyncio.sleep(0.1)
        assert broker.no_session_waits
    assert warnings() == []  # whoever runs the link says it


async def test_run_raises_what_is_final() -> None:
    async with FakeBroker() as broker:
        running = asyncio.create_task(Link(broker.options(client_id="twin")).run())
        session = await broker.welcome()
        session.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
        with pytest.raises(LinkRefused, match="client id 'twin'"):
            await running


async def test_a_refused_subscription_is_said_once_and_tried_again(warnings: Callable[..., Any]) -> None:
    async with FakeBroker() as broker, Link(broker.options(), subscribe=["a/#"]) as link:
        for _ in range(2):
            session = await broker.welcome()
            packet = await session.expect(mqtt5.SubscribePacket)
            session.send(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]))
        session = await broker.welcome()
        await session.grant()
        await link.wait_connected(30)
    (line,) = warnings()
    assert line.startswith("the broker refused the subscription to a/#: not authorized; ")
    assert line.endswith("; trying again")


async def test_cuts_in_a_row_raise_a_suspicion_but_not_those_far_apart(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[..., Any]
) -> None:
    async with FakeBroker() as broker, Link(broker.options(client_id="twin")):
        for _ in range(3):
            (await broker.welcome()).close()
        await broker.session()
        suspicious = [line for line in warnings() if "does another client use the client id 'twin'?" in line]
        assert len(suspicious) == 1
    monkeypatch.setattr("mqtt.link.SUSPICIOUS_SECONDS", 0.0)
    async with FakeBroker() as broker, Link(broker.options(client_id="other")):
        for _ in range(4):
            (await broker.welcome()).close()
        await broker.session()
    assert not any("'other'" in line for line in warnings())


@pytest.mark.parametrize("phase", ["connect", "handshake", "subscribe", "connected", "backoff"])
async def test_a_link_ends_at_once_whatever_it_is_doing(phase: str) -> None:
    async with FakeBroker() as broker:
        async with Link(broker.options(), subscribe=["a/#"]) as link, asyncio.timeout(2):
            if phase != "connect":
                session = await broker.session()
                await session.expect(mqtt5.ConnectPacket)
            if phase in ("subscribe", "connected"):
                session.send(mqtt5.ConnAckPacket())
                if phase == "connected":
                    await session.grant()
                    await link.wait_connected()
                else:
                    await session.expect(mqtt5.SubscribePacket)
            elif phase == "backoff":
                session.send(refuses())
                await session.until_closed()
            started = time.monotonic()
        assert time.monotonic() - started < 0.5
        assert link.connection is None


async def test_a_fault_of_ours_in_the_link_does_not_pass_unseen() -> None:
    async def use() -> None:
        def fail() -> None:
            raise KeyError("oops")

        async with Link(broker.options(), on_reconnect=fail) as link:
            (await broker.welcome()).close()
            session = await broker.welcome()
            await session.until_closed()  # a connection without its link would go on receiving
            await wait_until_async(lambda: link._task is not None and link._task.done())

    async with FakeBroker() as broker:
        with pytest.raises(KeyError, match="oops"):
            await use()

"""Publishing by the batch: order, the window, one call for many answers, and what is left when a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import mqtt5
import pytest

from mqtt.errors import LinkError, PublishRefused
from mqtt.outbox import Outbox
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind, opened, puback  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


# Together far more than the buffers of a socket on loopback.
LARGE_BYTES, LARGE_MAX = 100_000, 200


class Note(NamedTuple):
    """Something to send."""

    payload: bytes
    topic: str = "a"


class Answer(NamedTuple):
    """A reply to somebody."""

    topic: str
    payload: bytes
    correlation_data: bytes | None


Answers = tuple[list[Note], list[tuple[Note, PublishRefused]]]


class Ends:
    """An outbox, the broker's end of its connection, and the calls with answers that it made."""

    def __init__(self, outbox: Outbox[Note], session: Session, calls: list[Answers]) -> None:
        self.outbox, self.session, self.calls = outbox, session, calls

    async def received(self, count: int) -> list[mqtt5.PublishPacket]:
        return [await self.session.expect(mqtt5.PublishPacket) for _ in range(count)]

    async def call(self) -> Answers:
        """The only call so far, once it has come."""
        await wait_until_async(lambda: self.calls, 5, "a call with answers")
        (call,) = self.calls
        return call


@asynccontextmanager
async def sending(under_way_max: int = 100, *, qos: int = 1, **connack: Any) -> AsyncIterator[Ends]:
    calls: list[Answers] = []
    async with FakeBroker() as broker, opened(broker, **connack) as (connection, session), asyncio.timeout(10):
        outbox = Outbox[Note](connection, under_way_max, lambda *answers: calls.append(answers), qos=qos)
        yield Ends(outbox, session, calls)


def notes(count: int) -> list[Note]:
    return [Note(str(number).encode()) for number in range(count)]


async def test_all_are_sent_in_their_order_each_with_an_id_of_its_own() -> None:
    async with sending() as ends:
        ends.outbox.send(notes(3))
        ends.outbox.send([Note(b"3", "b")])
        packets = await ends.received(4)
        assert [(packet.topic, packet.payload) for packet in packets] == [
            ("a", b"0"),
            ("a", b"1"),
            ("a", b"2"),
            ("b", b"3"),
        ]
        assert [packet.packet_id for packet in packets] == [1, 2, 3, 4]
        assert all(packet.qos == mqtt5.QoS.AT_LEAST_ONCE for packet in packets)
        assert ends.calls == []


async def test_answers_that_came_together_are_one_call_in_the_order_of_the_answers() -> None:
    async with sending() as ends:
        sent = notes(50)
        ends.outbox.send(sent)
        packets = await ends.received(50)
        ends.session.send(*(puback(packet.packet_id) for packet in reversed(packets)))
        assert await ends.call() == (sent[::-1], [])
        assert ends.outbox.unanswered() == []
        assert ends.outbox.room == 100


async def test_refusals_come_back_with_their_reasons_beside_the_successes() -> None:
    async with sending() as ends:
        sent = notes(4)
        ends.outbox.send(sent)
        await ends.received(4)
        codes = mqtt5.PubAckReasonCode
        ends.session.send(
            mqtt5.PubAckPacket(1),
            mqtt5.PubAckPacket(2, reason_code=codes.NO_MATCHING_SUBSCRIBERS),
            mqtt5.PubAckPacket(3, reason_code=codes.NOT_AUTHORIZED, reason_str="not you"),
            mqtt5.PubAckPacket(4, reason_code=codes.QUOTA_EXCEEDED),
        )
        accepted, refused = await ends.call()
        assert accepted == sent[:1]
        assert [note for note, _ in refused] == sent[1:]
        assert [error.code for _, error in refused] == [0x10, 0x87, 0x97]
        assert "is the ingestor running?" in str(refused[0][1])
        assert "not you" in str(refused[1][1])
        assert ends.outbox.unanswered() == []


async def test_answers_to_what_was_never_sent_or_is_answered_already_are_ignored() -> None:
    async with sending() as ends:
        sent = notes(2)
        ends.outbox.send(sent)
        await ends.received(2)
        ends.session.send(mqtt5.PubAckPacket(77), mqtt5.PubAckPacket(1), mqtt5.PubAckPacket(1))
        assert await ends.call() == (sent[:1], [])
        assert ends.outbox.unanswered() == sent[1:]


@pytest.mark.parametrize(("own", "brokers", "room"), [(5, 100, 5), (100, 3, 3)])
async def test_the_room_is_the_smaller_of_both_windows_and_comes_back_with_the_answers(
    own: int, brokers: int, room: int
) -> None:
    async with sending(own, receive_max=brokers) as ends:
        assert ends.outbox.room == room
        ends.outbox.send(notes(room))
        assert ends.outbox.room == 0
        packets = await ends.received(room)
        ends.session.send(puback(packets[0].packet_id))
        await ends.call()
        assert ends.outbox.room == 1


async def test_packet_ids_begin_again_and_leave_out_those_under_way() -> None:
    async with sending() as ends:
        first, *others = notes(4)
        ends.outbox.send([first])
        ends.outbox._last_packet_id = 65533
        ends.outbox.send(others)
        assert [packet.packet_id for packet in await ends.received(4)] == [1, 65534, 65535, 2]
        assert ends.outbox.unanswered() == [first, *others]


async def test_what_is_too_large_for_the_broker_is_refused_at_once_and_its_neighbours_are_sent() -> None:
    async with sending(max_packet_size=100) as ends:
        small, large, last = Note(b"1"), Note(b"x" * 200), Note(b"2")
        ends.outbox.send([small, large, last])
        accepted, ((refused, error),) = await ends.call()
        assert (accepted, refused) == ([], large)
        assert "the broker takes 100" in str(error)
        assert [packet.payload for packet in await ends.received(2)] == [b"1", b"2"]
        assert ends.outbox.unanswered() == [small, last]


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_after_the_end_there_is_no_room_and_the_unanswered_are_there_oldest_first(end: str) -> None:
    async with sending() as ends:
        sent = notes(5)
        ends.outbox.send(sent)
        await ends.received(5)
        ends.session.send(mqtt5.PubAckPacket(2))
        assert await ends.call() == (sent[1:2], [])
        getattr(ends.session, end)()
        await wait_until_async(lambda: ends.outbox.room == 0, 5, "the end of the connection")
        assert ends.outbox.unanswered() == [sent[0], *sent[2:]]
        ends.outbox.send(notes(1))  # a caller that has not looked at `room` again: no exception
        assert len(ends.calls) == 1


async def test_qos_0_has_no_answers_and_room_as_long_as_the_socket_takes_it() -> None:
    async with sending(7, qos=0) as ends:
        ends.outbox.send(notes(3))
        packets = await ends.received(3)
        assert [(packet.qos, packet.packet_id) for packet in packets] == [(mqtt5.QoS.AT_MOST_ONCE, None)] * 3
        assert (ends.outbox.room, ends.outbox.unanswered()) == (7, [])
        ends.session.stop_reading()
        large = 0
        while ends.outbox.room and large < LARGE_MAX:
            ends.outbox.send([Note(b"x" * LARGE_BYTES)])
            large += 1
        assert ends.outbox.room == 0
        ends.session.read_on()
        await ends.received(large)
        await wait_until_async(lambda: ends.outbox.room == 7, 5, "the socket takes more")


async def test_an_outbox_and_other_packets_never_share_an_id() -> None:
    async with sending() as ends:
        connection = ends.outbox._connection
        ends.outbox.send(notes(2))
        subscribing = asyncio.create_task(connection.subscribe("a/#"))
        await ends.received(2)
        subscribe = await ends.session.expect(mqtt5.SubscribePacket)
        assert subscribe.packet_id == 3
        ends.outbox._last_packet_id = 2
        ends.outbox.send(notes(1))
        (packet,) = await ends.received(1)
        assert packet.packet_id == 4
        ends.session.send(mqtt5.SubAckPacket(3, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]))
        await subscribing


async def test_a_reply_carries_the_correlation_data_of_its_question() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session), asyncio.timeout(10):
        closed: list[LinkError] = []
        outlet: Outbox[Answer] = connection.outlet(lambda *_: None, closed.append)
        outlet.send([Answer("a", b"1", b"42"), Answer("a", b"2", None)])
        packets = [await session.expect(mqtt5.PublishPacket) for _ in range(2)]
        assert [(packet.payload, packet.correlation_data) for packet in packets] == [(b"1", b"42"), (b"2", None)]
        assert all(packet.qos == mqtt5.QoS.AT_LEAST_ONCE for packet in packets)
        session.close()
        await wait_until_async(lambda: closed, what="the end is told")
        assert outlet.room == 0

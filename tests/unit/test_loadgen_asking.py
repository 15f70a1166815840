"""A lane whose messages are answered by receipts: a PUBACK is no answer, and what has no receipt is sent again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mqtt5
import pytest

from loadgen import asking
from loadgen.asking import AskingOutlet
from loadgen.counts import Counts
from loadgen.messages import READING, REFUSABLE, Message
from mqtt.errors import PublishRefused
from tests.fake_broker import FakeBroker, Session, anyio_backend, nothing_left_behind, puback  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio

STORED = {"stored": 1, "repeated": 0, "conflict": 0, "refused": []}
REFUSED = {"stored": 0, "repeated": 0, "conflict": 0, "refused": [{"index": 0, "code": "too_old", "reason": "why"}]}


class Ends:
    """An asking outlet, the broker's end of it, and what it called answered."""

    def __init__(self, session: Session) -> None:
        self.session, self.counts = session, Counts()
        self.accepted: list[Message] = []
        self.refused: list[str] = []
        self.outlet: AskingOutlet

    def on_answers(self, accepted: list[Message], refused: list[tuple[Message, PublishRefused]]) -> None:
        self.accepted += accepted
        self.refused += [str(why) for _, why in refused]

    def tell(self, question: mqtt5.PublishPacket, receipt: dict[str, Any]) -> None:
        topic, payload = question.response_topic, json.dumps(receipt).encode()
        assert topic is not None
        told = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7, correlation_data=question.correlation_data
        )
        self.session.send(told)

    async def question(self) -> mqtt5.PublishPacket:
        packet = await self.session.expect(mqtt5.PublishPacket)
        assert packet.packet_id is not None
        self.session.send(mqtt5.PubAckPacket(packet.packet_id))
        return packet


@asynccontextmanager
async def connected(seconds: float = 60.0) -> AsyncIterator[Ends]:
    async with FakeBroker() as broker, asyncio.timeout(10):
        ends: list[Ends] = []
        counts = Counts()
        opening = asyncio.create_task(
            AskingOutlet.open(
                broker.options(),
                10,
                lambda *answers: ends[0].on_answers(*answers),  # noqa: PLW0108 - it is made below
                device=None,
                seconds=seconds,
                counts=counts,
            )
        )
        session = await broker.welcome()
        ends.append(Ends(session))
        assert await session.grant() == "v1/receipts/+/tester"
        ends[0].counts = counts
        ends[0].outlet = await opening
        try:
            yield ends[0]
        finally:
            await ends[0].outlet.disconnect()


def reading(role: int = READING) -> Message:
    return Message("v1/telemetry/meter/M-1", b"{}", 0.0, role, None, 0)


async def test_a_receipt_is_the_answer_and_a_puback_is_none() -> None:
    async with connected() as ends:
        ends.outlet.send([reading()])
        question = await ends.question()
        assert question.response_topic == "v1/receipts/M-1/tester"
        await wait_until_async(lambda: ends.outlet._outbox.room == 10, what="the PUBACK has come")
        assert (ends.accepted, ends.outlet.unanswered(), ends.outlet.room) == ([], [reading()], 9)
        ends.tell(question, STORED)
        assert (await ends.session.expect(mqtt5.PubAckPacket)).packet_id == 7
        assert (ends.accepted, ends.outlet.unanswered(), ends.outlet.room) == ([reading()], [], 10)
        ends.tell(question, STORED)
        await ends.session.expect(mqtt5.PubAckPacket)
        assert len(ends.accepted) == 1, "told twice is answered once"


async def test_what_has_no_receipt_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.01)
    async with connected(seconds=0.05) as ends:
        ends.outlet.send([reading()])
        first, second = await ends.question(), await ends.question()
        assert (first.payload, first.correlation_data) == (second.payload, second.correlation_data)
        ends.tell(second, STORED | {"stored": 0, "repeated": 1})
        await ends.session.expect(mqtt5.PubAckPacket)
        assert (ends.accepted, ends.counts.repeated, ends.counts.published_again) == ([reading()], 1, 1)


@pytest.mark.parametrize(
    ("role", "receipt", "complaint"),
    [
        (READING, REFUSED, "by its receipt: too_old, why"),
        (READING, STORED | {"stored": 0, "conflict": 1}, "by its receipt: conflict"),
        (READING, STORED | {"stored": 0}, "by its receipt: it accounts for no reading"),
        (REFUSABLE, STORED, "by its receipt: a malformed message was not refused"),
        (REFUSABLE, REFUSED, None),
    ],
)
async def test_a_receipt_is_held_against_what_was_sent(role: int, receipt: Any, complaint: str | None) -> None:
    async with connected() as ends:
        ends.outlet.send([reading(role)])
        ends.tell(await ends.question(), receipt)
        await ends.session.expect(mqtt5.PubAckPacket)
        assert ends.refused == ([] if complaint is None else [complaint])
        assert len(ends.accepted) == (complaint is None)

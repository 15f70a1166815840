"""Devices that ask for receipts: a message is answered once its receipt has come, and sent again until then.

What a PUBACK is to other lanes, a receipt is here: so a run ends when every reading that was ever published is told as
stored, and whatever dies meanwhile costs nothing but repetitions.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import mqtt5

from loadgen.counts import Counts
from loadgen.messages import READING, REFUSABLE, Message
from mqtt.connection import Connection
from mqtt.errors import LinkError, PublishRefused
from mqtt.options import LinkOptions
from mqtt.outbox import OnAnswers, Outbox
from telemetry.receipts import RECEIPT_ROOT, receipt_topic

# Each time that no receipt comes the wait is twice as long, up to so many times.
PATIENCE_DOUBLED_MAX = 3
LOOK_SECONDS = 0.25

# For all connections: a receipt may come over the connection after that which asked for it.
_marks = itertools.count(1)


@dataclass(slots=True)
class _Asked:
    """A message that waits for its receipt."""

    message: Message
    response_topic: str
    mark: bytes
    sent_at: float
    times: int = 1

    @property
    def topic(self) -> str:
        return self.message.topic

    @property
    def payload(self) -> bytes:
        return self.message.payload


def _properties(asked: _Asked) -> dict[str, Any]:
    return {"response_topic": asked.response_topic, "correlation_data": asked.mark}


class AskingOutlet:
    """A connection whose messages are answered by receipts; make one with `open`."""

    def __init__(  # noqa: PLR0913 - what `open` was given
        self,
        connection: Connection,
        name: str,
        under_way_max: int,
        on_answers: OnAnswers[Message],
        *,
        seconds: float,
        counts: Counts,
    ) -> None:
        self.connection = connection
        self._name = name
        self._under_way_max = under_way_max
        self._on_answers = on_answers
        self._seconds = seconds
        self._counts = counts
        self._open: dict[bytes, _Asked] = {}
        # A PUBACK, or a refusal of the broker's, is nothing to go by: what has no receipt is sent again.
        self._outbox = Outbox[_Asked](connection, under_way_max, lambda *_: None, properties=_properties)
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        connection.on_closed(lambda _: self._timer.cancel())

    @classmethod
    async def open(  # noqa: PLR0913 - how it connects, and how its messages are answered
        cls,
        options: LinkOptions,
        under_way_max: int,
        on_answers: OnAnswers[Message],
        *,
        device: str | None,
        seconds: float,
        counts: Counts,
    ) -> Self:
        """Connect, and subscribe to the receipts of this connection; what has none after `seconds` is sent again.
        `device` is the only one that this connection is for, whose account may read no others.

        Raises LinkError.
        """
        made: list[Self] = []
        connection = await Connection.open(options, lambda line, packets: _told(line, packets, made))
        try:
            await connection.subscribe(f"{RECEIPT_ROOT}/{device or '+'}/{options.client_id}")
        except LinkError as error:
            connection.abort(error)
            raise
        made.append(cls(connection, options.client_id, under_way_max, on_answers, seconds=seconds, counts=counts))
        return made[0]

    # As an outbox

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        return min(self._outbox.room, self._under_way_max - len(self._open))

    def send(self, messages: Sequence[Message]) -> None:
        """Send at most `room` messages, in this order, each with its question."""
        now = time.monotonic()
        asked = [
            _Asked(message, receipt_topic(message.topic.rpartition("/")[2], self._name), b"%d" % next(_marks), now)
            for message in messages
        ]
        self._open.update((each.mark, each) for each in asked)
        self._outbox.send(asked)

    def unanswered(self) -> list[Message]:
        """What has no receipt, oldest first: it may be stored or not."""
        return [asked.message for asked in self._open.values()]

    async def disconnect(self) -> None:
        await self._outbox.disconnect()

    # How it works

    def take(self, packets: list[mqtt5.PublishPacket]) -> None:
        """Receipts; that of a message which was told before is taken no notice of."""
        accepted: list[Message] = []
        refused: list[tuple[Message, PublishRefused]] = []
        for packet in packets:
            asked = self._open.pop(packet.correlation_data or b"", None)
            if asked is None:
                continue
            receipt = json.loads(packet.payload)
            self._counts.repeated += asked.message.role == READING and receipt["repeated"]
            complaint = _complaint(receipt, asked.message.role)
            if complaint is None:
                accepted.append(asked.message)
            else:
                refused.append((asked.message, PublishRefused(0, f"by its receipt: {complaint}")))
        if accepted or refused:
            self._on_answers(accepted, refused)

    def _look(self) -> None:
        """Send again what has waited for too long, the oldest first."""
        now = time.monotonic()
        due = [asked for asked in self._open.values() if now - asked.sent_at > self._patience(asked)]
        again = due[: self._outbox.room]
        for asked in again:
            asked.sent_at = now
            asked.times += 1
        self._counts.published_again += sum(asked.message.role == READING for asked in again)
        self._counts.messages += len(again)
        if again:
            self._outbox.send(again)
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _patience(self, asked: _Asked) -> float:
        return float(self._seconds * 2 ** min(asked.times - 1, PATIENCE_DOUBLED_MAX))


def _told(connection: Connection, packets: list[mqtt5.PublishPacket], made: Sequence[AskingOutlet]) -> None:
    connection.acknowledge([packet.packet_id for packet in packets if packet.packet_id is not None])
    for outlet in made:
        outlet.take(packets)


def _complaint(receipt: dict[str, Any], role: int) -> str | None:
    """What is wrong about the receipt of one reading; None where it is as it should be."""
    if role == REFUSABLE:
        return None if len(receipt["refused"]) == 1 else "a malformed message was not refused"
    if receipt["refused"]:
        first = receipt["refused"][0]
        return f"{first['code']}, {first['reason']}"
    if receipt["conflict"]:
        return "conflict"
    return None if receipt["stored"] + receipt["repeated"] == 1 else "it accounts for no reading"

"""Packet ids and who waits for the broker's answer to each: both live and die with one connection.

An id is in use from its packet until its answer, whether or not anybody still waits for that: the broker holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container, Iterator
from typing import TypeVar

import mqtt5

from mqtt.errors import LinkError, LinkLost

PACKET_IDS = 65535

T = TypeVar("T")
Answer = mqtt5.PubAckPacket | mqtt5.SubAckPacket | mqtt5.UnsubAckPacket


def free_packet_ids(last: int, taken: Container[int]) -> Iterator[int]:
    """Ids after `last` that are not in use, one after the other; `taken` may grow meanwhile, and never holds all."""
    packet_id = last
    while True:
        packet_id = packet_id % PACKET_IDS + 1
        if packet_id not in taken:
            yield packet_id


class Answers:
    """The answers that are due on one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, asyncio.Future[Answer]] = {}
        self._last_packet_id = 0
        self._of_others: Collection[int] = ()

    def share_with(self, packet_ids: Collection[int]) -> Collection[int]:
        """Leave these ids alone from now on; the result are those that are in use here."""
        self._of_others = packet_ids
        return self._due

    def free_packet_id(self) -> int:
        """The next id that is not in use; `expect` takes it."""
        if len(self._due) + len(self._of_others) >= PACKET_IDS:
            raise LinkLost("all packet ids are in use")
        free = free_packet_ids(self._last_packet_id, self._due)
        return next(packet_id for packet_id in free if packet_id not in self._of_others)

    def expect(self, packet_id: int) -> asyncio.Future[Answer]:
        """The answer to the packet of this id, once it comes."""
        self._last_packet_id = packet_id
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._due[packet_id] = answer
        return answer

    def arrived(self, packet: Answer) -> None:
        """Hand an answer to the one who waits for it; one that nobody expects is ignored."""
        answer = self._due.pop(packet.packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(packet)

    def fail(self, error: LinkError) -> None:
        """No answer will come any more."""
        for answer in self._due.values():
            fail(answer, error)
        self._due.clear()


def fail(future: asyncio.Future[T], error: LinkError) -> None:
    """End the wait for `future`, if it is still on."""
    if not future.done():
        future.set_exception(error)
        # Where nobody waits any more (a publisher that gave up), that is not worth a warning.
        future.exception()

"""Sending receipts: within the broker's window, bounded, counted, and never in the way of readings; no broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from ingestor.metrics import IngestMetrics
from ingestor.receipts import sender as module
from ingestor.receipts.receipt import Receipt
from ingestor.receipts.sender import PAUSE_SECONDS, STRIKES_MAX, ReceiptSender
from ingestor.source import OnAnswers
from mqtt.errors import LinkError, LinkLost, PublishRefused
from telemetry.receipts import REFUSED_LISTED_MAX
from tests.unit.test_backlog import Clock, ScriptedChannel
from tests.waiting import wait_until_async

NOBODY, NOT_AUTHORIZED, TOO_LARGE = 0x10, 0x87, 0x95


class Line(ScriptedChannel):
    """A channel with an outlet; the test is the broker behind it."""

    def __init__(self, window: int = 100, size_max: int = 1_000_000) -> None:
        super().__init__()
        self.sent: list[Receipt] = []
        self.unanswered: list[Receipt] = []
        self._window, self._size_max = window, size_max

    def outlet(self, on_answers: OnAnswers, on_closed: Callable[[LinkError], None], /) -> Line:  # type: ignore[override]
        self._on_answers, self._on_closed = on_answers, on_closed
        return self

    @property
    def room(self) -> int:
        return self._window - len(self.unanswered) if self.is_open else 0

    def send(self, receipts: Sequence[Receipt], /) -> None:
        assert len(receipts) <= self.room
        large = [receipt for receipt in receipts if len(receipt.payload) > self._size_max]
        for receipt in receipts:
            if receipt not in large:
                self.sent.append(receipt)
                self.unanswered.append(receipt)
        if large:
            self._on_answers([], [(receipt, PublishRefused(TOO_LARGE, "too large")) for receipt in large])

    def answer(self, count: int, code: int = 0) -> None:
        answered, self.unanswered = self.unanswered[:count], self.unanswered[count:]
        refused = [(receipt, PublishRefused(code, "as told")) for receipt in answered] if code else []
        self._on_answers([] if code else answered, refused)

    def end(self) -> None:
        self.is_open = False
        self._on_closed(LinkLost("cut"))


class Laboratory:
    def __init__(self) -> None:
        self.clock, self.metrics = Clock(), IngestMetrics()
        self.sender = ReceiptSender(self.metrics, self.clock)

    def send(self, channel: ScriptedChannel | None, count: int = 1, refused: int = 0) -> list[Receipt]:
        receipts = [Receipt("v1/receipts/M/r", b"%d" % number, channel) for number in range(count)]
        for receipt in receipts:
            receipt.stored = 1
            for place in range(refused):
                receipt.refuse(place, "invalid_value", "x" * 100)
        self.sender.send(receipts)
        return receipts

    def count(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("wattline_receipts_total", {"outcome": outcome}) or 0.0


Story = Callable[[Laboratory], Coroutine[Any, Any, None]]


def told(story: Story) -> Laboratory:
    laboratory = Laboratory()
    asyncio.run(story(laboratory))
    return laboratory


def test_more_than_the_window_takes_follow_as_answers_come_in_their_order() -> None:
    async def story(laboratory: Laboratory) -> None:
        line = Line(window=3)
        receipts = laboratory.send(line, 5)
        assert line.sent == receipts[:3]
        line.answer(1)
        await wait_until_async(lambda: line.sent == receipts[:4], what="the fourth")
        line.answer(3)
        await wait_until_async(lambda: line.sent == receipts, what="the last")
        line.answer(1)
        assert laboratory.count("sent") == 5

    told(story)


def test_thousands_do_not_keep_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORTION", 10)

    async def story(laboratory: Laboratory) -> None:
        line = Line()
        receipts = laboratory.send(line, 25)
        assert line.sent == receipts[:10]
        await wait_until_async(lambda: line.sent == receipts, what="all of them")

    told(story)


@pytest.mark.parametrize(("code", "outcome"), [(NOBODY, "unsubscribed"), (NOT_AUTHORIZED, "refused"), (0, "sent")])
def test_each_is_counted_by_its_answer(code: int, outcome: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story(laboratory: Laboratory) -> None:
        line = Line()
        laboratory.send(line, 2)
        line.answer(2, code)
        assert laboratory.count(outcome) == 2

    told(story)
    assert ("needs the right to publish to v1/receipts/#" in caplog.text) == (code == NOT_AUTHORIZED)


def test_those_of_a_connection_that_has_ended_are_lost_and_those_of_the_next_one_go() -> None:
    async def story(laboratory: Laboratory) -> None:
        first, second = Line(window=2), Line()
        laboratory.send(first, 5)
        first.end()
        assert laboratory.count("lost") == 5
        laboratory.send(second, 2)
        second.answer(2)
        assert (laboratory.count("sent"), len(second.sent)) == (2, 2)

    told(story)


def test_a_receipt_that_is_too_large_is_told_without_its_list() -> None:
    async def story(laboratory: Laboratory) -> None:
        line = Line(size_max=200)
        laboratory.send(line, refused=REFUSED_LISTED_MAX + 1)
        await wait_until_async(lambda: line.sent, what="the short one")
        assert line.sent[0].payload == b'{"stored":1,"repeated":0,"conflict":0,"refused":[],"omitted":101}'
        laboratory.send(Line(size_max=10))
        assert laboratory.count("too_large") == 1

    told(story)


def test_what_waits_is_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(laboratory: Laboratory) -> None:
        line = Line(window=1)
        monkeypatch.setattr(module, "WAITING_MAX", 3)
        laboratory.send(line, 5)
        assert laboratory.count("no_room") == 2
        line.answer(1)
        monkeypatch.setattr(module, "WAITING_BYTES_MAX", 300)
        monkeypatch.setattr(module, "WAITING_MAX", 100)
        laboratory.send(line, 5)
        assert laboratory.count("no_room") == 5
        for _ in range(4):
            await wait_until_async(lambda: line.unanswered, what="the next")
            line.answer(1)
        line.end()
        assert laboratory.count("lost") == 0
        assert laboratory.count("sent") == 5
        again = Line()
        laboratory.send(again, 4)
        assert len(again.sent) == 4, "all room is there again"

    told(story)


def test_a_broker_that_ends_connections_for_receipts_gets_none_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def story(laboratory: Laboratory) -> None:
        for _ in range(STRIKES_MAX):
            line = Line()
            laboratory.send(line)
            assert line.sent
            line.end()
        withheld = Line()
        laboratory.send(withheld, 3)
        assert (withheld.sent, laboratory.count("withheld")) == ([], 3)
        laboratory.clock.now += PAUSE_SECONDS + 1
        laboratory.send(withheld)
        withheld.answer(1)
        assert laboratory.count("sent") == 1

    told(story)
    assert caplog.text.count("the broker ended 3 connections in a row") == 1


def test_connections_that_end_as_connections_do_are_no_reason_to_stop() -> None:
    async def story(laboratory: Laboratory) -> None:
        for _ in range(3 * STRIKES_MAX):
            line = Line()
            laboratory.send(line, 2)
            line.answer(1)
            line.end()
        assert laboratory.count("withheld") == 0

    told(story)


def test_a_channel_that_only_receives_tells_nobody() -> None:
    async def story(laboratory: Laboratory) -> None:
        laboratory.send(ScriptedChannel(), 2)
        laboratory.send(None)
        assert laboratory.count("withheld") == 3

    told(story)


def test_a_stop_waits_for_the_last_ones_but_not_for_long(caplog: pytest.LogCaptureFixture) -> None:
    async def story(laboratory: Laboratory) -> None:
        line = Line(window=1)
        line.pause_reading()
        receipts = laboratory.send(line, 3)
        finishing = asyncio.create_task(laboratory.sender.finish(30))
        await wait_until_async(lambda: line.is_reading, what="the broker's answers are read")
        for count in (2, 3):
            line.answer(1)
            await wait_until_async(lambda count=count: len(line.sent) == count, what="the next")
        await finishing
        assert line.sent == receipts
        laboratory.send(line)
        await laboratory.sender.finish(0.01)

    told(story)
    assert "stopping with 1 receipts unsent" in caplog.text

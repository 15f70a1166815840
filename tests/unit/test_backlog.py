"""The backlog: batches fill, wait, are written and acknowledged, in any order of events; no clock, no socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import mqtt5
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingestor.backlog import HELD_SECONDS, Backlog, PendingLimits
from ingestor.batch import Batch, FlushPolicy
from ingestor.clocks import Clocks
from ingestor.decode import Decoder
from ingestor.metrics import IngestMetrics
from ingestor.rejected.limit import KeepLimit
from ingestor.window import BrokerWindow
from telemetry.rules import Rules
from tests.devices import iso
from tests.examples import examples

NOW = datetime(2026, 1, 31, 14, 0, tzinfo=UTC)
INTERVAL = 0.25
ROWS_MAX = 8
PENDING_ROWS_MAX = 20
WINDOW = 12


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedChannel:
    """A channel that remembers what was done to it."""

    def __init__(self) -> None:
        self.is_open = True
        self.is_reading = True
        self.acknowledged: list[int] = []
        self.ended: list[str] = []

    def acknowledge(self, packet_ids: Sequence[int], /) -> bool:
        if self.is_open:
            self.acknowledged += packet_ids
        return self.is_open

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def deliver_again(self, why: str, /) -> None:
        self.is_open = False
        self.ended.append(why)

    def outlet(self, *_: object) -> None:
        """It only receives."""


def make_backlog(clock: Clock, clocks: Clocks | None = None, window: int = WINDOW) -> Backlog:
    keep_limit = KeepLimit(1000, clock)
    return Backlog(
        decoder=Decoder(Rules(), keep_limit=keep_limit),
        clocks=clocks or Clocks(300, now=NOW.timestamp, monotonic=clock),
        policy=FlushPolicy(interval_seconds=INTERVAL, rows_max=ROWS_MAX, bytes_max=100_000),
        limits=PendingLimits(rows=PENDING_ROWS_MAX, payload_bytes=1_000_000),
        window=BrokerWindow(window),
        metrics=IngestMetrics(),
        monotonic=clock,
    )


_moments = itertools.count(1)


def message(packet_id: int | None, readings: int = 1, response_topic: str | None = None) -> mqtt5.PublishPacket:
    """An array of so many readings that nobody has sent before, with QoS 1 where it has a packet id."""
    payload = [
        {
            "meterId": "M",
            "kwhConsumedAc": 1.0,
            "voltage": 230.0,
            "timestamp": iso(NOW - timedelta(milliseconds=next(_moments))),
        }
        for _ in range(readings)
    ]
    qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE
    content = json.dumps(payload).encode()
    return mqtt5.PublishPacket(
        "v1/telemetry/meter/M", content, qos=qos, packet_id=packet_id, response_topic=response_topic
    )


def test_a_batch_is_due_after_its_interval_and_acknowledged_once_it_is_settled() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock)
    backlog.receive(channel, [message(1), message(2)])
    assert backlog.due() is None
    clock.now += INTERVAL
    due = backlog.due()
    assert due is not None
    batch, trigger = due
    assert (trigger, batch.readings) == ("interval", 2)
    assert (backlog.pending(), backlog.inflight(), channel.acknowledged) == (2, 2, [])
    backlog.settled(batch, {})
    assert (backlog.pending(), backlog.inflight(), channel.acknowledged) == (0, 0, [1, 2])


def test_a_full_window_makes_a_batch_due_at_once() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock, window=2)
    backlog.receive(channel, [message(1)])
    assert backlog.due() is None
    backlog.receive(channel, [message(2)])
    due = backlog.due()
    assert due is not None
    assert due[1] == "rows"


def test_reading_pauses_over_the_limit_and_goes_on_once_a_batch_is_settled() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock)
    backlog.receive(channel, [message(None, PENDING_ROWS_MAX)])
    assert channel.is_reading, "at the limit is not over it"
    backlog.receive(channel, [message(None)])
    assert not channel.is_reading
    due = backlog.due()
    assert due is not None
    backlog.settled(due[0], {})
    assert channel.is_reading


def test_reading_pauses_while_the_clocks_disagree() -> None:
    clock, channel = Clock(), ScriptedChannel()
    clocks = Clocks(300, now=NOW.timestamp, monotonic=clock)
    backlog = make_backlog(clock, clocks)
    clocks.judge(3600.0)
    backlog.receive(channel, [message(1)])
    assert not channel.is_reading
    backlog.read_on()
    assert not channel.is_reading
    clocks.judge(0.0)
    backlog.read_on()
    assert channel.is_reading


def test_what_is_locked_waits_and_holds_up_the_acknowledgements_behind_it_but_no_reading() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock)
    backlog.receive(channel, [message(1, ROWS_MAX)])
    first = backlog.due()
    assert first is not None
    locked = first[0].rows["meter"][:3]
    backlog.settled(first[0], {"meter": locked})
    assert (backlog.held(), channel.acknowledged) == (3, [])
    backlog.receive(channel, [message(2, ROWS_MAX)])
    second = backlog.due()
    assert second is not None
    assert second[0].blocked, "a batch behind a lock does not wait for it"
    backlog.settled(second[0], {})
    assert channel.acknowledged == []
    rest = backlog.due()
    assert rest is not None
    assert rest[0].rows["meter"] == locked
    backlog.settled(rest[0], {"meter": locked[:1]})
    assert (backlog.due(), channel.acknowledged) == (None, []), "not before its time"
    clock.now += HELD_SECONDS
    rest = backlog.due()
    assert rest is not None
    backlog.settled(rest[0], {})
    assert (channel.acknowledged, backlog.inflight(), backlog.pending()) == ([1, 2], 0, 0)


def test_what_joins_locked_rows_behind_a_fault_is_acknowledged_with_them_and_in_its_turn() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock)
    for packet_id, locked in ((1, 2), (2, 0)):
        backlog.receive(channel, [message(packet_id, ROWS_MAX)])
        due = backlog.due()
        assert due is not None
        backlog.settled(due[0], {"meter": due[0].rows["meter"][:locked]} if locked else {})
    rest = backlog.due()
    assert rest is not None
    backlog.receive(channel, [message(3)])
    backlog.join_waiting(rest[0])
    backlog.settled(rest[0], {"meter": rest[0].rows["meter"][:1]})
    assert channel.acknowledged == []
    clock.now += HELD_SECONDS
    rest = backlog.due()
    assert rest is not None
    backlog.settled(rest[0], {})
    assert (channel.acknowledged, backlog.inflight(), backlog.pending()) == ([1, 2, 3], 0, 0)


def test_a_batch_that_is_not_accounted_for_is_delivered_again_and_holds_nobody_up() -> None:
    clock, first, second = Clock(), ScriptedChannel(), ScriptedChannel()
    backlog = make_backlog(clock)
    backlog.receive(first, [message(1, ROWS_MAX)])
    due = backlog.due()
    assert due is not None
    backlog.settled(due[0], {"meter": due[0].rows["meter"][:1]})
    rest = backlog.due()
    assert rest is not None
    backlog.deliver_again(rest[0], "the books do not add up")
    assert (first.ended, first.acknowledged) == (["the books do not add up"], [])
    backlog.receive(second, [message(1, ROWS_MAX)])
    due = backlog.due()
    assert due is not None
    backlog.settled(due[0], {})
    assert (second.acknowledged, backlog.inflight()) == ([1], 0)


def test_after_a_stop_everything_but_the_held_is_written_and_then_there_is_nothing_more() -> None:
    async def story() -> None:
        clock, channel = Clock(), ScriptedChannel()
        backlog = make_backlog(clock)
        backlog.receive(channel, [message(1, ROWS_MAX)])
        backlog.receive(channel, [message(2)])
        backlog.stop(channel)
        assert not channel.is_reading
        full = await backlog.next()
        assert full is not None
        backlog.settled(full[0], {"meter": full[0].rows["meter"][:1]})
        rest = await backlog.next()
        assert rest is not None
        assert (full[1], rest[1], rest[0].readings) == ("rows", "shutdown", 1)
        backlog.settled(rest[0], {})
        assert await backlog.next() is None
        assert backlog.held() == 1
        assert not channel.is_reading

    asyncio.run(story())


@pytest.mark.parametrize("what", ["a message", "a stop"])
def test_who_waits_for_a_batch_is_woken(what: str) -> None:
    async def story() -> None:
        clock, channel = Clock(), ScriptedChannel()
        backlog = make_backlog(clock)
        waiting = asyncio.create_task(backlog.next())
        await asyncio.sleep(0)
        if what == "a message":
            backlog.receive(channel, [message(1, ROWS_MAX)])
            due = await asyncio.wait_for(waiting, 10)
            assert due is not None
            assert due[1] == "rows"
        else:
            backlog.stop(None)
            assert await asyncio.wait_for(waiting, 10) is None

    asyncio.run(story())


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: the books balance, nothing is lost, nothing is acknowledged out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.backlog = make_backlog(self.clock)
        self.channel = ScriptedChannel()
        self.sent: dict[ScriptedChannel, list[int]] = {self.channel: []}
        self.readings = self.settled = 0
        self.out: Batch | None = None
        self.stopping = False

    @precondition(lambda self: self.channel.is_reading and not self.stopping)
    @rule(qos=st.sampled_from([1, 1, 0]), counts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
    def messages_come(self, qos: int, counts: list[int]) -> None:
        packets = []
        for count in counts:
            packet_id = None
            if qos:
                packet_id = len(self.sent[self.channel]) + 1
                self.sent[self.channel].append(packet_id)
            packets.append(message(packet_id, count))
            self.readings += count
        self.backlog.receive(self.channel, packets)

    @precondition(lambda self: self.out is None)
    @rule(seconds=st.sampled_from([INTERVAL, 0.1, HELD_SECONDS]))
    def the_writer_asks(self, seconds: float) -> None:
        self.clock.now += seconds
        if (due := self.backlog.due()) is not None:
            self.out, _ = due
            assert self.out.readings > 0

    @precondition(lambda self: self.out is not None)
    @rule(locked=st.sampled_from([1, 0, 3]), fault=st.booleans(), balanced=st.integers(0, 7).map(bool))
    def the_batch_is_done(self, locked: int, fault: bool, balanced: bool) -> None:
        assert self.out is not None
        if fault:
            self.backlog.join_waiting(self.out)
        rows = self.out.rows["meter"]
        if balanced:
            self.settled += self.out.readings - min(locked, len(rows))
            self.backlog.settled(self.out, {"meter": rows[:locked]} if locked else {})
        else:
            self.settled += self.out.readings
            self.backlog.deliver_again(self.out, "the books do not add up")
            assert self.backlog._channel is not self.channel or not self.channel.is_open
            self.the_connection_ends()
        self.out = None

    # Both late, or most stories would be short ones.
    @precondition(lambda self: len(self.sent[self.channel]) > WINDOW)
    @rule()
    def the_connection_ends(self) -> None:
        self.channel.is_open = False
        self.channel = ScriptedChannel()
        self.sent[self.channel] = []

    @precondition(lambda self: not self.stopping and self.settled > 4 * PENDING_ROWS_MAX)
    @rule()
    def it_is_told_to_stop(self) -> None:
        self.backlog.stop(self.channel)
        self.stopping = True

    @invariant()
    def the_books_balance(self) -> None:
        assert self.backlog.pending() == self.readings - self.settled

    @invariant()
    def acknowledgements_are_in_the_order_of_receiving(self) -> None:
        for channel, sent in self.sent.items():
            assert channel.acknowledged == sent[: len(channel.acknowledged)]

    @invariant()
    def no_acknowledgement_is_forgotten(self) -> None:
        left = {channel: len(sent) - len(channel.acknowledged) for channel, sent in self.sent.items()}
        assert left[self.channel] <= self.backlog.inflight() <= sum(left.values())

    @invariant()
    def reading_is_paused_exactly_while_over_the_limits(self) -> None:
        under_way = len(self.sent[self.channel]) - len(self.channel.acknowledged)
        over = self.backlog.pending() > PENDING_ROWS_MAX or under_way > WINDOW
        if self.backlog._channel is self.channel:
            assert self.channel.is_reading == (not over and not self.stopping)

    def teardown(self) -> None:
        """Everything can be written in the end, and what is owed is acknowledged."""
        for _ in range(200):
            self.clock.now += HELD_SECONDS
            if self.out is None and (due := self.backlog.due()) is not None:
                self.out, _ = due
            if self.out is None:
                break
            self.settled += self.out.readings
            self.backlog.settled(self.out, {})
            self.out = None
        if not self.stopping:
            assert self.backlog.pending() == self.backlog.inflight() == 0
            assert self.channel.acknowledged == self.sent[self.channel]


AnyOrder.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


def test_what_comes_when_nobody_writes_any_more_is_left_to_the_broker() -> None:
    clock, channel = Clock(), ScriptedChannel()
    backlog = make_backlog(clock)
    backlog.receive(channel, [message(1)])
    backlog.stop(channel)
    due = backlog.due()
    assert due is not None
    backlog.settled(due[0], {})
    assert asyncio.run(backlog.next()) is None
    backlog.receive(channel, [message(2)])
    assert (backlog.pending(), backlog.inflight(), channel.acknowledged) == (0, 0, [1])

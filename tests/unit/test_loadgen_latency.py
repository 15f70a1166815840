"""A broker that stalls shows in the latency: an open loop counts from when each reading was due, not from its sending.

A generator that waits for the broker and counts from the sending would report a short latency for every reading that
it held back (coordinated omission).
"""

from __future__ import annotations

import asyncio
import io
import time
from random import Random

import mqtt5
import pytest

from config.settings import load_settings
from loadgen import publisher
from loadgen.counts import Counts
from loadgen.fleet import make_fleet
from loadgen.progress import Progress
from loadgen.run import Run, run_fleet
from loadgen.schedule import ClosedLoop, OpenLoop, Pace
from tests.fake_broker import FakeBroker, puback

PER_SECOND, MESSAGES, STALL_SECONDS = 200.0, 100, 0.4
# Due until the stall's last tenth of a second: each of them waited for at least that long.
HELD_UP = int((STALL_SECONDS - 0.1) * PER_SECOND)


@pytest.fixture(autouse=True)
def narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fewer under way and waiting than fall due during the stall."""
    monkeypatch.setattr(publisher, "OUTSTANDING_MAX", 5)
    monkeypatch.setattr(publisher, "WAITING_MAX", 5)


def run_through_a_stall(pace: Pace) -> tuple[Run, float]:
    """A run against a broker that holds its first answers back, and for how long it did."""
    points, counts = make_fleet({"meter": 1, "vehicle": 1}, "LOAD", Random(1)), Counts()
    run = Run(points, pace, 1, Random(1), counts, None, Progress(counts, None, stream=io.StringIO()))

    async def stall_and_answer() -> float:
        async with FakeBroker() as broker, asyncio.timeout(20):
            running = asyncio.create_task(run_fleet(run, load_settings(mqtt_url=f"mqtt://127.0.0.1:{broker.port}")))
            session = await broker.welcome()
            first = await session.expect(mqtt5.PublishPacket)
            started = time.monotonic()
            await asyncio.sleep(STALL_SECONDS)  # the stall itself
            session.send(puback(first.packet_id))
            stalled = time.monotonic() - started
            for _ in range(MESSAGES - 1):
                session.send(puback((await session.expect(mqtt5.PublishPacket)).packet_id))
            await running
            return stalled

    return run, asyncio.run(stall_and_answer())


def test_an_open_loop_counts_what_fell_due_during_the_stall() -> None:
    run, stalled = run_through_a_stall(OpenLoop(2, PER_SECOND, None, MESSAGES))
    assert (run.counts.acknowledged, run.counts.left_out, run.counts.not_sent) == (MESSAGES, 0, 0)
    assert run.latency.count == MESSAGES
    assert run.latency.longest_seconds >= stalled
    # Of those that were held up, the one with the shortest latency; all others are allowed to have been quick.
    assert run.latency.quantile(1 - (HELD_UP - 1) / MESSAGES) >= 0.1 * 0.99


def test_a_closed_loop_waits_with_the_broker_and_only_what_was_under_way_is_late() -> None:
    run, stalled = run_through_a_stall(ClosedLoop(2, None, MESSAGES))
    assert run.counts.acknowledged == run.latency.count == MESSAGES
    assert run.latency.longest_seconds >= stalled
    held_up_at_most = 5 + 5
    assert run.latency.quantile(1 - (held_up_at_most + 1) / MESSAGES) < stalled / 2

"""One run of the fleet, from the first connection to the last acknowledgement: connect, publish by schedule, drain.

The only wiring of schedule, fleet, lanes and progress. It never verifies and never prints a result; what happened is
in `Counts` (and in `Record`, where one is asked for) however the run ended.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from config.settings import Settings
from loadgen.counts import Counts
from loadgen.fleet import ChargingPoint, read_point
from loadgen.progress import Progress
from loadgen.publisher import Lane, workers_per_lane
from loadgen.record import Record
from loadgen.schedule import Schedule
from telemetry.errors import LinkError
from telemetry.mqtt import Link, LinkOptions

logger = logging.getLogger(__name__)

# A timed run is somebody waiting for a result: a broker that is not there by then will not come.
CONNECT_SECONDS_MAX = 10.0
# At the end of a timed run, for answers under way and a broker that is just coming back. An endless run has nobody who
# asks what became of its last readings.
DRAIN_SECONDS_TIMED = 10.0
DRAIN_SECONDS_ENDLESS = 2.0


@dataclass(frozen=True)
class Run:
    """What to run. The points are changed by it; counts and record are its result."""

    points: Sequence[ChargingPoint]
    schedule: Schedule
    connections: int
    rng: Random
    counts: Counts
    record: Record | None
    progress: Progress


async def run_fleet(run: Run, settings: Settings) -> None:
    """Publish until the schedule ends, or SIGINT or SIGTERM.

    Raises LinkError when the broker cannot be reached at the start of a timed run, and LinkRefused whenever it will not
    serve us; an endless run waits for the broker, however long.
    """
    stop = asyncio.Event()
    with _stopping_signals(stop):
        async with AsyncExitStack() as stack:
            links = await _connect(stack, run, settings, stop)
            if stop.is_set():
                return
            logger.info("publishing to the broker at %s over %d connections", settings.broker, len(links))
            started = time.monotonic()
            try:
                await _publish(run, [Lane(link, run.counts, run.record) for link in links], stop)
            except ExceptionGroup as group:
                refused, others = group.split(LinkError)
                if refused is None or others is not None:
                    raise
                raise refused.exceptions[0] from None
            finally:
                run.counts.seconds = time.monotonic() - started


async def _connect(stack: AsyncExitStack, run: Run, settings: Settings, stop: asyncio.Event) -> list[Link]:
    """The first connection alone, so that a missing broker is reported once; then the others at the same time.

    Told to stop, it returns what it has.
    """
    # Random, so that two runs never take each other's session.
    name = f"wattline-loadgen-{secrets.token_hex(3)}"
    timeout = CONNECT_SECONDS_MAX if run.schedule.turns is not None else None
    links: list[Link] = []
    for wanted in (1, run.connections):
        fresh = [
            Link(LinkOptions.from_settings(settings, client_id=f"{name}-{number}"))
            for number in range(len(links) + 1, wanted + 1)
        ]
        for link in fresh:
            await stack.enter_async_context(link)
        await _unless_stopped(stop, _all_connected(fresh, timeout))
        if stop.is_set():
            break
        links += fresh
    return links


async def _all_connected(links: Sequence[Link], timeout: float | None) -> None:  # noqa: ASYNC109 - the links' own
    for link in links:
        await link.wait_connected(timeout)


async def _publish(run: Run, lanes: Sequence[Lane], stop: asyncio.Event) -> None:
    """Raises an ExceptionGroup of LinkRefused."""
    duration = run.schedule.duration_seconds
    drain_seconds = DRAIN_SECONDS_ENDLESS if duration is None else DRAIN_SECONDS_TIMED
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(run.progress.run(), name="progress")]
        for lane in lanes:
            background += lane.start(group, workers_per_lane(lanes))
        producing = group.create_task(_produce(run, lanes), name="schedule")
        stopping = group.create_task(stop.wait(), name="stop")
        # The schedule may end late, held up by full lanes; then the time for the last answers is already over.
        limit = None if duration is None else duration + drain_seconds
        ended, _ = await asyncio.wait({producing, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        producing.cancel()
        try:
            async with asyncio.timeout(drain_seconds if ended else 0.0):
                for lane in lanes:
                    await lane.drained()
        except TimeoutError:
            logger.warning("gave up waiting; readings not acknowledged: %d", run.counts.unacknowledged)
        for task in (*background, stopping):
            task.cancel()


async def _produce(run: Run, lanes: Sequence[Lane]) -> None:
    """Make each reading when it is due and hand it to its lane; the loop costs 11 µs a point, its readings included."""
    schedule, points, rng = run.schedule, run.points, run.rng
    started = time.monotonic()
    turn, turns = 0, schedule.turns
    while turns is None or turn < turns:
        elapsed = time.monotonic() - started
        ahead = schedule.due(turn) - elapsed
        if ahead > 0:
            await asyncio.sleep(ahead)
        elif left_out := schedule.left_out(turn, elapsed):
            turn += left_out
            run.counts.left_out += left_out
            continue
        place = schedule.point_of(turn)
        for reading in read_point(points[place], time.time_ns() // 1000, schedule.interval_seconds, rng):
            await lanes[place % len(lanes)].put(reading)
        turn += 1


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, which is cancelled when somebody asks us to stop; raises what it raises."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        working.cancel()
        stopping.cancel()


@contextmanager
def _stopping_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`; a second one ends the process as it always does."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def leave_to_system() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def on_signal(number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        leave_to_system()
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        leave_to_system()

"""One run of the fleet, from the first connection to the last acknowledgement: connect, publish by its pace, drain.

The only wiring of pace, script, lanes and progress. It never verifies and never prints a result; what happened is
in `Counts` (and in `Evidence`, where one is asked for) however the run ended.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from access.lists import Entry
from config.settings import Settings
from loadgen.committed import Committed
from loadgen.counts import Counts
from loadgen.dialler import Dialler
from loadgen.evidence import Evidence
from loadgen.fleet import Point
from loadgen.histogram import Histogram
from loadgen.messages import Faults, MessageMaker
from loadgen.progress import Progress
from loadgen.publisher import Lane, Switchboard, Traffic, under_way_per_lane, waiting_per_lane
from loadgen.schedule import ClosedLoop, OpenLoop, Pace, Schedule
from loadgen.script import BackfillScript, FleetScript, RateScript, Script
from loadgen.templates import Templates
from mqtt.errors import LinkError

logger = logging.getLogger(__name__)

# A timed run is somebody waiting for a result: a broker that is not there by then will not come.
CONNECT_SECONDS_MAX = 10.0
# At the end of a timed run, for answers under way and a broker that is just coming back. An endless run has nobody who
# asks what became of its last readings.
DRAIN_SECONDS_TIMED = 10.0
DRAIN_SECONDS_ENDLESS = 2.0
# Whoever waits for receipts waits for a broker and a database that come back, and for the longest patience of a device.
DRAIN_SECONDS_RECEIPTS = 90.0
# A run that ends with a number of messages would otherwise wait for ever for a broker that is gone.
AWAY_SECONDS_MAX = 10.0
# After the last acknowledgement, for samples that are not in the tables yet.
SETTLE_SECONDS = 10.0
# Script made at a time before the loop may read answers; the pause makes batches of them at high rates.
BATCH_MAX = 500
TICK_SECONDS = 0.001
LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Run:
    """What to run. The points are changed by it; counts, evidence, latency and committed are its result."""

    points: Sequence[Point]
    schedule: Pace
    connections: int
    rng: Random
    counts: Counts
    evidence: Evidence | None
    progress: Progress
    faults: Faults = field(default_factory=Faults)
    mqtt_version: str = "5"
    qos: int = 1
    past_from_us: int | None = None
    """Where a backfill begins (microseconds since 1970); None = readings of now."""
    latency: Histogram = field(default_factory=Histogram)
    committed: Committed | None = None
    accounts: Mapping[str, Entry] | None = None
    """Of every device, by its id, where each connects by itself; then `connections` counts the devices."""
    receipt_seconds: float | None = None
    """Devices ask for receipts, and send again what has none after this long; None = a PUBACK is enough."""

    @property
    def bounded(self) -> bool:
        """Whether it ends by itself."""
        return self.schedule.turns is not None or self.schedule.duration_seconds is not None

    @property
    def drain_seconds(self) -> float:
        """How long to wait for the last answers."""
        if not self.bounded:
            return DRAIN_SECONDS_ENDLESS
        return DRAIN_SECONDS_TIMED if self.receipt_seconds is None else DRAIN_SECONDS_RECEIPTS

    def script(self) -> Script:
        maker = MessageMaker(self.faults, self.counts, self.evidence, self.rng, self.committed)
        if isinstance(self.schedule, Schedule):
            return FleetScript(self.points, self.schedule.interval_seconds, self.rng, maker)
        templates = Templates(self.points, self.rng)
        if self.past_from_us is not None:
            return BackfillScript(templates, self.past_from_us, maker)
        return RateScript(templates, maker)


async def run_fleet(run: Run, settings: Settings) -> None:
    """Publish until the schedule ends, or SIGINT, SIGTERM or SIGHUP.

    Raises LinkError when the broker cannot be reached at the start of a timed run, and LinkRefused whenever it will not
    serve us; an endless run waits for the broker, however long.
    """
    stop = asyncio.Event()
    traffic = Traffic(run.counts, run.latency, run.qos)
    waiting_max = waiting_per_lane(run.connections)
    ways: Sequence[Lane | Switchboard]
    if run.accounts is None:
        ways = lanes = [Lane(number, traffic, waiting_max) for number in range(run.connections)]
    else:
        devices = [device for point in run.points for device in point.devices]
        lanes = [Lane(n, traffic, waiting_max, run.accounts[device.id]) for n, device in enumerate(devices)]
        ways = [Switchboard({device.topic: lane for device, lane in zip(devices, lanes, strict=True)})]
    dialler = Dialler(
        lanes,
        settings,
        under_way_per_lane(run.connections),
        mqtt_version=run.mqtt_version,
        qos=run.qos,
        receipt_seconds=run.receipt_seconds,
    )
    with _stopping_signals(stop):
        try:
            async with asyncio.TaskGroup() as group:
                background = dialler.start(group)
                timeout = CONNECT_SECONDS_MAX if run.bounded else None
                await _unless_stopped(stop, dialler.connect_all(timeout))
                if not stop.is_set():
                    logger.info("publishing to the broker at %s over %d connections", settings.broker, len(lanes))
                    background.append(group.create_task(run.progress.run(), name="progress"))
                    if run.committed is not None:
                        background.append(group.create_task(run.committed.run(), name="committed"))
                    await _publish(run, ways, traffic, dialler, stop)
                    # Samples of what was never acknowledged may never come.
                    if run.committed is not None and not stop.is_set() and not traffic.pending:
                        await _unless_stopped(stop, run.committed.settle(SETTLE_SECONDS))
                for task in background:
                    task.cancel()
        except ExceptionGroup as group_error:
            refused, others = group_error.split(LinkError)
            if refused is None or others is not None:
                raise
            raise refused.exceptions[0] from None
        finally:
            await dialler.close()


async def _publish(
    run: Run, ways: Sequence[Lane | Switchboard], traffic: Traffic, dialler: Dialler, stop: asyncio.Event
) -> None:
    """Until all is sent and answered, or nobody can wait any longer for that. Turns are shared out among the `ways`."""
    lanes = dialler.lanes
    started, cpu_started = time.monotonic(), time.process_time()
    duration = run.schedule.duration_seconds
    drain_seconds = run.drain_seconds
    # The schedule may end late, held up by full lanes; then the time for the last answers is already over.
    limit = None if duration is None else duration + drain_seconds
    producer = Producer(run, ways, traffic, started)
    producing = asyncio.create_task(producer.run(), name="schedule")
    try:
        while not producing.done() and not stop.is_set():
            await asyncio.wait({producing}, timeout=LOOK_SECONDS * 5)
            if limit is not None and time.monotonic() - started > limit:
                break
            if duration is None and run.bounded and dialler.away_for() > AWAY_SECONDS_MAX:
                break
        ended = producing.done()
        if ended:
            producing.result()
        if not ended and not stop.is_set():
            run.counts.not_sent = producer.overdue()
        producing.cancel()  # where somebody stops a run, nothing new is published while the last answers come
        deadline = time.monotonic() + (drain_seconds if ended or stop.is_set() else 0.0)
        while traffic.pending and time.monotonic() < deadline:
            if run.qos == 0:
                for lane in lanes:
                    lane.flush()
            await traffic.wait(LOOK_SECONDS)
        if traffic.pending:
            why = f" ({dialler.reason})" if dialler.connected < len(lanes) else ""
            logger.warning("gave up waiting; readings not acknowledged: %d%s", run.counts.unacknowledged, why)
    finally:
        producing.cancel()
        run.counts.not_sent += sum(lane.never_sent for lane in lanes)
        run.counts.seconds = time.monotonic() - started
        run.counts.cpu_seconds = time.process_time() - cpu_started


class Producer:
    """Makes each reading when it is due and hands it to its lane."""

    def __init__(self, run: Run, lanes: Sequence[Lane | Switchboard], traffic: Traffic, started: float) -> None:
        self._pace = run.schedule
        self._counts = run.counts
        self._script = run.script()
        self._lanes = lanes
        self._traffic = traffic
        self._started = started
        self._turn = 0

    async def run(self) -> None:
        """Until the pace has no more turns."""
        pace, turns = self._pace, self._pace.turns
        closed = isinstance(pace, ClosedLoop)
        duration = pace.duration_seconds if closed else None
        while turns is None or self._turn < turns:
            elapsed = time.monotonic() - self._started
            if duration is not None and elapsed >= duration:
                return
            if not self._batch(
                elapsed, self._turn + BATCH_MAX if turns is None else min(turns, self._turn + BATCH_MAX)
            ):
                await self._traffic.wait(LOOK_SECONDS)
            elif closed:
                await asyncio.sleep(0)
            else:
                ahead = pace.due(self._turn) - (time.monotonic() - self._started)
                await asyncio.sleep(0 if ahead <= 0 else max(ahead, TICK_SECONDS))

    def overdue(self) -> int:
        """Script of a rate that should have been sent by now."""
        if not isinstance(self._pace, OpenLoop):
            return 0
        turns = int((time.monotonic() - self._started) * self._pace.per_second)
        return max(0, min(turns, turns if self._pace.turns is None else self._pace.turns) - self._turn)

    def _batch(self, elapsed: float, end: int) -> bool:
        """The turns that are due, up to `end`; False when a lane took no more. A hot path: 2.5 µs a reading."""
        pace, lanes, script, started = self._pace, self._lanes, self._script, self._started
        closed, count = isinstance(pace, ClosedLoop), len(lanes)
        touched: dict[int, Lane | Switchboard] = {}
        turn, room = self._turn, True
        while turn < end:
            due = elapsed if closed else pace.due(turn)
            if due > elapsed:
                break
            if left_out := pace.left_out(turn, elapsed):
                turn += left_out
                self._counts.left_out += left_out
                continue
            number = pace.point_of(turn) % count
            lane = lanes[number]
            if lane.full:
                lane.flush()
                if lane.full:
                    room = False
                    break
            for message in script.messages(turn, started + due):
                lane.put(message)
            touched[number] = lane
            turn += 1
        self._turn = turn
        for lane in touched.values():
            lane.flush()
        return room


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
    """The first SIGINT, SIGTERM or SIGHUP (a closed terminal) sets `stop`; a second one ends the process as always."""
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
        signals.append(signal.SIGHUP)

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

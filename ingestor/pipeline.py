"""Source → decode → batch → sink, and the acknowledgement back: the only place where they are wired together.

Messages are decoded as they arrive into the open batch; one task writes closed batches in order, and acknowledges each
after its COMMIT. While one batch is written the next one fills. What bounds memory: for QoS 1 the broker's window, for
bytes, arrays and QoS 0 a pause in reading. A batch is only ever committed and acknowledged, or kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

import mqtt5
import psycopg

from config.backoff import backoff_seconds
from ingestor.batch import VALID_CODES, Batch, FlushPolicy, Trigger
from ingestor.clock_watch import ClockWatch
from ingestor.decode import CLOCK_CODES, Decoder
from ingestor.metrics import IngestMetrics
from ingestor.rejected.spool import Spool
from ingestor.seldom import Seldom
from ingestor.sink import Outcome, Sink
from ingestor.window import BrokerWindow
from mqtt.connection import Connection
from mqtt.errors import LinkLost
from postgres.failures import FailureKind, failure_kind
from postgres.trouble import NO_ANSWER, trouble_with
from postgres.words import explain

logger = logging.getLogger(__name__)

# Soon at first, because most failures are over at once (a deadlock, a failover); then patient.
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 2.0
# A bug or a missing permission needs a person: trying is cheap, but not twenty times a minute.
FAULT_RETRY_SECONDS = 15.0
# Readings that wait for somebody's lock are tried again so often; each try is over in a moment.
HELD_SECONDS = 2.0
# The largest batch takes about a second. A server that hangs, or a proxy before one, may never answer nor fail.
SILENCE_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class PendingLimits:
    """How much may wait in memory before reading pauses."""

    rows: int
    payload_bytes: int


class Pipeline:
    """Everything between the connection and the database. All methods belong to one event loop."""

    def __init__(  # noqa: PLR0913 - the parts it wires together
        self,
        *,
        clocks: ClockWatch,
        decoder: Decoder,
        policy: FlushPolicy,
        limits: PendingLimits,
        window: BrokerWindow,
        sink: Sink,
        spool: Spool,
        metrics: IngestMetrics,
        database_label: str,
    ) -> None:
        self._clock_watch, self._clocks = clocks, clocks.clocks
        self._decoder = decoder
        self._policy = policy
        self._limits = limits
        self._window = window
        self._window_said: int | None = None
        self._connection: Connection | None = None
        self._sink = sink
        self._spool = spool
        self._metrics = metrics
        self._database_label = database_label
        self._open = Batch()
        self._closed: deque[tuple[Batch, Trigger]] = deque()
        self._writing: Batch | None = None
        self._writing_since = 0.0
        self._problem: str | None = None
        self._trouble = ""
        self._wake = asyncio.Event()
        self._stopping = False
        self._paused: Connection | None = None
        self._owed: deque[Batch] = deque()
        self._held: deque[Batch] = deque()
        self._held_until = 0.0
        self._said = Seldom()

    @property
    def batches(self) -> list[Batch]:
        """Everything that is not stored yet."""
        writing = [] if self._writing is None else [self._writing]
        return [*self._held, *writing, *(batch for batch, _ in self._closed), self._open]

    def pending(self) -> int:
        """Readings received and not committed."""
        return sum(batch.readings for batch in self.batches)

    def inflight(self) -> int:
        """Messages with QoS 1 or 2 received and not acknowledged."""
        return sum(batch.unacknowledged for batch in (*self.batches, *self._owed))

    def window(self) -> int:
        """Messages that the broker sends ahead of our acknowledgement, as far as it is known."""
        return self._window.messages

    def database_problem(self) -> str | None:
        """What keeps the database from taking batches; None while it does."""
        silence = 0.0 if self._writing is None else time.monotonic() - self._writing_since
        if self._problem is None and silence > SILENCE_SECONDS_MAX:
            return f"PostgreSQL at {self._database_label}: no answer to a batch for {silence:.0f} s"
        if self._problem is None and self._held:
            return f"PostgreSQL at {self._database_label}: some readings wait for a lock of another session"
        return self._problem

    def database_trouble(self) -> str | None:
        """The same in words that anybody may read."""
        if self._problem is not None:
            return self._trouble
        if self.database_problem() is None:
            return None
        return trouble_with(psycopg.errors.LockNotAvailable()) if self._held else NO_ANSWER

    def receive(self, connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        """Take a portion of messages; called by the connection as they arrive."""
        batch, window = self._open, self._window
        if connection is not self._connection:
            self._connection = connection
            window.connected()
        was_empty, before = batch.messages == 0, batch.readings
        received = self._decoder.decode(packets, batch, self._clocks.now())
        packet_ids = [packet_id for packet in packets if (packet_id := packet.packet_id) is not None]
        batch.owe(connection, packet_ids)
        now = time.monotonic()
        window.received(len(packet_ids), now)
        if not batch.redelivered:
            batch.redelivered = any(packet.duplicate for packet in packets)
            batch.may_be_stored = batch.may_be_stored or batch.redelivered
        batch.arrivals.append((now, batch.readings - before))
        self._metrics.received(received)
        trigger = self._policy.full(batch)
        if trigger is not None:
            self._close(trigger)
        if was_empty or trigger is not None or window.is_full:
            self._wake.set()
        if self._over_limits() or self._stopping:
            connection.pause_reading()
            self._paused = connection
            if (seconds := self._decoder.pause_seconds()) > 0:
                asyncio.get_running_loop().call_later(seconds, self.read_on)

    async def run(self) -> None:
        """Write batches until `stop` was called and everything is written."""
        while (due := await self._next()) is not None:
            batch, trigger = due
            if self._held:
                batch.blocked = batch.may_be_stored = True
            self._writing, self._writing_since = batch, time.monotonic()
            outcome = await self._store(batch)
            lost = outcome.kept.lost
            spooled = await self._spool.keep([rejection for rejection in lost if rejection.code in VALID_CODES])
            self._settle(batch, outcome, trigger, spooled)
        if self._held:
            logger.warning(
                "stopping while %d readings wait for a lock: they stay unacknowledged, the broker delivers them again",
                sum(batch.readings for batch in self._held),
            )

    def stop(self, connection: Connection | None) -> None:
        """Receive nothing more; `run` ends when what is in hand is written."""
        self._stopping = True
        if connection is not None:
            connection.pause_reading()
        self._wake.set()

    def _close(self, trigger: Trigger) -> None:
        self._closed.append((self._open, trigger))
        self._open = Batch()

    def _over_limits(self) -> bool:
        batches = self.batches
        return (
            self._clocks.problem() is not None
            or self._window.is_exceeded
            or sum(batch.readings for batch in batches) > self._limits.rows
            or sum(batch.payload_bytes for batch in batches) > self._limits.payload_bytes
            or self._decoder.pause_seconds() > 0
        )

    def read_on(self) -> None:
        """Where nothing speaks against it any more: a batch is settled, a pause is over, or the clocks agree again."""
        if self._paused is not None and not self._stopping and not self._over_limits():
            self._paused.resume_reading()
            self._paused = None

    async def _next(self) -> tuple[Batch, Trigger] | None:  # noqa: C901 - everything that a batch may be due for
        while True:
            now, until_due = time.monotonic(), None
            if not self._closed:
                until_due = self._policy.seconds_until_due(self._open, now)
                if until_due is not None and self._stopping:
                    self._close("shutdown")
                elif until_due is not None and self._window.is_full:
                    self._close("rows")  # nothing more can come before these are acknowledged
                elif until_due is not None and until_due <= 0:
                    self._window.waited(self._policy.interval_seconds, now)
                    self._close("interval")
                elif self._stopping:
                    return None
            if self._closed:
                return self._closed.popleft()
            if self._held:
                left = self._held_until - now
                if left <= 0:
                    self._held_until = now + HELD_SECONDS
                    return self._held.popleft(), "interval"
                until_due = left if until_due is None else min(left, until_due)
            self._wake.clear()
            try:
                async with asyncio.timeout(until_due):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the open batch is due

    async def _store(self, batch: Batch) -> Outcome:
        """Try until it is committed."""
        attempts = 0
        while True:
            try:
                await self._judge_by_agreed_clocks(batch)
                outcome = await self._sink.store(batch)
            except Exception as error:  # noqa: BLE001 - every failure has a kind, and none may drop the batch
                kind = failure_kind(error)
                attempts += 1
                self._metrics.failed(kind)
                self._report(error, kind)
                if kind == "fault":
                    self._take_along(batch)
                await asyncio.sleep(_retry_seconds(kind, attempts))
            else:
                if self._problem is not None:
                    away = time.monotonic() - self._writing_since
                    logger.info("the database takes batches again, after %.1f s", away)
                    self._problem = None
                return outcome

    async def _judge_by_agreed_clocks(self, batch: Batch) -> None:
        """Hold the batch while the clocks disagree; then judge once more what a clock refused."""
        judged_by_clock = any(batch.refusals[code] for code in CLOCK_CODES)
        since = time.monotonic()
        await self._clock_watch.agreed(judged_by_clock=judged_by_clock)
        if self._writing is batch:
            self._writing_since += time.monotonic() - since  # the database has not been asked yet
        if judged_by_clock:
            self._decoder.judge_again(batch, self._clocks.now())

    def _settle(self, batch: Batch, outcome: Outcome, trigger: Trigger, spooled: int) -> None:
        """Make the entries and acknowledge, in one go."""
        monotonic = time.monotonic()
        self._writing = None
        self._metrics.committed(batch, outcome, trigger, spooled, now=time.time(), monotonic=monotonic)
        self._metrics.flushed(monotonic - self._writing_since)
        later = sum(len(rows) for rows in outcome.later.values())
        settled = outcome.readings + batch.refusals.total() + later
        if settled != batch.received:
            # Not acknowledged, so nothing is lost: the broker delivers all of it again.
            logger.error("of a batch %d readings were received and %d accounted for", batch.received, settled)
            batch.disown(LinkLost("the books of a batch do not add up; its messages are delivered again"))
            return
        if batch.rest_of is None:
            self._owed.append(batch)
        if later:
            self._hold(batch, outcome)
        else:
            (batch.rest_of or batch).settled = True
            if batch.rest_of is not None:
                self._held_until = 0.0
                if not self._held:
                    logger.info("the readings that waited for a lock are stored")
        self._acknowledge(monotonic)
        self._tell_of_refusals(batch, outcome, spooled)
        batch.forget()
        self.read_on()

    def _hold(self, batch: Batch, outcome: Outcome) -> None:
        """What is locked waits; everything else goes on."""
        rest = batch.rest(outcome.later)
        self._held.append(rest)
        if count := self._said.due("held", rest.readings):
            logger.warning("%d readings wait for a lock of another session%s", count, self._blocker())

    def _acknowledge(self, monotonic: float) -> None:
        """Batches that are settled, in the order of receiving: so MQTT wants it (MQTT-4.6.0-2)."""
        left = 0
        while self._owed and self._owed[0].settled:
            batch = self._owed.popleft()
            ended = batch.acknowledge()
            self._window.acknowledged(batch.unacknowledged - ended, monotonic)
            left += ended
        if self._window.is_sure and self._window.learned != self._window_said:
            self._say_window()
        if left:
            logger.info(
                "%d committed messages came over a connection that has ended; the broker sends them again", left
            )

    def _blocker(self) -> str:
        return "" if self._sink.blocker is None else f"; perhaps {self._sink.blocker}"

    def _tell_of_refusals(self, batch: Batch, outcome: Outcome, spooled: int) -> None:
        """A line a minute for whatever is refused by the database, or not where it should be."""
        if outcome.refused and (count := self._said.due("refused", len(outcome.refused))):
            first = outcome.refused[0]
            logger.warning("%d readings went to quarantine; one on %s: %s", count, first.topic, first.reason)
        beyond = batch.refusals.total() - len(batch.rejected)
        if beyond and (count := self._said.due("beyond", beyond)):
            logger.warning(
                "%d refused messages were counted and not kept: they came faster than REJECTED_MAX_PER_SECOND", count
            )
        kept = outcome.kept
        if spooled and (count := self._said.due("spooled", spooled)):
            logger.error(
                "the quarantine refused %d valid readings (%s); they are in %s, for wattline rejected replay --file",
                count,
                kept.why,
                self._spool.folder,
            )
        lost = len(kept.lost) - spooled
        if lost and (count := self._said.due("lost", lost)):
            logger.error("%d refused messages were counted and not kept: %s", count, kept.why)
        if kept.deleted and (count := self._said.due("deleted", kept.deleted)):
            logger.warning("the oldest %d refused messages were deleted: REJECTED_MAX_BYTES is reached", count)

    def _take_along(self, batch: Batch) -> None:
        """What waits behind a batch that meets a fault goes with it: other rows tell whether it is everybody's."""
        while self._closed:
            batch.absorb(self._closed.popleft()[0])
        batch.absorb(self._open)
        self._open = Batch()

    def _say_window(self) -> None:
        """Once for each window that was found out: a person may want a larger one."""
        self._window_said = self._window.learned
        logger.info(
            "the broker sends %d messages ahead of our acknowledgement, MAX_INFLIGHT would allow %d: each such lot "
            "is written at once. For larger batches raise its own limit (Mosquitto: max_inflight_messages, EMQX: "
            "mqtt.max_inflight, RabbitMQ: mqtt.prefetch, VerneMQ: max_inflight_messages; HiveMQ CE: 50 by design)",
            self._window.messages,
            self._window.asked,
        )

    def _report(self, error: Exception, kind: FailureKind) -> None:
        """Once for each problem, not once for each attempt."""
        if isinstance(error, psycopg.Error):
            problem = explain(error, self._database_label)
        elif isinstance(error, OSError):
            problem = f"PostgreSQL at {self._database_label}: {error}"
        else:
            problem = f"{type(error).__name__}: {error}"
        problem += self._blocker()
        if problem == self._problem:
            return
        self._problem, self._trouble = problem, trouble_with(error)
        if kind == "fault":
            logger.error(
                "%s; nothing is lost, but a person is needed: trying again every %d s at least",
                problem,
                FAULT_RETRY_SECONDS,
            )
        elif kind == "partition":
            logger.info("%s; creating it", problem)
        else:
            logger.warning("%s; keeping %d readings and trying again", problem, self.pending())


def _retry_seconds(kind: FailureKind, attempts: int) -> float:
    longest = FAULT_RETRY_SECONDS if kind == "fault" else RETRY_SECONDS_MAX
    return backoff_seconds(attempts, least=RETRY_SECONDS_MIN, most=longest)

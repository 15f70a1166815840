"""The ingestor as a process: source → decode → batch → sink, wired together; started and stopped in order.

Start: answer health checks, wait for the database, connect to the broker. Stop: receive nothing more, write what is in
hand, acknowledge, disconnect, all under one deadline. Broker and database may be away at any time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import generate_latest

from config.event_loop import stopped_by_signals
from config.settings import Settings
from ingestor.backlog import Backlog, PendingLimits
from ingestor.batch import FlushPolicy
from ingestor.broker_watch import BrokerWatch
from ingestor.clock_watch import ClockWatch
from ingestor.clocks import Clocks
from ingestor.decode import Decoder
from ingestor.health import health_app, listen, serving
from ingestor.housekeeping.all import all_chores
from ingestor.housekeeping.chores import keep_doing
from ingestor.leaving import Leaving, may_leave
from ingestor.metrics import IngestMetrics
from ingestor.receipts.sender import ReceiptSender
from ingestor.rejected.bound import ByteBound
from ingestor.rejected.limit import KeepLimit
from ingestor.rejected.spool import Spool
from ingestor.schema.migrate import MigrationError
from ingestor.sink import Sink
from ingestor.source import Source
from ingestor.startup import prepare_database
from ingestor.subscription import Subscription
from ingestor.window import BrokerWindow
from ingestor.workers.names import warn_of_left_behind
from ingestor.writer import Writer
from mqtt.errors import LinkRefused
from mqtt.link import Link
from mqtt.options import RECEIVE_MAXIMUM_MAX, LinkOptions
from postgres.fitness import UnfitError
from telemetry.readings import PAYLOAD_BYTES_MAX
from telemetry.rules import Rules

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of the 10 s that a stop may take: this much for what is in hand, the rest for goodbyes.
DRAIN_SECONDS_MAX = 7.0
# How often it is asked whether a session that we leave is empty.
LEAVING_LOOK_SECONDS = 0.1
# The last flush's receipts, where the broker takes only some at a time.
RECEIPTS_SECONDS_MAX = 1.0
# A reading is 100 to 200 bytes in memory, and arrays bring thousands of them in one message of the window.
PENDING_ROWS_PER_MESSAGE = 2


class Ingestor:
    """One ingestor. `run` is its whole life."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], float] = time.time,
        source: Callable[..., Source] = Link,
        *,
        leaves: bool = False,
    ) -> None:
        """`now` is our clock; `source` makes the source, from the arguments of `Link`. One that `leaves` takes what is
        in its session and ends. Raises SettingsError for what can be known to be wrong before anything starts.
        """
        self._settings = settings
        self._leaves = leaves
        self._left = False
        self._make_source = source
        self._stopped = asyncio.Event()
        self._failed = False
        self._starting: str | None = "starting"
        self.metrics = IngestMetrics()
        self.source: Source | None = None
        """None until the database is ready."""
        self._clocks = Clocks(settings.max_clock_skew_seconds, now)
        self._clock_watch = ClockWatch(settings.database_conninfo, self._clocks, on_look=self._clocks_looked_at)
        decoder = Decoder(Rules.from_settings(settings), keep_limit=KeepLimit(settings.rejected_max_per_second))
        window = BrokerWindow(min(settings.max_inflight, RECEIVE_MAXIMUM_MAX))
        self.backlog = Backlog(
            decoder=decoder,
            clocks=self._clocks,
            policy=FlushPolicy(
                interval_seconds=settings.flush_interval_ms / 1000,
                rows_max=settings.rows_per_flush_max,
                bytes_max=settings.max_pending_bytes // 2,
            ),
            limits=PendingLimits(
                rows=PENDING_ROWS_PER_MESSAGE * settings.max_inflight, payload_bytes=settings.max_pending_bytes
            ),
            window=window,
            metrics=self.metrics,
        )
        self._bound = ByteBound(settings.rejected_max_bytes)
        self._sink = Sink(settings.database_conninfo, timeout_seconds=settings.flush_timeout_seconds, bound=self._bound)
        self._receipts = ReceiptSender(self.metrics)
        self._writer = Writer(
            backlog=self.backlog,
            sink=self._sink,
            spool=Spool(settings.spool_dir),
            clock_watch=self._clock_watch,
            decoder=decoder,
            metrics=self.metrics,
            receipts=self._receipts,
            database_label=settings.database_label,
        )
        self._link_options = replace(
            LinkOptions.from_settings(
                settings,
                client_id=settings.mqtt_client_id,
                clean_start=False,
                session_expiry_seconds=settings.mqtt_session_expiry_seconds,
                receive_maximum=window.asked,
            ),
            packet_bytes_wanted=PAYLOAD_BYTES_MAX,
        )
        self.metrics.pending.set_function(self.backlog.pending)
        self.metrics.inflight.set_function(self.backlog.inflight)
        self.metrics.window.set_function(lambda: window.messages)
        self.metrics.connected.set_function(self.is_connected)
        self.metrics.clock_offset.set_function(lambda: self._clocks.offset_seconds or 0.0)

    async def run(self, listener: socket.socket | None = None) -> bool:
        """Ingest until SIGTERM or SIGINT. False when it had to end by itself; the log says why.

        A worker is given the `listener` for its health and metrics; any other makes its own. Raises SettingsError where
        METRICS_HOST and METRICS_PORT cannot be had, LeavingError where it may not leave.
        """
        alone = listener is None
        listener = listener or listen(self._settings.metrics_host, self._settings.metrics_port)
        app = health_app(self._exposition, self._problems)
        with stopped_by_signals(self.stop):
            async with serving(app, listener):
                try:
                    before = await self._until_stopped(
                        prepare_database(self._settings, self._clock_watch, self._waiting_for)
                    )
                except (MigrationError, UnfitError) as error:
                    logger.error("PostgreSQL at %s: %s", self._settings.database_label, error)  # noqa: TRY400 - one line
                    return False
                if before is not None:
                    if self._leaves:
                        may_leave(self._settings, before)
                    elif alone:
                        warn_of_left_behind(self._settings.mqtt_client_id, before.others)
                    await self._ingest(Subscription(self._settings, before, leaving=self._leaves))
        return not self._failed and self._left == self._leaves

    def stop(self) -> None:
        """Make `run` end, in order."""
        self._stopped.set()

    def is_connected(self) -> bool:
        """Whether readings can come in."""
        return self.source is not None and self.source.connection is not None

    def problems(self) -> list[str]:
        """For /readyz, which strangers may ask: no address and no word of PostgreSQL's; the log has those."""
        trouble = self._writer.trouble()
        problems = [self._clocks.problem() or self._starting, None if trouble is None else f"the database {trouble}"]
        if self._starting is None and not self.is_connected():
            problems.append("not connected to the broker")
        return [problem for problem in problems if problem is not None]

    async def _problems(self) -> list[str]:
        return self.problems()

    async def _exposition(self) -> bytes:
        # On the loop, so that the books are read between two entries.
        return generate_latest(self.metrics.registry)

    async def _ingest(self, subscription: Subscription) -> None:
        by_monitor = self._settings.connecting_by(self._settings.mqtt_monitor_url)
        monitor = LinkOptions.from_settings(by_monitor, client_id=self._settings.mqtt_client_id)
        broker_watch = BrokerWatch(self._link_options, self.metrics.registry, monitor)
        leaving = Leaving(subscription.to_leave, self.backlog.receive) if self._leaves else None
        self.source = source = self._make_source(
            self._link_options,
            subscribe=subscription.wanted,
            unsubscribe=subscription.to_leave,
            known_to_broker=subscription.had_session,
            before_subscribe=subscription.remember,
            before_connect=broker_watch.introduce,
            on_publish=leaving.receive if leaving else self.backlog.receive,
            on_reconnect=self.metrics.reconnects.inc,
            on_session_lost=self.metrics.sessions_lost.inc,
            on_unsubscribed=leaving.unsubscribed if leaving else subscription.forget,
        )
        self._starting = None
        try:
            await self._run_parts(source, broker_watch, leaving)
            if self._left:
                for topic_filter in subscription.to_leave:
                    await subscription.forget(topic_filter)
        finally:
            await self._sink.close()
        if self._left:
            logger.info("%s has left: its session is empty, and stays so", self._settings.mqtt_client_id)
        elif not self._failed:
            logger.info("stopped")

    async def _run_parts(self, source: Source, broker_watch: BrokerWatch, leaving: Leaving | None) -> None:
        """All that goes on at once, until `stop`; then what is in hand is written, and the rest cancelled."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:

            def start(name: str, work: Coroutine[Any, Any, None], *, vital: bool = False) -> asyncio.Task[None]:
                return group.create_task(self._run_part(name, work, vital=vital), name=name)

            writing = start("flush", self._writer.run(), vital=True)
            others = [start("link", source.run(), vital=True), start("clocks", self._clock_watch.run())]
            if isinstance(source, Link):
                others.append(start("the broker's counts", broker_watch.run(source)))
            if leaving:
                others.append(start("leaving", self._leave(source, leaving), vital=True))
            for chore in all_chores(settings, self.metrics, self._clocks, self._bound, self.is_connected):
                rounds = keep_doing(
                    chore, conninfo=settings.database_conninfo, label=settings.database_label, books=self.metrics
                )
                others.append(start(f"chore {chore.name}", rounds))
            await self._stopped.wait()
            self.backlog.stop(source.connection)
            await self._drain(writing)
            for task in (writing, *others):
                task.cancel()

    async def _leave(self, source: Source, leaving: Leaving) -> None:
        """Stop once nothing is left in our session."""
        while not self._left:
            await asyncio.sleep(LEAVING_LOOK_SECONDS)
            self._left = leaving.is_over(source.connection, self.backlog.pending() + self.backlog.inflight())
        self.stop()

    async def _run_part(self, name: str, work: Coroutine[Any, Any, None], *, vital: bool) -> None:
        """A part that fails is told. A vital one, without which nothing comes in or is stored, ends the process in
        order: what is in hand is still written. Beside any other one readings go on.
        """
        try:
            await work
        except LinkRefused as error:
            logger.error("%s", error)  # noqa: TRY400 - a person wants a line, no traceback
        except Exception:
            logger.exception("%s: ended by a fault of wattline", name)
        else:
            return
        self._failed = True
        if vital:
            self.stop()

    async def _drain(self, writing: asyncio.Task[None]) -> None:
        """Let the flushes finish; past the deadline leave what is unacknowledged to the broker, and say so."""
        await asyncio.wait([writing], timeout=DRAIN_SECONDS_MAX)
        if writing.done():
            await self._receipts.finish(RECEIPTS_SECONDS_MAX)
            return
        pending, inflight = self.backlog.pending(), self.backlog.inflight()
        at_most_once = sum(batch.messages for batch in self.backlog.batches) - inflight
        logger.warning(
            "stopping without the database (%s): %d readings in %d messages stay unacknowledged, the broker delivers "
            "them again at the next start; %d messages with QoS 0 are lost",
            self._clocks.problem() or self._writer.problem() or "too slow",
            pending,
            inflight,
            at_most_once,
        )

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None if the process is told to stop first."""
        working = asyncio.create_task(work, name="prepare database")
        stopping = asyncio.create_task(self._stopped.wait(), name="stop")
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait([working, stopping])

    def _waiting_for(self, trouble: str) -> None:
        self._starting = trouble

    def _clocks_looked_at(self) -> None:
        self.backlog.read_on()

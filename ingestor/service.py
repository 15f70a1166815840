"""The ingestor as a process: start in order, run until told to stop, stop in order under one deadline.

Start: answer health checks, wait for the database, bring its schema up to date, connect to the broker. Stop: receive
nothing more, write what is in hand, acknowledge, disconnect. Broker and database may be away at any time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg

from config.settings import Settings
from ingestor.batch import FlushPolicy
from ingestor.broker_watch import BrokerWatch
from ingestor.clock_watch import ClockWatch
from ingestor.clocks import Clocks
from ingestor.decode import Decoder
from ingestor.health import health_app, listen, serving
from ingestor.housekeeping.all import all_chores
from ingestor.housekeeping.chores import Chore, keep_doing
from ingestor.metrics import IngestMetrics
from ingestor.pipeline import PendingLimits, Pipeline
from ingestor.rejected.bound import ByteBound
from ingestor.rejected.limit import KeepLimit
from ingestor.rejected.spool import Spool
from ingestor.schema.api_role import provide_api_role
from ingestor.schema.catalogue import check_kinds
from ingestor.schema.migrate import MigrationError, migrate
from ingestor.schema.partitions import days_ahead, ensure_partitions
from ingestor.sink import Sink
from ingestor.subscription import Remembered, forget_filters, remember_filter, remembered
from ingestor.window import BrokerWindow
from mqtt.errors import LinkLost, LinkRefused
from mqtt.link import Link, LinkOptions
from mqtt.options import RECEIVE_MAXIMUM_MAX
from postgres.connecting import connect
from postgres.fitness import UnfitError
from postgres.trouble import trouble_with
from postgres.words import explain
from telemetry.readings import PAYLOAD_BYTES_MAX
from telemetry.topics import subscription_filter

logger = logging.getLogger(__name__)

# Of the 10 s that a stop may take: this much for what is in hand, the rest for goodbyes.
DRAIN_SECONDS_MAX = 7.0
DATABASE_RETRY_SECONDS = 1.0
# A reading is 100 to 200 bytes in memory, and arrays bring thousands of them in one message of the window.
PENDING_ROWS_PER_MESSAGE = 2


class Ingestor:
    """One ingestor. `run` is its whole life."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        """`now` is our clock. Raises SettingsError for what can be known to be wrong before anything starts."""
        self._settings = settings
        self._stopped = asyncio.Event()
        self.metrics = IngestMetrics()
        self._starting: str | None = "starting"
        self._clocks = Clocks(settings.max_clock_skew_seconds, now)
        self._watch = ClockWatch(settings.database_conninfo, self._clocks, on_look=self._clocks_looked_at)
        self._pipeline = Pipeline(
            clocks=self._watch,
            decoder=Decoder(
                max_skew_seconds=settings.max_clock_skew_seconds,
                max_age_days=settings.reading_age_max_days,
                keep_limit=KeepLimit(settings.rejected_max_per_second),
            ),
            policy=FlushPolicy(
                interval_seconds=settings.flush_interval_ms / 1000,
                rows_max=settings.rows_per_flush_max,
                bytes_max=settings.max_pending_bytes // 2,
            ),
            limits=PendingLimits(
                rows=PENDING_ROWS_PER_MESSAGE * settings.max_inflight, payload_bytes=settings.max_pending_bytes
            ),
            window=BrokerWindow(min(settings.max_inflight, RECEIVE_MAXIMUM_MAX)),
            sink=(
                sink := Sink(
                    settings.database_conninfo,
                    timeout_seconds=settings.flush_timeout_seconds,
                    bound=(bound := ByteBound(settings.rejected_max_bytes)),
                )
            ),
            spool=Spool(settings.spool_dir),
            metrics=self.metrics,
            database_label=settings.database_label,
        )
        self._sink = sink
        self._bound = bound
        self._link_options = replace(
            LinkOptions.from_settings(
                settings,
                client_id=settings.mqtt_client_id,
                clean_start=False,
                session_expiry_seconds=settings.mqtt_session_expiry_seconds,
                receive_maximum=min(settings.max_inflight, RECEIVE_MAXIMUM_MAX),
            ),
            packet_bytes_wanted=PAYLOAD_BYTES_MAX,
        )
        self._link: Link | None = None
        self._filter_is_known = False
        self.metrics.watch(
            pending=self._pipeline.pending,
            inflight=self._pipeline.inflight,
            window=self._pipeline.window,
            connected=self._is_connected,
        )
        self.metrics.watch_clock(lambda: self._clocks.offset_seconds)
        self._listener = listen(settings.metrics_host, settings.metrics_port)

    async def run(self) -> bool:
        """Ingest until SIGTERM or SIGINT. False when it had to end by itself; the log says why."""
        host, port = self._listener.getsockname()[:2]
        logger.info("metrics and health on http://%s:%d", host, port)
        app = health_app(self.metrics.registry, self._problems)
        with self._stopped_by_signals():
            async with serving(app, self._listener):
                try:
                    before = await self._until_stopped(self._prepare_database())
                    return before is None or await self._ingest(before)
                except (MigrationError, UnfitError) as error:
                    logger.error("PostgreSQL at %s: %s", self._settings.database_label, error)  # noqa: TRY400 - one line
                    return False

    def stop(self) -> None:
        """Make `run` end, in order."""
        self._stopped.set()

    async def _ingest(self, before: Remembered) -> bool:
        settings, pipeline = self._settings, self._pipeline
        topic_filter = subscription_filter(settings.mqtt_share_group)
        self._filter_is_known = topic_filter in before.filters
        broker_watch = BrokerWatch(self._link_options, self.metrics.registry)
        self._link = link = Link(
            self._link_options,
            subscribe=[topic_filter],
            unsubscribe=before.to_leave(topic_filter),
            known_to_broker=bool(before.filters),
            before_subscribe=self._remember,
            before_connect=broker_watch.introduce,
            on_publish=pipeline.receive,
            on_reconnect=self.metrics.reconnected,
            on_session_lost=self.metrics.session_lost,
            on_unsubscribed=self._forget,
        )
        self._starting = None
        linked = asyncio.create_task(link.run(), name="link")
        flushing = asyncio.create_task(pipeline.run(), name="flush")
        watching = asyncio.create_task(self._watch.run(), name="clocks")
        counting = asyncio.create_task(broker_watch.run(link), name="the broker's counts")
        stopping = asyncio.create_task(self._stopped.wait(), name="stop")
        chores = [
            asyncio.create_task(self._keep_doing(chore), name=f"chore {chore.name}")
            for chore in all_chores(settings, self.metrics, self._clocks, self._bound, self._is_connected)
        ]
        tasks = [linked, flushing, watching, counting, stopping, *chores]
        try:
            await asyncio.wait({linked, flushing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            pipeline.stop(link.connection)
            await self._drain(flushing)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._sink.close()
        if not _ended_well(tasks):
            return False
        logger.info("stopped")
        return True

    async def _keep_doing(self, chore: Chore) -> None:
        settings = self._settings
        await keep_doing(chore, conninfo=settings.database_conninfo, label=settings.database_label, books=self.metrics)

    async def _drain(self, flushing: asyncio.Task[None]) -> None:
        """Let the flushes finish; past the deadline leave what is unacknowledged to the broker, and say so."""
        await asyncio.wait([flushing], timeout=DRAIN_SECONDS_MAX)
        if flushing.done():
            return
        pending, inflight = self._pipeline.pending(), self._pipeline.inflight()
        at_most_once = sum(batch.messages for batch in self._pipeline.batches) - inflight
        logger.warning(
            "stopping without the database (%s): %d readings in %d messages stay unacknowledged, the broker delivers "
            "them again at the next start; %d messages with QoS 0 are lost",
            self._clocks.problem() or self._pipeline.database_problem() or "too slow",
            pending,
            inflight,
            at_most_once,
        )

    async def _prepare_database(self) -> Remembered:
        """Wait for the database, bring it up to date; the result is what it remembers of our client id."""
        settings = self._settings
        said = ""
        while True:
            try:
                connection = await connect(
                    settings.database_conninfo, autocommit=True, application_name="wattline ingest start"
                )
                async with connection:
                    for name in await migrate(connection):
                        logger.info("applied migration %s", name)
                    for table in await check_kinds(connection):
                        logger.warning("%s holds readings of a kind that this program does not declare", table)
                    if (problem := await provide_api_role(connection)) is not None:
                        logger.warning("PostgreSQL at %s: %s", settings.database_label, problem)
                    await self._watch.agreed(judged_by_clock=False)
                    await ensure_partitions(connection, days_ahead(datetime.fromtimestamp(self._clocks.now(), UTC)))
                    return await remembered(connection, settings.mqtt_client_id)
            except UnfitError:
                raise
            except psycopg.Error as error:
                self._starting = f"the database {trouble_with(error)}"
                if (problem := explain(error, settings.database_label)) != said:
                    logger.warning("%s; waiting for it", problem)
                    said = problem
            await asyncio.sleep(DATABASE_RETRY_SECONDS)

    def _clocks_looked_at(self) -> None:
        self._pipeline.read_on()

    async def _remember(self) -> None:
        """Write the filter down before it is subscribed, so that no session keeps one that nobody knows of."""
        if self._filter_is_known:
            return
        settings = self._settings
        try:
            async with await connect(settings.database_conninfo, autocommit=True) as connection:
                await remember_filter(
                    connection, settings.mqtt_client_id, subscription_filter(settings.mqtt_share_group)
                )
        except psycopg.Error as error:
            problem = str(error) if isinstance(error, UnfitError) else explain(error, settings.database_label)
            raise LinkLost(f"the subscription waits for the database, which is to remember it: {problem}") from None
        self._filter_is_known = True

    async def _forget(self, topic_filter: str) -> None:
        """Once the broker has confirmed that an old filter is unsubscribed, nobody needs to remember it."""
        with suppress(psycopg.Error):  # the next start does it again, which is harmless
            async with await connect(self._settings.database_conninfo, autocommit=True) as connection:
                await forget_filters(connection, self._settings.mqtt_client_id, [topic_filter])

    async def _until_stopped(self, work: Coroutine[Any, Any, Remembered]) -> Remembered | None:
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

    def _is_connected(self) -> bool:
        return self._link is not None and self._link.connection is not None

    def _problems(self) -> list[str]:
        """For /readyz, which strangers may ask: no address and no word of PostgreSQL's; the log has those."""
        trouble = self._pipeline.database_trouble()
        problems = [self._clocks.problem() or self._starting, None if trouble is None else f"the database {trouble}"]
        if self._starting is None and not self._is_connected():
            problems.append("not connected to the broker")
        return [problem for problem in problems if problem is not None]

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _ended_well(tasks: list[asyncio.Task[Any]]) -> bool:
    """Look at how each task ended, so that no exception goes unseen; False where one did not end as it should."""
    well = True
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LinkRefused):
            logger.error("%s", error)  # a person wants a line, no traceback
        elif error is not None:
            logger.error("%s: ended by a fault of wattline", task.get_name(), exc_info=error)
        well = well and error is None
    return well

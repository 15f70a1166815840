"""Writes the backlog's batches into PostgreSQL, one after the other, each until it is committed.

What a failure means is said in `postgres.failures`; here it decides how long to wait and what to try next. A batch is
only ever committed and acknowledged, or kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import psycopg

from config.backoff import backoff_seconds
from config.seldom import Seldom
from ingestor.backlog import Backlog
from ingestor.batch import VALID_CODES, Batch, Trigger
from ingestor.clock_watch import ClockWatch
from ingestor.decode import CLOCK_CODES, Decoder
from ingestor.metrics import IngestMetrics
from ingestor.receipts.sender import ReceiptSender
from ingestor.rejected.spool import Spool
from ingestor.sink import Outcome
from postgres.failures import FailureKind, failure_kind
from postgres.trouble import NO_ANSWER, trouble_with
from postgres.words import explain

logger = logging.getLogger(__name__)

# Soon at first, because most failures are over at once (a deadlock, a failover); then patient.
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 2.0
# A bug or a missing permission needs a person: trying is cheap, but not twenty times a minute.
FAULT_RETRY_SECONDS = 15.0
# The largest batch takes about a second. A server that hangs, or a proxy before one, may never answer nor fail.
SILENCE_SECONDS_MAX = 5.0


class Storing(Protocol):
    """What the writer needs of a sink; `ingestor.sink.Sink` is the one."""

    @property
    def blocker(self) -> str | None:
        """Who probably holds the lock that the last attempt did not get."""

    async def store(self, batch: Batch, /) -> Outcome:
        """One attempt. Raises what went wrong."""


@dataclass(eq=False, kw_only=True)
class Writer:
    """The one task that writes. All methods belong to one event loop."""

    backlog: Backlog
    sink: Storing
    spool: Spool
    clock_watch: ClockWatch
    decoder: Decoder
    metrics: IngestMetrics
    receipts: ReceiptSender
    database_label: str
    """Its name in the log."""
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        self._writing_since: float | None = None
        self._problem: str | None = None
        self._trouble = ""
        self._said = Seldom(clock=self.monotonic)

    async def run(self) -> None:
        """Write until the backlog was stopped and everything is written."""
        while (due := await self.backlog.next()) is not None:
            await self.write(*due)
        if held := self.backlog.held():
            logger.warning(
                "stopping while %d readings wait for a lock: they stay unacknowledged, the broker delivers them again",
                held,
            )

    async def write(self, batch: Batch, trigger: Trigger) -> None:
        """Try until the batch is committed; then make the entries in the books, acknowledge and send receipts, all at
        once.
        """
        since = self._writing_since = self.monotonic()
        outcome = await self._stored(batch)
        lost = outcome.kept.lost
        spooled = await self.spool.keep([refusal for refusal in lost if refusal.code in VALID_CODES])
        now = self.monotonic()
        since, self._writing_since = self._writing_since, None
        self.metrics.committed(batch, outcome, trigger, spooled, now=time.time(), monotonic=now)
        self.metrics.flush_seconds.observe(now - since)
        later = sum(len(rows) for rows in outcome.later.values())
        settled = outcome.readings + batch.refusals.total() + later
        if settled != batch.received:
            logger.error("of a batch %d readings were received and %d accounted for", batch.received, settled)
            why = "the books of a batch do not add up; its messages are delivered again"
            self.backlog.deliver_again(batch, why)
            return
        if later and (count := self._said.due("held", later)):
            logger.warning("%d readings wait for a lock of another session%s", count, self._blocker())
        self._tell_of_refusals(batch, outcome, spooled)
        receipts = batch.complete_receipts(outcome.fates, outcome.later)
        self.backlog.settled(batch, outcome.later)
        if receipts:
            self.receipts.send(receipts)

    def problem(self) -> str | None:
        """What keeps the database from taking batches, for the log; None while it does."""
        if self._problem is not None:
            return self._problem
        silence = 0.0 if self._writing_since is None else self.monotonic() - self._writing_since
        if silence > SILENCE_SECONDS_MAX:
            return f"PostgreSQL at {self.database_label}: no answer to a batch for {silence:.0f} s"
        if self.backlog.held():
            return f"PostgreSQL at {self.database_label}: some readings wait for a lock of another session"
        return None

    def trouble(self) -> str | None:
        """What keeps the database from taking batches, in words that anybody may read; None while it does."""
        if self._problem is not None:
            return self._trouble
        if self.problem() is None:
            return None
        return trouble_with(psycopg.errors.LockNotAvailable()) if self.backlog.held() else NO_ANSWER

    async def _stored(self, batch: Batch) -> Outcome:
        attempts = 0
        while True:
            try:
                await self._judge_by_agreed_clocks(batch)
                outcome = await self.sink.store(batch)
            except Exception as error:  # noqa: BLE001 - every failure has a kind, and none may drop the batch
                kind = failure_kind(error)
                attempts += 1
                self.metrics.failures.labels(kind).inc()
                self._report(error, kind)
                if kind == "fault":
                    self.backlog.join_waiting(batch)
                await self.sleep(retry_seconds(kind, attempts))
            else:
                if self._problem is not None:
                    away = self.monotonic() - (self._writing_since or 0.0)
                    logger.info("the database takes batches again, after %.1f s", away)
                    self._problem = None
                return outcome

    async def _judge_by_agreed_clocks(self, batch: Batch) -> None:
        """Hold the batch while the clocks disagree; then judge once more what a clock refused."""
        judged_by_clock = any(batch.refusals[code] for code in CLOCK_CODES)
        since = self.monotonic()
        await self.clock_watch.agreed(judged_by_clock=judged_by_clock)
        if self._writing_since is not None:
            self._writing_since += self.monotonic() - since  # the database has not been asked yet
        if judged_by_clock:
            self.decoder.judge_again(batch, self.clock_watch.clocks.now())

    def _blocker(self) -> str:
        return "" if self.sink.blocker is None else f"; perhaps {self.sink.blocker}"

    def _report(self, error: Exception, kind: FailureKind) -> None:
        """Once for each problem, not once for each attempt."""
        if isinstance(error, psycopg.Error):
            problem = explain(error, self.database_label)
        elif isinstance(error, OSError):
            problem = f"PostgreSQL at {self.database_label}: {error}"
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
            logger.warning("%s; keeping %d readings and trying again", problem, self.backlog.pending())

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
                self.spool.folder,
            )
        lost = len(kept.lost) - spooled
        if lost and (count := self._said.due("lost", lost)):
            logger.error("%d refused messages were counted and not kept: %s", count, kept.why)
        if kept.deleted and (count := self._said.due("deleted", kept.deleted)):
            logger.warning("the oldest %d refused messages were deleted: REJECTED_MAX_BYTES is reached", count)


def retry_seconds(kind: FailureKind, attempts: int) -> float:
    """How long to wait after so many failures in a row, of which `kind` is the latest."""
    longest = FAULT_RETRY_SECONDS if kind == "fault" else RETRY_SECONDS_MAX
    return backoff_seconds(attempts, least=RETRY_SECONDS_MIN, most=longest)

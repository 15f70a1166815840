"""The writer: what each kind of failure costs, in which order, told to whom; without a database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestor.backlog import Backlog
from ingestor.batch import Batch, Refusal
from ingestor.clock_watch import ClockWatch
from ingestor.clocks import Clocks
from ingestor.decode import Decoder
from ingestor.metrics import IngestMetrics
from ingestor.receipts.sender import ReceiptSender
from ingestor.rejected.limit import KeepLimit
from ingestor.rejected.spool import Spool
from ingestor.rejected.store import Kept
from ingestor.sink import FlushTimeoutError, Outcome
from ingestor.writer import (
    FAULT_RETRY_SECONDS,
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
    SILENCE_SECONDS_MAX,
    Writer,
    retry_seconds,
)
from postgres.failures import FailureKind
from telemetry.rules import Rules
from tests.unit.test_backlog import NOW, ROWS_MAX, Clock, ScriptedChannel, make_backlog, message
from tests.unit.test_receipt_sender import Line

FAILURES: dict[FailureKind, Exception] = {
    "transient": psycopg.errors.DeadlockDetected("deadlock detected"),
    "partition": psycopg.errors.CheckViolation("no partition of relation found for row"),
    "data": psycopg.errors.NumericValueOutOfRange("out of range"),
    "fault": psycopg.errors.InsufficientPrivilege("permission denied for table meter_readings_history"),
}

Step = Exception | Callable[[Batch], Outcome]


def everything(batch: Batch) -> Outcome:
    return Outcome(committed={"meter": len(batch.rows["meter"]), "vehicle": 0})


class ScriptedSink:
    """Answers as it is told, attempt by attempt; then it stores everything."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.attempts: list[int] = []
        self.blocker: str | None = None

    async def store(self, batch: Batch, /) -> Outcome:
        self.attempts.append(batch.readings)
        step = self.script.pop(0) if self.script else everything
        if isinstance(step, Exception):
            raise step
        return step(batch)


class Laboratory:
    """A writer with a scripted sink, and a clock that only its own sleeps move."""

    def __init__(self, tmp_path: Path, *script: Step) -> None:
        self.clock, self.channel, self.sink = Clock(), ScriptedChannel(), ScriptedSink(*script)
        self.slept: list[float] = []
        self.while_asleep: Callable[[], None] = lambda: None
        clocks = Clocks(300, now=NOW.timestamp, monotonic=self.clock)
        clocks.judge(0.0)
        self.backlog: Backlog = make_backlog(self.clock, clocks)
        self.metrics = IngestMetrics()
        self.writer = Writer(
            backlog=self.backlog,
            sink=self.sink,
            spool=Spool(tmp_path / "spool"),
            clock_watch=ClockWatch("", clocks, on_look=lambda: None),
            decoder=Decoder(Rules(), keep_limit=KeepLimit(1000)),
            metrics=self.metrics,
            receipts=ReceiptSender(self.metrics),
            database_label="db",
            monotonic=self.clock,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds
        self.while_asleep()

    def receive(self, *packet_ids: int, readings: int = ROWS_MAX) -> None:
        self.backlog.receive(self.channel, [message(packet_id, readings) for packet_id in packet_ids])

    def write(self) -> None:
        """Everything that is due."""
        while (due := self.backlog.due()) is not None:
            asyncio.run(self.writer.write(*due))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("kind", FAILURES)
def test_a_batch_is_tried_until_it_is_committed_and_only_then_acknowledged(tmp_path: Path, kind: FailureKind) -> None:
    laboratory = Laboratory(tmp_path, FAILURES[kind], FAILURES[kind])
    seen: list[tuple[Any, ...]] = []
    laboratory.while_asleep = lambda: seen.append(
        (list(laboratory.channel.acknowledged), laboratory.backlog.pending(), laboratory.writer.problem() is None)
    )
    laboratory.receive(1)
    laboratory.write()
    assert seen == [([], ROWS_MAX, False)] * 2
    assert laboratory.channel.acknowledged == [1]
    assert laboratory.sink.attempts == [ROWS_MAX] * 3
    assert laboratory.count("wattline_flush_failures_total", error=kind) == 2
    assert laboratory.count("wattline_readings_committed_total", kind="meter") == ROWS_MAX
    assert (laboratory.writer.problem(), laboratory.writer.trouble()) == (None, None)


@pytest.mark.parametrize("kind", FAILURES)
def test_it_waits_longer_after_each_failure_and_is_patient_with_what_needs_a_person(kind: FailureKind) -> None:
    waits = [max(retry_seconds(kind, attempts) for _ in range(50)) for attempts in range(1, 12)]
    assert RETRY_SECONDS_MIN / 2 <= waits[0] <= 2 * RETRY_SECONDS_MIN
    most = FAULT_RETRY_SECONDS if kind == "fault" else RETRY_SECONDS_MAX
    assert most / 2 < waits[-1] <= most


def test_what_waits_behind_a_fault_goes_with_it(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, FAILURES["fault"])
    laboratory.receive(1)
    due = laboratory.backlog.due()
    assert due is not None
    laboratory.receive(2)
    laboratory.receive(3, readings=1)
    asyncio.run(laboratory.writer.write(*due))
    assert laboratory.sink.attempts == [ROWS_MAX, 2 * ROWS_MAX + 1]
    assert laboratory.channel.acknowledged == [1, 2, 3]


def test_what_waits_behind_another_failure_stays_a_batch_of_its_own(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, FAILURES["transient"])
    laboratory.receive(1)
    laboratory.receive(2)
    laboratory.write()
    assert laboratory.sink.attempts == [ROWS_MAX] * 3


def test_each_problem_is_told_once_and_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ingestor.writer")
    trouble, fault = FAILURES["transient"], FAILURES["fault"]
    laboratory = Laboratory(tmp_path, trouble, trouble, fault, fault)
    laboratory.receive(1)
    laboratory.write()
    levels = [(record.levelname, record.message.split("; ")[-1]) for record in caplog.records]
    assert levels[:2] == [
        ("WARNING", f"keeping {ROWS_MAX} readings and trying again"),
        ("ERROR", "nothing is lost, but a person is needed: trying again every 15 s at least"),
    ]
    assert levels[2][0] == "INFO"
    assert "takes batches again" in levels[2][1]
    assert len(levels) == 3


def test_rows_behind_a_lock_are_told_with_who_holds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def all_but_one(batch: Batch) -> Outcome:
        rows = batch.rows["meter"]
        return Outcome(committed={"meter": len(rows) - 1, "vehicle": 0}, later={"meter": rows[:1]})

    laboratory = Laboratory(tmp_path, all_but_one, all_but_one)
    laboratory.sink.blocker = "pid 7 (psql)"
    laboratory.receive(1)
    due = laboratory.backlog.due()
    assert due is not None
    asyncio.run(laboratory.writer.write(*due))
    assert "1 readings wait for a lock of another session; perhaps pid 7 (psql)" in caplog.text
    assert laboratory.channel.acknowledged == []
    assert laboratory.writer.trouble() == "is held up by a lock of another session"
    laboratory.sink.script.clear()
    laboratory.write()
    assert (laboratory.channel.acknowledged, laboratory.writer.problem()) == ([1], None)


def test_a_server_that_says_nothing_is_a_problem_before_it_is_a_failure(tmp_path: Path) -> None:
    def silent(batch: Batch) -> Outcome:
        laboratory.clock.now += SILENCE_SECONDS_MAX + 1
        assert laboratory.writer.problem() == "PostgreSQL at db: no answer to a batch for 6 s"
        assert laboratory.writer.trouble() == "does not answer in time"
        raise FlushTimeoutError("no answer to a batch for 6 s; its session is given up")

    laboratory = Laboratory(tmp_path, silent)
    laboratory.receive(1)
    laboratory.write()
    assert laboratory.channel.acknowledged == [1]
    assert laboratory.count("wattline_flush_failures_total", error="transient") == 1


def test_a_batch_whose_books_do_not_add_up_is_never_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    laboratory = Laboratory(tmp_path, lambda _: Outcome())
    laboratory.receive(1)
    laboratory.write()
    assert laboratory.channel.acknowledged == []
    assert laboratory.channel.ended == ["the books of a batch do not add up; its messages are delivered again"]
    assert f"{ROWS_MAX} readings were received and 0 accounted for" in caplog.text


def test_a_valid_reading_that_nothing_takes_is_on_the_disk_before_it_is_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses_one(batch: Batch) -> Outcome:
        refusal = Refusal("v1/telemetry/meter/M", b"{}", "database_refused", "a trigger", NOW.timestamp())
        lost = Kept(lost=[refusal], why="a trigger on it")
        return Outcome(committed={"meter": ROWS_MAX - 1, "vehicle": 0}, refused=[refusal], kept=lost)

    laboratory = Laboratory(tmp_path, refuses_one)
    laboratory.receive(1)
    laboratory.write()
    (file,) = (tmp_path / "spool").iterdir()
    assert file.read_text().count("\n") == 1
    assert "1 valid readings" in caplog.text
    assert str(tmp_path / "spool") in caplog.text
    assert laboratory.count("wattline_rejected_spooled_total") == 1
    assert laboratory.count("wattline_rejected_not_kept_total") == 0
    assert laboratory.channel.acknowledged == [1]


def test_a_receipt_is_sent_after_its_commit_and_in_its_turn(tmp_path: Path) -> None:
    line = Line()

    def not_yet(batch: Batch) -> Outcome:
        assert (line.sent, line.acknowledged) == ([], [])
        raise FAILURES["transient"]

    laboratory = Laboratory(tmp_path, not_yet, lambda batch: not_yet(batch) if line.sent else everything(batch))
    laboratory.backlog.receive(line, [message(1, ROWS_MAX, "v1/receipts/M/r"), message(2)])
    laboratory.write()
    assert line.acknowledged == [1, 2]
    assert [receipt.payload for receipt in line.sent] == [b'{"stored":8,"repeated":0,"conflict":0,"refused":[]}']


def test_a_batch_whose_books_do_not_add_up_tells_nobody(tmp_path: Path) -> None:
    line, laboratory = Line(), Laboratory(tmp_path, lambda _: Outcome())
    laboratory.backlog.receive(line, [message(1, ROWS_MAX, "v1/receipts/M/r")])
    laboratory.write()
    assert (line.sent, len(line.ended)) == ([], 1)

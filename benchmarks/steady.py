"""How long does a reading take at a steady load, what does the load cost, and where does it stop to hold?

Publish → committed is taken of every reading, no samples: its timestamp is the planned moment of publishing (an open
loop, so a publisher that falls behind counts against us), and PostgreSQL itself says when its transaction committed
(track_commit_timestamp, to the microsecond, on the same clock). PostgreSQL takes that time right before it flushes the
COMMIT to the disk, so the mean duration of a flush of the WAL is shown beside it, to be added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.cpu import cpu_seconds
from benchmarks.errors import BenchmarkError
from benchmarks.messages import Plan
from benchmarks.publishing import published, start_publishing
from benchmarks.report import BLUE, GREEN, ORANGE, Columns, Report, add_output, report_for, say
from benchmarks.servers import Ingestor, Servers, servers

SUMMARY = "publish to committed latency and CPU at steady rates, the highest rate that holds, FLUSH_INTERVAL_MS"
DEVICES = 20_000
FLUSH_MS = 250
REFERENCE_RATE, BAR_RATE = 333, 20_000
IDLE_PERCENT_MAX = 5
LATENCY_MS_MAX = 100  # over the flush interval
START_SECONDS = 2.0  # until the publisher runs
SETTLE_SECONDS_MAX = 30.0
LOOK_SECONDS = 0.05
# A rate holds when the publisher keeps its plan and a reading is committed within a second of its batch being due.
HOLDS_MS, LATE_MS_MAX = 1000, 250
SEARCH_FACTOR, SEARCH_STEPS = 1.4, 5
LAGS = """
    WITH lags AS (
        SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - ts)::float8 * 1000 AS ms FROM meter_readings_history
        UNION ALL
        SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - ts)::float8 * 1000 FROM vehicle_readings_history
    )
    SELECT count(*), percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY ms) FROM lags
"""
FSYNCS = "SELECT sum(fsyncs)::float8, sum(fsync_time) FROM pg_stat_io WHERE object = 'wal'"
COLUMNS: Columns = {
    "messages/s": ("rate", ",.0f"),
    "flush ms": ("flush_ms", "d"),
    "p50 ms": ("p50_ms", ".1f"),
    "p99 ms": ("p99_ms", ".1f"),
    "max ms": ("max_ms", ".0f"),
    "+ fsync ms": ("fsync_ms", ".1f"),
    "publisher late ms": ("late_ms", ".1f"),
    "ingestor %": ("ingestor", ".1f"),
    "broker %": ("broker", ".1f"),
    "database %": ("database", ".1f"),
    "holds": ("verdict", ""),
}


@dataclass(frozen=True)
class Load:
    """One rate for some seconds; CPU in % of a core."""

    rate: float
    flush_ms: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    fsync_ms: float
    late_ms: float
    ingestor: float
    broker: float
    database: float
    lost: int

    @property
    def holds(self) -> bool:
        """Whether it could go on like this."""
        return self.late_ms <= LATE_MS_MAX and self.p99_ms <= self.flush_ms + HOLDS_MS

    @property
    def verdict(self) -> str:
        """For a person."""
        return "yes" if self.holds else "no"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[REFERENCE_RATE, 3000, BAR_RATE], help="messages a second"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="at each rate (default %(default)s)")
    parser.add_argument(
        "--flush-intervals", nargs="*", type=int, default=[50, 1000], help="FLUSH_INTERVAL_MS beside 250"
    )
    parser.add_argument("--steps", type=int, default=SEARCH_STEPS, help="of the search upwards (default %(default)s)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when everything acknowledged was stored."""
    report = report_for("steady", args)
    with servers(track_commit_timestamp="on", track_wal_io_timing="on") as both:
        with _ingestor(both, FLUSH_MS) as ingestor:
            loads = [_load(both, ingestor, rate, args.seconds, FLUSH_MS) for rate in args.rates]
            search = list(_search(both, ingestor, max(args.rates), args.seconds / 2, args.steps))
        intervals = []
        for flush_ms in args.flush_intervals:
            with _ingestor(both, flush_ms) as ingestor:
                intervals.append(_load(both, ingestor, max(args.rates), args.seconds, flush_ms))
    report.show("steady rates", COLUMNS, loads)
    if search:
        report.show("upwards, until it does not hold", COLUMNS, search)
    same_rate = sorted([loads[args.rates.index(max(args.rates))], *intervals], key=lambda load: load.flush_ms)
    report.show(f"FLUSH_INTERVAL_MS at {max(args.rates):,.0f} messages/s", COLUMNS, same_rate)
    print()
    _bars(report, loads, search)
    _draw(report, [*loads, *search], same_rate)
    report.write()
    lost = sum(load.lost for load in (*loads, *search, *intervals))
    return 0 if lost == 0 else 1


def _bars(report: Report, loads: Sequence[Load], search: Sequence[Load]) -> None:
    for load in loads:
        if load.rate == REFERENCE_RATE:
            report.bar("ingestor at 333 messages/s, % of a core", load.ingestor, IDLE_PERCENT_MAX)
        if load.rate == BAR_RATE:
            over = load.p99_ms + load.fsync_ms - load.flush_ms
            report.bar("p99 over the flush interval at 20,000 messages/s, ms", over, LATENCY_MS_MAX)
    held = [load.rate for load in (*loads, *search) if load.holds]
    report.note(f"highest rate that held: {max(held, default=0):,.0f} messages/s")


@contextmanager
def _ingestor(both: Servers, flush_ms: int) -> Iterator[Ingestor]:
    ingestor = both.ingestor(FLUSH_INTERVAL_MS=str(flush_ms))
    try:
        yield ingestor
    finally:
        both.stop(ingestor.child)


def _search(both: Servers, ingestor: Ingestor, rate: float, seconds: float, steps: int) -> Iterator[Load]:
    """Upwards by a factor; where one fails, once more halfway between it and the last that held."""
    held = rate
    for _ in range(steps):
        load = _load(both, ingestor, held * SEARCH_FACTOR, seconds, FLUSH_MS)
        yield load
        if not load.holds:
            yield _load(both, ingestor, held * (1 + SEARCH_FACTOR) / 2, seconds, FLUSH_MS)
            return
        held = load.rate


def _load(both: Servers, ingestor: Ingestor, rate: float, seconds: float, flush_ms: int) -> Load:
    say(f"steady: {rate:,.0f} messages/s for {seconds:g} s, FLUSH_INTERVAL_MS={flush_ms}")
    both.empty_tables()
    before_books = _committed(ingestor)
    start = time.time() + START_SECONDS
    plan = Plan(max(1, int(rate * seconds)), DEVICES, int(start * 1_000_000), 1_000_000 / rate)
    child = start_publishing(both, plan, paced=True)
    time.sleep(max(0.0, start - time.time()))
    pids = (ingestor.child.pid, both.broker.pid, both.database.pid)
    before, began, fsyncs = [cpu_seconds(pid) for pid in pids], time.monotonic(), _fsyncs(both)
    result = published(both, child, seconds + SETTLE_SECONDS_MAX)
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while _committed(ingestor) - before_books < result.acknowledged and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    took = time.monotonic() - began
    ingestor_percent, broker, database = (
        100 * (cpu_seconds(pid) - used) / took for pid, used in zip(pids, before, strict=True)
    )
    count, (p50, p99, longest) = _lags(both)
    flushed, flush_time = (now - then for now, then in zip(_fsyncs(both), fsyncs, strict=True))
    return Load(
        rate=rate,
        flush_ms=flush_ms,
        p50_ms=p50,
        p99_ms=p99,
        max_ms=longest,
        fsync_ms=flush_time / flushed if flushed else 0.0,
        late_ms=result.late_ms_max,
        ingestor=ingestor_percent,
        broker=broker,
        database=database,
        lost=plan.count - count,
    )


def _committed(ingestor: Ingestor) -> int:
    books = ingestor.books()
    if books is None and not ingestor.child.running:
        raise BenchmarkError("wattline ingest has ended")
    return 0 if books is None else books.committed


def _lags(both: Servers) -> tuple[int, list[float]]:
    with psycopg.connect(both.database.url) as connection:
        row = connection.execute(LAGS).fetchone()
    if row is None or not row[0]:
        raise BenchmarkError("nothing was committed")
    return int(row[0]), [float(value) for value in row[1]]


def _fsyncs(both: Servers) -> tuple[float, float]:
    with psycopg.connect(both.database.url) as connection:
        row = connection.execute(FSYNCS).fetchone()
    return (0.0, 0.0) if row is None else (float(row[0]), float(row[1]))


def _draw(report: Report, loads: Sequence[Load], intervals: Sequence[Load]) -> None:
    by_rate = sorted(loads, key=lambda load: load.rate)
    rates = [load.rate for load in by_rate]
    with report.picture(3) as (latency, cpu, effect):
        latency.plot(rates, [load.p99_ms for load in by_rate], "o-", color=ORANGE, label="p99")
        latency.plot(rates, [load.p50_ms for load in by_rate], "o-", color=BLUE, label="p50")
        latency.axhline(FLUSH_MS, color=GREEN, linestyle="--", linewidth=1, label="flush interval")
        latency.set(xscale="log", yscale="log", xlabel="messages a second", ylabel="ms, publish → committed")
        for name, color in (("ingestor", BLUE), ("broker", GREEN), ("database", ORANGE)):
            cpu.plot(rates, [getattr(load, name) for load in by_rate], "o-", color=color, label=name)
        cpu.set(xscale="log", xlabel="messages a second", ylabel="% of a core")
        flushes = [load.flush_ms for load in intervals]
        effect.plot(flushes, [load.p99_ms for load in intervals], "o-", color=ORANGE, label="p99, ms")
        effect.plot(flushes, [load.p50_ms for load in intervals], "o-", color=BLUE, label="p50, ms")
        effect.set(xscale="log", yscale="log", xlabel="FLUSH_INTERVAL_MS", ylabel="ms, publish → committed")
        for axes in (latency, cpu, effect):
            axes.legend(fontsize=8, frameon=False)

"""Is `--workers 2` no slower than one process on the cores that there are, and what does a message cost then?

One process and the group take turns over the same broker and database. Each turn is a drain: the ingestors are there
already and held (SIGSTOP) while the broker queues, then let go, so that neither a start nor an import counts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.cpu import cpu_seconds
from benchmarks.errors import BenchmarkError
from benchmarks.messages import Plan
from benchmarks.publishing import forget_session, published, start_publishing
from benchmarks.report import BLUE, GREY, ORANGE, Report, add_output, report_for, say
from benchmarks.servers import Ingestor, Servers, servers
from config.settings import load_settings
from ingestor.workers.names import client_id_of

SUMMARY = "rate and CPU a message of one ingestor and of `--workers N`, in turns"
CLIENT_ID = "bench-workers"
SECONDS_MAX = 120.0
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 0.5
DEVICES = 20_000
SPAN_US = 600_000_000
FORMATS = {
    "messages/s": ",.0f",
    "ingestors µs": ".2f",
    "broker µs": ".2f",
    "database µs": ".2f",
    "all µs": ".2f",
}


@dataclass(frozen=True)
class Turn:
    """One drain; CPU in µs a message, the ingestors' with that of the process over them."""

    workers: int
    rate: float
    ingestors_us: float
    broker_us: float
    database_us: float

    @property
    def all_us(self) -> float:
        """Everybody together."""
        return self.ingestors_us + self.broker_us + self.database_us


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `./dev bench workers`."""
    parser.add_argument("--messages", type=int, default=300_000, help="in each drain (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default %(default)s)")
    parser.add_argument("--workers", nargs="+", type=int, default=[2], help="beside one process (default 2)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when every message was stored, once, and everybody's books add up."""
    report = report_for("workers", args)
    with servers() as both:
        turns = list(_turns(both, args))
    report.table("each turn, in their order", [_row(turn) for turn in turns], FORMATS)
    medians = [_median(turns, workers) for workers in dict.fromkeys(turn.workers for turn in turns)]
    report.table("medians", [_row(turn) for turn in medians], FORMATS)
    alone, *groups = medians
    for group in groups:
        report.bar(f"rate of --workers {group.workers} / of one process", group.rate / alone.rate, 1.0, at_least=True)
    _draw(report, medians)
    report.write()
    return 0


def _turns(both: Servers, args: argparse.Namespace) -> Iterator[Turn]:
    start_us = time.time_ns() // 1000 - (args.rounds * (1 + len(args.workers)) + 1) * SPAN_US
    for number in range(args.rounds):
        for workers in (1, *args.workers):
            say(f"workers: round {number + 1} of {args.rounds}: {workers}")
            plan = Plan(args.messages, DEVICES, start_us, SPAN_US / args.messages / 2)
            yield _turn(both, workers, plan)
            start_us += SPAN_US


def _turn(both: Servers, workers: int, plan: Plan) -> Turn:
    both.empty_tables()
    arguments = ("--workers", str(workers)) if workers > 1 else ()
    ingestor = both.ingestor(*arguments, MQTT_CLIENT_ID=CLIENT_ID)
    try:
        held = psutil.Process(ingestor.child.pid).children() if workers > 1 else [psutil.Process(ingestor.child.pid)]
        for process in held:
            process.send_signal(signal.SIGSTOP)
        published(both, start_publishing(both, plan), SECONDS_MAX)
        before, began = _cpu(both, ingestor), time.monotonic()
        for process in held:
            process.send_signal(signal.SIGCONT)
        while (committed := _committed(ingestor)) < plan.count:
            if time.monotonic() - began > SECONDS_MAX:
                raise BenchmarkError(f"{workers} workers: {committed:,} of {plan.count:,} after {SECONDS_MAX:.0f} s")
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)  # acknowledgements are the broker's work too
        used = [now - then for now, then in zip(_cpu(both, ingestor), before, strict=True)]
        if committed != plan.count or both.stored() != plan.count:
            raise BenchmarkError(f"{workers} workers: books {committed:,}, stored {both.stored():,} of {plan.count:,}")
    finally:
        both.stop(ingestor.child)
        settings = load_settings(mqtt_url=both.broker.url, database_url=both.database.url)
        for number in range(1, workers + 1):
            asyncio.run(forget_session(settings, client_id_of(CLIENT_ID, number)))
    return Turn(workers, plan.count / seconds, *(one * 1_000_000 / plan.count for one in used))


def _cpu(both: Servers, ingestor: Ingestor) -> tuple[float, float, float]:
    return cpu_seconds(ingestor.child.pid), cpu_seconds(both.broker.pid), cpu_seconds(both.database.pid)


def _committed(ingestor: Ingestor) -> int:
    books = ingestor.books()
    return 0 if books is None else books.committed


def _median(turns: list[Turn], workers: int) -> Turn:
    own = [turn for turn in turns if turn.workers == workers]
    names = ("rate", "ingestors_us", "broker_us", "database_us")
    return Turn(workers, *(statistics.median(getattr(turn, name) for turn in own) for name in names))


def _draw(report: Report, medians: Sequence[Turn]) -> None:
    names = ["one process" if turn.workers == 1 else f"--workers {turn.workers}" for turn in medians]
    with report.picture(2) as (rates, costs):
        drawn = rates.bar(names, [turn.rate for turn in medians], color=BLUE)
        rates.bar_label(drawn, [f"{turn.rate:,.0f}" for turn in medians], fontsize=8)
        rates.set_ylabel("messages a second")
        base = [0.0] * len(medians)
        for what, color in (("ingestors", BLUE), ("broker", GREY), ("database", ORANGE)):
            values = [float(getattr(turn, f"{what}_us")) for turn in medians]
            costs.bar(names, values, bottom=base, label=what, color=color)
            base = [below + value for below, value in zip(base, values, strict=True)]
        costs.set_ylabel("µs of CPU a message")
        costs.legend(fontsize=8, frameon=False)


def _row(turn: Turn) -> dict[str, str | float | int]:
    return {
        "workers": turn.workers,
        "messages/s": turn.rate,
        "ingestors µs": turn.ingestors_us,
        "broker µs": turn.broker_us,
        "database µs": turn.database_us,
        "all µs": turn.all_us,
    }

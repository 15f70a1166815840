"""How much does a durable message cost? Drain a queue with wattline, and with the consumers it is compared with.

All take turns over the same broker and database, a queue of fresh readings each time, so that a noisy machine is as
unkind to one as to the other. Broker, database and consumer share the machine; CPU is counted for each.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.consumers import CONSUMERS, Consumer, Measured
from benchmarks.cpu import cpu_seconds
from benchmarks.messages import Plan
from benchmarks.publishing import leave_session, published, start_publishing
from benchmarks.report import BLUE, GREEN, GREY, ORANGE, Columns, Report, add_output, report_for, say
from benchmarks.servers import Servers, servers
from config.settings import load_settings

SUMMARY = "rate and CPU a message of draining a queue, beside ack-only, paho and row-at-a-time consumers"
DEFAULT: tuple[Consumer, ...] = ("ack", "ingest", "paho", "row-at-a-time")
# The slow ones get a part of the messages, so that a turn of each takes about as long.
SHARE = {"ack": 1, "ack-uvloop": 1, "ingest": 1, "paho": 5, "row-at-a-time": 50}
CLIENT_ID = "bench-drain"
TURN_SECONDS_MAX = 180.0
# What a fleet of 20,000 has queued after 25 minutes, at a reading a minute; turns do not overlap.
SPAN_US = 1_500_000_000
TURN_US = 1_800_000_000
COLUMNS: Columns = {
    "consumer": ("consumer", ""),
    "messages": ("messages", ","),
    "messages/s": ("rate", ",.0f"),
    "consumer µs": ("consumer_us", ".2f"),
    "broker µs": ("broker_us", ".2f"),
    "database µs": ("database_us", ".2f"),
    "all µs": ("all_us", ".2f"),
    "peak MB": ("peak_mb", ".0f"),
}


@dataclass(frozen=True)
class Turn:
    """One consumer's turn; CPU in µs a message."""

    consumer: Consumer
    messages: int
    rate: float
    consumer_us: float
    broker_us: float
    database_us: float
    peak_mb: float

    @property
    def all_us(self) -> float:
        """Consumer, broker and database together."""
        return self.consumer_us + self.broker_us + self.database_us


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=500_000, help="queued messages (default %(default)s)")
    parser.add_argument(
        "--devices", type=int, default=10_000, help="meters, and as many vehicles (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each consumer (default %(default)s)")
    parser.add_argument(
        "--consumers", nargs="+", choices=CONSUMERS, default=list(DEFAULT), help="who takes part (default: all but one)"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table and the ratios; 0 when every message was stored, once."""
    report = report_for("drain", args)
    with servers() as both:
        turns = list(_turns(args, both))
        stored = both.stored()
    _show(report, turns)
    expected = sum(turn.messages for turn in turns if not turn.consumer.startswith("ack"))
    report.note(f"stored {stored:,} of {expected:,} readings, {stored - expected:+,d}")
    report.write()
    return 0 if stored == expected else 1


def _turns(args: argparse.Namespace, both: Servers) -> Iterator[Turn]:
    settings = load_settings(mqtt_url=both.broker.url, database_url=both.database.url)
    start_us = time.time_ns() // 1000 - args.rounds * len(args.consumers) * TURN_US - SPAN_US
    for number in range(args.rounds):
        for consumer in args.consumers:
            count = max(1, args.messages // SHARE[consumer])
            say(f"drain: round {number + 1} of {args.rounds}: {count:,} messages for {consumer}")
            asyncio.run(leave_session(settings, CLIENT_ID))
            plan = Plan(count, 2 * args.devices, start_us, min(3000.0, SPAN_US / count))
            published(both, start_publishing(both, plan), TURN_SECONDS_MAX)
            yield _turn(consumer, count, both)
            start_us += TURN_US


def _turn(consumer: Consumer, count: int, both: Servers) -> Turn:
    broker_before, database_before = cpu_seconds(both.broker.pid), cpu_seconds(both.database.pid)
    child = both.python("benchmarks.consumers", consumer, str(count), MQTT_CLIENT_ID=CLIENT_ID)
    measured = Measured(**both.result(child, TURN_SECONDS_MAX))
    a_message = 1_000_000 / count
    return Turn(
        consumer=consumer,
        messages=count,
        rate=count / measured.seconds,
        consumer_us=measured.cpu_seconds * a_message,
        broker_us=(cpu_seconds(both.broker.pid) - broker_before) * a_message,
        database_us=(cpu_seconds(both.database.pid) - database_before) * a_message,
        peak_mb=measured.peak_mb,
    )


def _show(report: Report, turns: Sequence[Turn]) -> None:
    report.show("each turn, in their order", COLUMNS, turns)
    medians = {consumer: _median(turns, consumer) for consumer in dict.fromkeys(turn.consumer for turn in turns)}
    report.show("medians", COLUMNS, list(medians.values()))
    print()
    ingest, ack = medians.get("ingest"), medians.get("ack")
    if ingest is not None:
        if ack is not None:
            report.bar("rate of ingest / of ack-only", ingest.rate / ack.rate, 0.55, at_least=True)
            report.bar("ingestor CPU / ack-only CPU", ingest.consumer_us / ack.consumer_us, 1.5)
        if "paho" in medians:
            report.bar("rate of ingest / of paho", ingest.rate / medians["paho"].rate, 2.5, at_least=True)
        if "row-at-a-time" in medians:
            ratio = ingest.rate / medians["row-at-a-time"].rate
            report.bar("rate of ingest / of row-at-a-time", ratio, 50, at_least=True)
        peak = max(turn.peak_mb for turn in turns if turn.consumer == "ingest")
        report.bar("peak memory of the ingestor, MB", peak, 300)
        report.bar("CPU of ingestor, broker and PostgreSQL, µs a message", ingest.all_us, 20)
    _draw(report, list(medians.values()))


def _median(turns: Sequence[Turn], consumer: Consumer) -> Turn:
    """Of each figure on its own: the turns of a consumer are alike, and none of them is special."""
    own = [asdict(turn) for turn in turns if turn.consumer == consumer]
    figures = {name: statistics.median(turn[name] for turn in own) for name in own[0] if name != "consumer"}
    return Turn(consumer=consumer, **figures)


def _draw(report: Report, medians: Sequence[Turn]) -> None:
    names = [turn.consumer for turn in medians]
    with report.picture(2) as (rates, costs):
        drawn = rates.bar(names, [turn.rate for turn in medians], color=BLUE)
        rates.bar_label(drawn, [f"{turn.rate:,.0f}" for turn in medians], fontsize=8)
        rates.set_ylabel("messages a second")
        rates.set_title("drained from a queue", fontsize=10)
        # Row-at-a-time would leave nothing to see of the others.
        cheap = [turn for turn in medians if turn.consumer != "row-at-a-time"] or list(medians)
        base = [0.0] * len(cheap)
        for what, color in (("consumer", BLUE), ("broker", GREY), ("database", ORANGE)):
            values = [float(getattr(turn, f"{what}_us")) for turn in cheap]
            costs.bar([turn.consumer for turn in cheap], values, bottom=base, label=what, color=color)
            base = [below + value for below, value in zip(base, values, strict=True)]
        costs.axhline(20, color=GREEN, linestyle="--", linewidth=1, label="the star: 20 µs")
        costs.set_ylabel("µs of CPU a message")
        costs.set_title("what a message costs", fontsize=10)
        costs.legend(fontsize=8, frameon=False)
        for axes in (rates, costs):
            axes.tick_params(axis="x", labelsize=8)

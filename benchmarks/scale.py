"""Does a message's cost stay the same with more ingestors, more devices, more days? It must.

Each point is a drain: the ingestors are connected and held (SIGSTOP) while the broker queues, then let go (SIGCONT), so
that neither their start nor their imports count. A first drain makes devices and partitions known; the median of those
after it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.cpu import cpu_seconds
from benchmarks.errors import BenchmarkError
from benchmarks.messages import Plan
from benchmarks.publishing import forget_session, published, start_publishing
from benchmarks.report import BLUE, GREY, ORANGE, Report, add_output, report_for, say
from benchmarks.servers import Ingestor, Servers, servers
from config.settings import load_settings

SUMMARY = "cost of a message with 1, 2, 4 ingestors, 100 to 100,000 devices, 1 to 30 daily partitions"
INGESTORS = (1, 2, 4)
DEVICES = (100, 1_000, 10_000, 100_000)
DAYS = (1, 7, 30)
USUAL_DEVICES = 10_000
GROUP = "bench"
SECONDS_MAX = 120.0
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 0.5
DAY_SECONDS, SPAN_US = 86_400, 60_000_000
FORMATS = {
    "messages/s": ",.0f",
    "ingestors µs": ".2f",
    "database µs": ".2f",
    "broker µs": ".2f",
    "times the first": ".2f",
}


@dataclass(frozen=True)
class Point:
    """What is varied, and what a message cost, in µs of CPU."""

    series: str
    at: int
    rate: float
    ingestors_us: float
    broker_us: float
    database_us: float

    @property
    def cost_us(self) -> float:
        """What must stay flat."""
        return self.ingestors_us + self.database_us


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=100_000, help="in each drain (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="drains that count at each point (default %(default)s)")
    parser.add_argument("--ingestors", nargs="+", type=int, default=list(INGESTORS), help="in a share group")
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES), help="half of them meters")
    parser.add_argument("--days", nargs="+", type=int, default=list(DAYS), help="daily partitions written to (1 to 30)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when nothing was lost."""
    report = report_for("scale", args)
    with servers() as both:
        points = list(_points(both, args))
    for series in dict.fromkeys(point.series for point in points):
        own = [point for point in points if point.series == series]
        report.table(series, [_row(point, own[0]) for point in own], FORMATS)
    _draw(report, points)
    report.write()
    return 0


def _points(both: Servers, args: argparse.Namespace) -> Iterator[Point]:
    for number in args.ingestors:
        yield _point(both, args, "ingestors in a share group", number, ingestors=number)
    for devices in args.devices:
        yield _point(both, args, "devices", devices, devices=devices)
    # With the partitions of the earlier points still there.
    for days in args.days:
        yield _point(both, args, "daily partitions", days, days=days)


def _point(  # noqa: PLR0913 - what is varied, one at a time
    both: Servers,
    args: argparse.Namespace,
    series: str,
    at: int,
    *,
    ingestors: int = 1,
    devices: int = USUAL_DEVICES,
    days: int = 1,
) -> Point:
    both.empty_tables()
    running = [
        # Of 30 daily partitions the first is older than MAX_READING_AGE_DAYS takes by default.
        both.ingestor(MQTT_CLIENT_ID=_client_id(number), MQTT_SHARE_GROUP=GROUP, MAX_READING_AGE_DAYS="60")
        for number in range(ingestors)
    ]
    # Days end at the last whole one, so that a run around midnight touches no more of them.
    start_us = (int(time.time()) // DAY_SECONDS - 1) * DAY_SECONDS * 1_000_000
    turns = []
    try:
        for turn in range(1 + args.rounds):
            say(f"scale: {series}: {at:,}, drain {turn} of {args.rounds}")
            plan = Plan(args.messages, devices, start_us + turn * SPAN_US, SPAN_US / args.messages / 2, days)
            turns.append(_drain(both, running, plan, series, at))
        stored = both.stored()
    finally:
        for ingestor in running:
            ingestor.child.send(signal.SIGCONT)
            both.stop(ingestor.child)
        settings = load_settings(mqtt_url=both.broker.url, database_url=both.database.url)
        for number in range(ingestors):
            asyncio.run(forget_session(settings, _client_id(number)))
    expected = args.messages * (1 + args.rounds)
    if stored != expected:
        raise BenchmarkError(f"{series} {at:,}: stored {stored:,} readings of {expected:,}")
    counted = turns[1:] or turns
    return Point(
        series,
        at,
        *(
            statistics.median(getattr(turn, name) for turn in counted)
            for name in ("rate", "ingestors_us", "broker_us", "database_us")
        ),
    )


def _drain(both: Servers, running: Sequence[Ingestor], plan: Plan, series: str, at: int) -> Point:
    committed = _committed(running)
    for ingestor in running:
        ingestor.child.send(signal.SIGSTOP)
    published(both, start_publishing(both, plan), SECONDS_MAX)
    before, began = _cpu(both, running), time.monotonic()
    for ingestor in running:
        ingestor.child.send(signal.SIGCONT)
    while _committed(running) - committed < plan.count:
        if time.monotonic() - began > SECONDS_MAX:
            raise BenchmarkError(f"{series} {at:,}: not drained within {SECONDS_MAX:.0f} s")
        time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - began
    time.sleep(SETTLE_SECONDS)  # acknowledgements are the broker's work too
    used = [now - then for now, then in zip(_cpu(both, running), before, strict=True)]
    return Point(series, at, plan.count / seconds, *(one * 1_000_000 / plan.count for one in used))


def _client_id(number: int) -> str:
    return f"bench-scale-{number}"


def _cpu(both: Servers, running: Sequence[Ingestor]) -> tuple[float, float, float]:
    ingestors = sum(cpu_seconds(ingestor.child.pid) for ingestor in running)
    return ingestors, cpu_seconds(both.broker.pid), cpu_seconds(both.database.pid)


def _committed(running: Sequence[Ingestor]) -> int:
    books = [ingestor.books() for ingestor in running]
    return sum(one.committed for one in books if one is not None)


def _row(point: Point, first: Point) -> dict[str, str | float | int]:
    return {
        point.series: point.at,
        "messages/s": point.rate,
        "ingestors µs": point.ingestors_us,
        "database µs": point.database_us,
        "broker µs": point.broker_us,
        "times the first": point.cost_us / first.cost_us if first.cost_us else 1.0,  # 0: less than a tick of 10 ms
    }


def _draw(report: Report, points: Sequence[Point]) -> None:
    names = list(dict.fromkeys(point.series for point in points))
    with report.picture(len(names)) as panels:
        top = 1.15 * max(point.cost_us + point.broker_us for point in points)
        for axes, series in zip(panels, names, strict=True):
            own = [point for point in points if point.series == series]
            labels = [f"{point.at:,}" for point in own]
            base = [0.0] * len(own)
            for what, color in (("ingestors", BLUE), ("database", ORANGE), ("broker", GREY)):
                values = [float(getattr(point, f"{what}_us")) for point in own]
                axes.bar(labels, values, bottom=base, label=what, color=color)
                base = [below + value for below, value in zip(base, values, strict=True)]
            axes.set(xlabel=series, ylabel="µs of CPU a message", ylim=(0, top))
            axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=3)

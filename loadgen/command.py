"""`wattline loadgen`: its options, its words, its exit status. The work is done in `run` and `verify`."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Callable
from random import Random

from config.event_loop import loop_factory
from config.logging import configure_logging
from config.settings import Settings, load_settings
from loadgen import log
from loadgen.committed import Committed
from loadgen.descriptors import make_room
from loadgen.fleet import id_prefix, make_fleet
from loadgen.progress import Progress
from loadgen.record import Record
from loadgen.report import Report
from loadgen.run import Run, run_fleet
from loadgen.schedule import ClosedLoop, OpenLoop, Pace, Schedule
from loadgen.source import BACKFILL_SECONDS
from loadgen.stored import Tables
from loadgen.stream import LATE_SECONDS, Faults
from loadgen.verify import VerifyError, check_nothing_there, check_tables, verify
from telemetry.errors import LinkError

OK, FAILED, BAD_USAGE = 0, 1, 2

DEVICES_MAX = 1_000_000
CONNECTIONS_MAX = 100_000
# Below this an energy is a handful of mWh, and the ratio of two roundings says nothing; for more messages take more
# devices.
INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS = 5.0
RATE_MAX = 1_000_000.0
MESSAGES_MAX = 10_000_000_000
HOURS_MAX = 24 * 366.0
INTERVAL_SECONDS_MAX = 86_400.0
DURATION_SECONDS_MAX = 366 * 86_400.0
# With the ids' own words and numbers this stays within the contract's 100 characters.
PREFIX_PATTERN = re.compile(r"[A-Za-z0-9._:-]{0,80}")
# Evidence is kept in memory: this is about 2 GB.
VERIFIED_READINGS_MAX = 50_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The broker and the database are those of the settings (MQTT_URL, DATABASE_URL), else of the `wattline up` "
        "that runs in this folder. One run at a time per prefix. Exit status: 0 ok, 1 failed (no answer to "
        "something that was sent, or --verify found something), 2 bad usage."
    )
    count = _number(int, 0, DEVICES_MAX)
    add = parser.add_argument
    add("--meters", type=count, default=100, metavar="N", help="simulated meters (default %(default)s)")
    add("--vehicles", type=count, default=100, metavar="N", help="simulated vehicles (default %(default)s)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--interval",
        type=_number(float, INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
        metavar="SECONDS",
        help=f"a fleet: time between two readings of a device (default {INTERVAL_SECONDS:g})",
    )
    pace.add_argument(
        "--rate",
        type=_number(float, 0.1, RATE_MAX),
        metavar="R",
        help="open loop: R readings a second, whatever the broker does; latency counts from when each was due",
    )
    pace.add_argument(
        "--max", action="store_true", help="closed loop: as fast as the broker acknowledges what is under way"
    )
    add(
        "--messages",
        type=_number(int, 1, MESSAGES_MAX),
        metavar="N",
        help="end after N readings (with --rate or --max)",
    )
    add(
        "--hours",
        type=_number(float, 1 / 60, HOURS_MAX),
        metavar="H",
        help="backfill: readings of the past H hours, one a minute and device, oldest first (as --max, or at --rate)",
    )
    share = _number(float, 0, 1)
    add("--duplicates", type=share, default=0.0, metavar="SHARE", help="share of the readings sent twice (0 to 1)")
    add("--late", type=share, default=0.0, metavar="SHARE", help="share with a timestamp of an hour before")
    add("--malformed", type=share, default=0.0, metavar="SHARE", help="share of messages that must be refused")
    add("--mqtt-version", choices=("3.1.1", "5"), default="5", help="what the devices speak (default %(default)s)")
    add("--qos", type=int, choices=(0, 1), default=1, help="0: nothing is acknowledged (default %(default)s)")
    add("--latency", action="store_true", help="measure publish → committed in the tables, too; --verify does anyway")
    add("--json", action="store_true", help="the report as one JSON object on stdout")
    add(
        "--duration",
        type=_number(float, 0.1, DURATION_SECONDS_MAX),
        metavar="SECONDS",
        help="how long to publish (default: until Ctrl-C)",
    )
    add(
        "--prefix",
        type=_prefix,
        default="LOAD",
        help="what device ids begin with: PREFIX-METER-001, PREFIX-VEH-001; '' = METER-001 (default %(default)s)",
    )
    add("--verify", action="store_true", help="at the end, compare every acknowledged reading with the tables")
    add(
        "--verify-timeout",
        type=_number(float, 0, DURATION_SECONDS_MAX),
        default=60.0,
        metavar="SECONDS",
        help="how long --verify waits for the last readings to be stored (default %(default)g)",
    )
    add(
        "--connections",
        type=_number(int, 1, CONNECTIONS_MAX),
        default=4,
        metavar="N",
        help="connections to the broker that the devices share (default %(default)s)",
    )
    add("--seed", type=int, default=1, metavar="N", help="the same seed simulates the same fleet (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the fleet, report, verify."""
    settings = load_settings(beside_up=True)
    pace = pace_of(args)
    problem = _problem(args, pace, settings) or make_room(min(args.connections, pace.points))
    if problem is not None:
        return _complain(problem, BAD_USAGE)
    configure_logging(settings.log_level, settings.log_format)
    report = Report()
    try:
        status = _run(args, settings, pace, report)
    except (VerifyError, LinkError) as error:
        report.error = str(error)
        status = _complain(report.error, FAILED)
    if args.json:
        print(json.dumps(report.as_json(status)), flush=True)
    return status


def _run(args: argparse.Namespace, settings: Settings, pace: Pace, report: Report) -> int:
    points = make_fleet(args.meters, args.vehicles, args.prefix, Random(f"fleet {args.seed}"))
    counts, record = report.counts, Record(points) if args.verify else None
    readings_max = None if isinstance(pace, Schedule) else pace.turns
    progress = Progress(counts, args.duration, readings_max=readings_max)
    log.install(progress, settings.log_level)
    _introduce(args, settings)
    past_from_us = None if args.hours is None else time.time_ns() // 1000 - round(args.hours * 3600e6)
    tables = _tables(settings)
    if args.verify or args.latency:
        check_tables(tables)
        report.committed = Committed(tables)
    if record is not None and (past_from_us is not None or args.late):
        first_us = past_from_us or time.time_ns() // 1000
        check_nothing_there(tables, args.prefix, first_us - LATE_SECONDS * 1_000_000 if args.late else first_us)
    fleet = Run(
        points,
        pace,
        min(args.connections, pace.points),
        Random(f"run {args.seed}"),
        counts,
        record,
        progress,
        Faults(args.duplicates, args.late, args.malformed),
        args.mqtt_version,
        args.qos,
        past_from_us,
        report.latency,
        report.committed,
    )
    status = OK
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run_fleet(fleet, settings))
        if fleet.bounded and counts.published and (counts.not_sent or (args.qos and counts.unacknowledged)):
            status = FAILED
        if fleet.bounded and args.qos and counts.published and not counts.acknowledged:
            status = FAILED
    except LinkError as error:
        if not counts.published:
            raise
        report.error = str(error)
        status = _complain(report.error, FAILED)
    say = sys.stderr if args.json else sys.stdout
    print(*report.lines(), sep="\n", file=say, flush=True)
    if record is not None:
        status = max(status, _verify(args, settings, record, report))
    return status


def pace_of(args: argparse.Namespace) -> Pace:
    """The three ways to load a system, by the options."""
    devices = args.meters + args.vehicles
    if args.rate is None and not args.max and args.hours is None:
        return Schedule(max(args.meters, args.vehicles), args.interval or INTERVAL_SECONDS, args.duration)
    limits = [] if args.messages is None else [args.messages]
    if args.hours is not None:
        limits.append(devices * max(1, round(args.hours * 3600 / BACKFILL_SECONDS)))
    turns = min(limits, default=None)
    if args.rate is not None:
        return OpenLoop(devices, args.rate, args.duration, turns)
    if args.verify and turns is None and args.duration is not None:
        turns = VERIFIED_READINGS_MAX
    return ClosedLoop(devices, args.duration, turns)


def _verify(args: argparse.Namespace, settings: Settings, record: Record, report: Report) -> int:
    told = False

    def on_wait(stored: int, acknowledged: int) -> None:
        nonlocal told
        if not told:
            _say(f"waiting up to {args.verify_timeout:g} s for all {acknowledged} readings; {stored} are stored")
        told = True

    try:
        findings = verify(_tables(settings), record, args.prefix, args.verify_timeout, on_wait)
    except VerifyError as error:
        report.error = str(error)
        return _complain(report.error, FAILED)
    report.findings = findings
    say = sys.stderr if args.json else sys.stdout
    print(findings.line(), *findings.examples, sep="\n", file=say, flush=True)
    return OK if findings.clean else FAILED


def _tables(settings: Settings) -> Tables:
    return Tables(settings.database_conninfo, settings.database_label)


def _introduce(args: argparse.Namespace, settings: Settings) -> None:
    names = f"{id_prefix('meter', args.prefix)}..., {id_prefix('vehicle', args.prefix)}..."
    how_long = "until Ctrl-C" if args.duration is None else f"for {args.duration:g} s"
    if args.rate is not None:
        how_fast = f"{args.rate:g} readings a second"
    elif args.max or args.hours is not None:
        how_fast = "as fast as the broker acknowledges"
    else:
        how_fast = f"a reading each every {args.interval or INTERVAL_SECONDS:g} s"
    if args.hours is not None:
        how_long = f"about the past {args.hours:g} h"
    elif args.messages is not None:
        how_long = f"{args.messages} readings"
    _say(
        f"{args.meters} meters and {args.vehicles} vehicles ({names}), {how_fast}, {how_long}, "
        f"to the broker at {settings.broker}"
    )
    if args.verify:
        _say(f"verifying against the database at {settings.database_label}")


def _problem(args: argparse.Namespace, pace: Pace, settings: Settings) -> str | None:  # noqa: PLR0911 - a refusal each
    """What is wrong with the options together."""
    if pace.points == 0:
        return "--meters and --vehicles are both 0: nothing would be published"
    if isinstance(pace, Schedule) and args.messages is not None:
        return "--messages needs --rate or --max: a fleet ends after --duration"
    if args.hours is not None:
        if args.interval is not None:
            return "--hours and --interval do not go together: a backfill has a reading a minute, at --rate or --max"
        hours = args.hours + (LATE_SECONDS / 3600 if args.late else 0)
        if hours >= settings.max_reading_age_days * 24:
            return (
                f"--hours {args.hours:g}{' with --late' if args.late else ''} goes back further than the ingestor "
                f"takes readings (MAX_READING_AGE_DAYS, {settings.max_reading_age_days}): take fewer hours"
            )
    if not args.verify:
        return None
    if args.qos == 0:
        return "--verify needs --qos 1: with QoS 0 nothing is acknowledged, so nothing is promised"
    if pace.turns is None:
        return "--verify needs --duration (or --messages, or --hours): it remembers every reading until the end"
    turns = pace.turns
    readings = turns * (args.meters + args.vehicles) // pace.points if isinstance(pace, Schedule) else turns
    if readings > VERIFIED_READINGS_MAX:
        return (
            f"--verify remembers every reading, and this run has {readings:,} (at most {VERIFIED_READINGS_MAX:,}): "
            "shorten --duration or lengthen --interval"
        )
    return None


def _number(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """A type for argparse: a number within limits."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {whole} from {least:g} to {most:,.0f}")
        return value

    return parse


def _prefix(text: str) -> str:
    if not PREFIX_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} has other characters than A-Z a-z 0-9 . _ : - or is over 80 long")
    return text


def _say(text: str) -> None:
    print(f"loadgen: {text}", file=sys.stderr)


def _complain(text: str, status: int) -> int:
    print(f"wattline loadgen: {text}", file=sys.stderr)
    return status

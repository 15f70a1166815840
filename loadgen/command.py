"""`wattline loadgen`: its options, its words, its exit status. The work is done in `run` and `verify`."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
from collections.abc import Callable
from random import Random

from config.event_loop import loop_factory
from config.logging import configure_logging
from config.settings import Settings, load_settings
from loadgen import log
from loadgen.counts import Counts
from loadgen.fleet import id_prefix, make_fleet
from loadgen.progress import Progress
from loadgen.record import Record
from loadgen.run import Run, run_fleet
from loadgen.schedule import Schedule
from loadgen.stored import Tables
from loadgen.verify import VerifyError, check_tables, verify
from telemetry.errors import LinkError

OK, FAILED, BAD_USAGE = 0, 1, 2

DEVICES_MAX = 1_000_000
CONNECTIONS_MAX = 100_000
# Below this an energy is a handful of mWh, and the ratio of two roundings says nothing; for more messages take more
# devices.
INTERVAL_SECONDS_MIN = 0.1
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
        "that runs in this folder. One run at a time per prefix. Exit status: 0 ok, 1 failed (nothing acknowledged, or "
        "--verify found something), 2 bad usage."
    )
    count = _number(int, 0, DEVICES_MAX)
    add = parser.add_argument
    add("--meters", type=count, default=100, metavar="N", help="simulated meters (default %(default)s)")
    add("--vehicles", type=count, default=100, metavar="N", help="simulated vehicles (default %(default)s)")
    add(
        "--interval",
        type=_number(float, INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
        default=5.0,
        metavar="SECONDS",
        help="time between two readings of a device (default %(default)g)",
    )
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
    schedule = Schedule(max(args.meters, args.vehicles), args.interval, args.duration)
    problem = _problem(args, schedule)
    if problem is not None:
        return _complain(problem, BAD_USAGE)
    settings = load_settings(beside_up=True)
    configure_logging(settings.log_level, settings.log_format)
    points = make_fleet(args.meters, args.vehicles, args.prefix, Random(f"fleet {args.seed}"))
    counts, record = Counts(), Record(points) if args.verify else None
    progress = Progress(counts, args.duration)
    log.install(progress, settings.log_level)
    _introduce(args, settings)
    fleet = Run(
        points, schedule, min(args.connections, len(points)), Random(f"run {args.seed}"), counts, record, progress
    )
    try:
        if record is not None:
            check_tables(_tables(settings))
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run_fleet(fleet, settings))
        status = OK if args.duration is None or counts.acknowledged or not counts.published else FAILED
    except VerifyError as error:
        return _complain(str(error), FAILED)
    except LinkError as error:
        status = _complain(str(error), FAILED)
        if not counts.published:
            return status
    print(*counts.report(), sep="\n", flush=True)
    if record is not None:
        status = max(status, _verify(args, settings, record))
    return status


def _verify(args: argparse.Namespace, settings: Settings, record: Record) -> int:
    told = False

    def on_wait(stored: int, acknowledged: int) -> None:
        nonlocal told
        if not told:
            _say(f"waiting up to {args.verify_timeout:g} s for all {acknowledged} readings; {stored} are stored")
        told = True

    try:
        findings = verify(_tables(settings), record, args.prefix, args.verify_timeout, on_wait)
    except VerifyError as error:
        return _complain(str(error), FAILED)
    print(findings.line(), *findings.examples, sep="\n", flush=True)
    return OK if findings.clean else FAILED


def _tables(settings: Settings) -> Tables:
    return Tables(settings.database_conninfo, settings.database_label)


def _introduce(args: argparse.Namespace, settings: Settings) -> None:
    names = f"{id_prefix('meter', args.prefix)}..., {id_prefix('vehicle', args.prefix)}..."
    how_long = "until Ctrl-C" if args.duration is None else f"for {args.duration:g} s"
    _say(
        f"{args.meters} meters and {args.vehicles} vehicles ({names}), "
        f"a reading each every {args.interval:g} s, {how_long}, to the broker at {settings.broker}"
    )
    if args.verify:
        _say(f"verifying against the database at {settings.database_label}")


def _problem(args: argparse.Namespace, schedule: Schedule) -> str | None:
    """What is wrong with the options together."""
    if schedule.points == 0:
        return "--meters and --vehicles are both 0: nothing would be published"
    if not args.verify:
        return None
    if schedule.turns is None:
        return "--verify needs --duration: it remembers every reading until the end"
    readings = schedule.turns * (args.meters + args.vehicles) // schedule.points
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

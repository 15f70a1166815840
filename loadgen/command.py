"""`wattline loadgen`: what its options mean together, its words, its exit status.

Each option by itself is in `options`; the work is done in `run` and `verify`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from random import Random

from access.lists import Entry, read_devices
from config.errors import FAILED, OK, UsageError, WattlineError
from config.event_loop import loop_factory
from config.logging import configure_logging, tell
from config.open_files import raise_limit
from config.output import counted, first_few, say
from config.settings import Settings, load_settings
from loadgen import log
from loadgen.committed import Committed
from loadgen.evidence import Evidence
from loadgen.fleet import device_ids, id_prefix, make_fleet, points_of
from loadgen.messages import LATE_SECONDS, Faults
from loadgen.options import INTERVAL_SECONDS, configure, device_options, devices_of
from loadgen.progress import Progress
from loadgen.report import Report
from loadgen.run import Run, run_fleet
from loadgen.schedule import ClosedLoop, OpenLoop, Pace, Schedule
from loadgen.script import BACKFILL_SECONDS
from loadgen.stored import Tables
from loadgen.verify import check_nothing_there, check_tables, verify
from mqtt.errors import LinkError
from telemetry.kinds import BY_NAME

__all__ = ["configure", "run"]


# Log, terminal, event loop, database: the files that a run has open besides its connections.
OTHER_FILES = 64
# Evidence is kept in memory: this is about 2 GB.
VERIFIED_READINGS_MAX = 50_000_000


def run(args: argparse.Namespace) -> int:
    """Run the fleet, report, verify. Raises WattlineError."""
    settings = load_settings(beside_up=True, data_dir=args.data_dir, publishes=True)
    pace = pace_of(args)
    accounts = (
        None if args.accounts is None else {entry.device: entry for entry in read_devices(args.accounts, new=False)}
    )
    connections = sum(devices_of(args).values()) if accounts is not None else min(args.connections, pace.points)
    problem = (
        _no_account(args, settings, accounts)
        or _problem(args, pace, settings)
        or _cannot_ask(args)
        or _no_room(connections)
    )
    if problem is not None:
        raise UsageError(problem)
    configure_logging(settings.log_level, settings.log_format)
    report, status = Report(), FAILED
    try:
        status = _run(args, settings, pace, report, accounts)
    except WattlineError as error:
        status, report.error = error.exit_status, str(error)
        raise
    finally:
        if args.json:
            say([json.dumps(report.as_json(status))])
    return status


def _run(
    args: argparse.Namespace, settings: Settings, pace: Pace, report: Report, accounts: Mapping[str, Entry] | None
) -> int:
    points = make_fleet(devices_of(args), args.prefix, Random(f"fleet {args.seed}"))
    counts, evidence = report.counts, Evidence(points) if args.verify else None
    readings_max = None if isinstance(pace, Schedule) else pace.turns
    progress = Progress(counts, args.duration, readings_max=readings_max)
    log.install(progress)
    _introduce(args, settings)
    past_from_us = None if args.hours is None else time.time_ns() // 1000 - round(args.hours * 3600e6)
    tables = _tables(settings)
    if args.verify or args.latency:
        check_tables(tables)
        report.committed = Committed(tables)
    if evidence is not None and (past_from_us is not None or args.late):
        first_us = past_from_us or time.time_ns() // 1000
        check_nothing_there(tables, args.prefix, first_us - LATE_SECONDS * 1_000_000 if args.late else first_us)
    fleet = Run(
        points,
        pace,
        min(args.connections, pace.points) if accounts is None else sum(devices_of(args).values()),
        Random(f"run {args.seed}"),
        counts,
        evidence,
        progress,
        Faults(args.duplicates, args.late, args.malformed),
        args.mqtt_version,
        args.qos,
        past_from_us,
        report.latency,
        report.committed,
        accounts,
        args.receipts,
    )
    if args.receipts is not None:
        report.answer = "receipt"
    status = OK
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run_fleet(fleet, settings))
        if fleet.bounded and counts.published and (counts.not_sent or (args.qos and counts.unacknowledged)):
            status = FAILED
        if fleet.bounded and args.qos and counts.published and not counts.acknowledged:
            status = FAILED
        if args.receipts is not None and counts.refused:
            status = FAILED
    except LinkError as error:
        if not counts.published:
            raise
        report.error, status = str(error), FAILED
        tell(report.error)
    say(report.lines(), sys.stderr if args.json else sys.stdout)
    if evidence is not None:
        status = max(status, _verify(args, settings, evidence, report))
    return status


def pace_of(args: argparse.Namespace) -> Pace:
    """The three ways to load a system, by the options."""
    wanted = devices_of(args)
    devices = sum(wanted.values())
    if args.rate is None and not args.max and args.hours is None:
        return Schedule(points_of(wanted), args.interval or INTERVAL_SECONDS, args.duration)
    limits = [] if args.messages is None else [args.messages]
    if args.hours is not None:
        limits.append(devices * max(1, round(args.hours * 3600 / BACKFILL_SECONDS)))
    turns = min(limits, default=None)
    if args.rate is not None:
        return OpenLoop(devices, args.rate, args.duration, turns)
    if args.verify and turns is None and args.duration is not None:
        turns = VERIFIED_READINGS_MAX
    return ClosedLoop(devices, args.duration, turns)


def _verify(args: argparse.Namespace, settings: Settings, evidence: Evidence, report: Report) -> int:
    told = False

    def on_wait(stored: int, acknowledged: int) -> None:
        nonlocal told
        if not told:
            _say(f"waiting up to {args.verify_timeout:g} s for all {acknowledged} readings; {stored} are stored")
        told = True

    report.findings = findings = verify(_tables(settings), evidence, args.prefix, args.verify_timeout, on_wait)
    say([findings.line(), *findings.examples], sys.stderr if args.json else sys.stdout)
    return OK if findings.clean else FAILED


def _tables(settings: Settings) -> Tables:
    return Tables(settings.database_conninfo, settings.database_label)


def _introduce(args: argparse.Namespace, settings: Settings) -> None:
    there = {kind: count for kind, count in devices_of(args).items() if count}
    fleet = ", ".join(f"{count} {BY_NAME[kind].many}" for kind, count in there.items())
    names = ", ".join(f"{id_prefix(kind, args.prefix)}..." for kind in there)
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
    _say(f"{fleet} ({names}), {how_fast}, {how_long}, to the broker at {settings.broker}")
    if args.verify:
        _say(f"verifying against the database at {settings.database_label}")


def _problem(args: argparse.Namespace, pace: Pace, settings: Settings) -> str | None:  # noqa: PLR0911 - a refusal each
    """What is wrong with the options together."""
    if pace.points == 0:
        return f"{', '.join(device_options())} are all 0: nothing would be published"
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
    readings = turns * sum(devices_of(args).values()) // pace.points if isinstance(pace, Schedule) else turns
    if readings > VERIFIED_READINGS_MAX:
        return (
            f"--verify remembers every reading, and this run has {readings:,} (at most {VERIFIED_READINGS_MAX:,}): "
            "shorten --duration or lengthen --interval"
        )
    return None


def _no_account(args: argparse.Namespace, settings: Settings, accounts: Mapping[str, Entry] | None) -> str | None:
    """Why nothing may connect as these settings say; else None."""
    if accounts is not None:
        missing = [device for device in device_ids(devices_of(args), args.prefix) if device not in accounts]
        if not missing:
            return None
        return (
            f"{args.accounts} has no account of {counted(len(missing), 'device')}: {first_few(missing)}; "
            "`wattline devices add --csv … --out …` makes accounts and such a file"
        )
    if not settings.has_ingestors_account:
        return None
    return (
        "MQTT_URL has the ingestor's own account, and a device that connects by it could end the ingestor's session, "
        "with all that is queued there: set MQTT_URL to another account, or name the devices' own with --accounts"
    )


def _cannot_ask(args: argparse.Namespace) -> str | None:
    if args.receipts is not None and (args.qos == 0 or args.mqtt_version != "5"):
        return "--receipts needs --mqtt-version 5 and --qos 1: a device of MQTT 3.1.1 cannot ask"
    return None


def _no_room(connections: int) -> str | None:
    """What to change where this process may not open so many connections; else None."""
    needed = connections + OTHER_FILES
    limit = raise_limit(needed)
    if limit >= needed:
        return None
    return (
        f"--connections {connections} needs {needed:,} open files and the limit is {limit:,}: raise it "
        f"(`ulimit -n {needed}` as root, or LimitNOFILE= / nofile in limits.conf), or take at most "
        f"{max(1, limit - OTHER_FILES)} connections"
    )


def _say(text: str) -> None:
    say([f"loadgen: {text}"], sys.stderr)

"""`wattline rejected list` and `wattline rejected replay`: their options, their words, their exit status."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

from config.arguments import add_limit, row_id
from config.errors import FAILED, OK, UsageError, WattlineError
from config.output import first_few, say
from config.settings import Settings
from ingestor.batch import Refusal
from ingestor.clocks import database_clock
from ingestor.rejected.listing import SHOWN_BYTES, as_json, as_text, printable
from ingestor.rejected.quarantine import Choice, newest
from ingestor.rejected.replay import Fate, Replay, Verdict, rehearse, replay_chosen
from ingestor.rejected.spool import from_line
from postgres.command import run_with_database
from postgres.connecting import Session, connect
from telemetry.moments import FORM, moment
from telemetry.readings import ReasonCode
from telemetry.rules import Rules

WHOLE_BYTES = 2**31 - 1

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show the newest", description="Show the newest refused messages.")
    add_limit(listing)
    _add_filters(listing)
    listing.add_argument("--json", action="store_true", help="one JSON object a line, with the whole kept payload")
    replaying = actions.add_parser(
        "replay",
        help="judge and store them again",
        description="Judge refused messages again, oldest first, and store what is valid now, by the settings of this "
        "command and the database's clock. It says what became of each: stored, repeated (it was stored already), in "
        "conflict, or refused again. What was cut when it was kept (payloads of more than 1 MB, topics of more than "
        "1,000 bytes) is skipped. Exit status 1 if one is not stored.",
    )
    _add_filters(replaying)
    which = replaying.add_mutually_exclusive_group()
    which.add_argument("--id", type=row_id, nargs="+", metavar="N", help="these, even if they were replayed before")
    which.add_argument("--all", action="store_true", help="all that were not replayed yet")
    which.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="the lines of a file in REJECTED_SPOOL_DIR; then it is renamed to FILE.replayed",
    )
    replaying.add_argument("--dry-run", action="store_true", help="only say how many that would be")


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 if a message could not be stored. Raises WattlineError."""
    if args.action == "replay":
        filtered = _choice(args) != Choice()
        if args.file is not None and filtered:
            raise UsageError("--file is replayed whole; it goes with no other choice")
        if args.file is None and not filtered and not args.all:
            raise UsageError("which? --all, --file, or any of --id, --code, --device, --topic-prefix, --since, --until")
    return run_with_database(args, partial(_list if args.action == "list" else _replay, args))


async def _list(args: argparse.Namespace, settings: Settings) -> int:
    async with await _connect(settings) as connection:
        found = await newest(connection, args.limit, _choice(args), WHOLE_BYTES if args.json else SHOWN_BYTES)
    say(as_json(refused) if args.json else as_text(refused) for refused in found)
    if not found:
        logger.info("nothing in quarantine%s", f" with code {args.code}" if args.code else "")
    return OK


async def _replay(args: argparse.Namespace, settings: Settings) -> int:
    if args.file is not None:
        return await _replay_file(args, settings)
    choice = _choice(args)
    async with await _connect(settings) as session:
        if args.dry_run:
            counts = await rehearse(session, choice)
            say([f"would replay {counts[None]:,}, skipped {counts['cut']:,}"])
            return OK
        tally, seen = Counter[Fate](), set[int]()
        async with _replaying(settings, keeps_refusals=False) as replay:
            try:
                async for number, verdict in replay_chosen(session, replay, choice):
                    seen.add(number)
                    tally[verdict.fate] += 1
                    say([_told(str(number), verdict)])
            finally:
                if unknown := sorted(set(args.id or ()) - seen):
                    say([f"not in quarantine (any more), or not reached: {first_few(unknown)}"])
                say([_summary(tally)])
    return OK if not unknown and not _unsettled(tally) else FAILED


async def _replay_file(args: argparse.Namespace, settings: Settings) -> int:
    try:
        lines = args.file.read_bytes().splitlines()
        messages = [from_line(line) for line in lines]
    except (OSError, ValueError) as error:
        raise WattlineError(f"{args.file}: {getattr(error, 'strerror', None) or error}") from None
    if args.dry_run:
        say([f"would replay {len(messages):,}, skipped 0"])
        return OK
    tally, lost = Counter[Fate](), 0
    async with await _connect(settings) as session, _replaying(settings, keeps_refusals=True) as replay:
        for number, message in enumerate(messages, 1):
            verdict = await replay.judge(*message, await database_clock(session))
            tally[verdict.fate] += 1
            lost += not verdict.kept
            say([_told(f"line {number}", verdict)])
    if not lost and not tally["locked"]:
        args.file.rename(f"{args.file}.replayed")
    say([_summary(tally)])
    return FAILED if _unsettled(tally) else OK


@asynccontextmanager
async def _replaying(settings: Settings, *, keeps_refusals: bool) -> AsyncIterator[Replay]:
    replay = Replay(
        settings.database_conninfo,
        Rules.from_settings(settings),
        timeout_seconds=settings.flush_timeout_seconds,
        keeps_refusals=keeps_refusals,
    )
    try:
        yield replay
    finally:
        await replay.close()


def _told(which: str, verdict: Verdict) -> str:
    match verdict:
        case Verdict("cut"):
            return f"{which}  skipped: only a part of it was kept"
        case Verdict("locked"):
            return f"{which}  not stored: somebody holds a lock that it needs; replay it again later"
        case Verdict(fate, Refusal() as refusal):
            return f"{which}  {fate}: {refusal.code}: {printable(refusal.reason)}"
        case _:
            return f"{which}  {verdict.fate}"


def _summary(tally: Counter[Fate]) -> str:
    return (
        f"stored {tally['stored']:,}, repeated {tally['repeated']:,}, in conflict {tally['in conflict']:,}, "
        f"refused again {tally['refused again']:,}, skipped {tally['cut']:,}, locked {tally['locked']:,}"
    )


def _unsettled(tally: Counter[Fate]) -> int:
    return tally["in conflict"] + tally["refused again"] + tally["locked"]


def _choice(args: argparse.Namespace) -> Choice:
    return Choice(getattr(args, "id", None), args.code, args.device, args.topic_prefix, args.since, args.until)


async def _connect(settings: Settings) -> Session:
    return await connect(settings.database_conninfo, autocommit=True, application_name="wattline rejected")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    codes = get_args(ReasonCode)
    parser.add_argument(
        "--code", choices=codes, metavar="CODE", help=f"only those refused for this reason: {', '.join(codes)}"
    )
    parser.add_argument("--device", metavar="ID", help="only those whose topic ends with this id")
    parser.add_argument("--topic-prefix", metavar="TEXT", help="only those whose topic begins so")
    parser.add_argument("--since", type=moment, metavar="TIME", help=f"only those received from then on ({FORM})")
    parser.add_argument("--until", type=moment, metavar="TIME", help="only those received before")

"""`wattline rejected list` and `wattline rejected replay`: their options, their words, their exit status."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.logging import configure_logging
from config.settings import Settings, load_settings
from ingestor.rejected.listing import SHOWN_BYTES, as_json, as_text
from ingestor.rejected.quarantine import Choice, newest
from ingestor.rejected.replay import Outcome, publish_all, rehearse, replay
from ingestor.rejected.spool import from_line
from mqtt.errors import LinkError
from mqtt.link import Link, LinkOptions
from postgres.connecting import connect
from postgres.words import explain
from telemetry.readings import ReasonCode

OK, FAILED = 0, 1
LIST_MAX = 1000
IDS_SHOWN_MAX = 20
ID_MAX = 2**63 - 1
WHOLE_BYTES = 2**31 - 1
CONNECT_SECONDS = 5.0

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline rejected`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show the newest", description="Show the newest refused messages.")
    listing.add_argument(
        "--limit", type=_number(LIST_MAX), default=20, metavar="N", help=f"how many, 1-{LIST_MAX} (default %(default)s)"
    )
    _add_code(listing, "only those refused for this reason")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, with the whole kept payload")
    replaying = actions.add_parser(
        "replay",
        help="publish them again",
        description="Publish refused messages again, to their own topics, oldest first. "
        "A reading that is stored already is not stored twice. "
        "What was cut when it was kept (payloads of more than 1 MB, topics of more than 1,000 bytes) is skipped.",
    )
    which = replaying.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--id", type=_number(ID_MAX), nargs="+", metavar="N", help="these, even if they were replayed before"
    )
    _add_code(which, "all that were refused for this reason and not replayed yet")
    which.add_argument("--all", action="store_true", help="all that were not replayed yet")
    which.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="the lines of a file in REJECTED_SPOOL_DIR; then it is renamed to FILE.replayed",
    )
    replaying.add_argument("--dry-run", action="store_true", help="only say how many that would be")


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 if the database or the broker is away, or a message could not be published."""
    settings = load_settings(
        beside_up=True, data_dir=args.data_dir, publishes=args.action == "replay" and not args.dry_run
    )
    configure_logging(settings.log_level, settings.log_format)
    try:
        return asyncio.run(_list(args, settings) if args.action == "list" else _replay(args, settings))
    except psycopg.errors.UndefinedTable:
        log.error("%s has no quarantine yet; run wattline migrate", settings.database_label)  # noqa: TRY400 - one line
    except psycopg.Error as error:
        log.error("%s", explain(error, settings.database_label))  # noqa: TRY400 - same
    except LinkError as error:
        log.error("%s", error)  # noqa: TRY400 - same
    except BrokenPipeError:
        # `| head` has read what it wants; Python flushes once more at exit, and must find an open door.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return FAILED


async def _list(args: argparse.Namespace, settings: Settings) -> int:
    async with await _connect(settings) as connection:
        found = await newest(connection, args.limit, args.code, WHOLE_BYTES if args.json else SHOWN_BYTES)
    _say(as_json(refused) if args.json else as_text(refused) for refused in found)
    if not found:
        log.info("nothing in quarantine%s", f" with code {args.code}" if args.code else "")
    return OK


async def _replay(args: argparse.Namespace, settings: Settings) -> int:
    if args.file is not None:
        return await _replay_file(args, settings)
    choice = Choice(args.id, args.code)
    async with await _connect(settings) as connection:
        if args.dry_run:
            outcome = await rehearse(connection, choice)
        else:
            async with _link(settings) as link:
                await link.wait_connected(CONNECT_SECONDS)
                outcome = await replay(connection, link, choice)
    unknown = sorted(set(args.id or ()).difference(outcome.replayed, outcome.cut, outcome.failed))
    _say(_report(outcome, unknown, dry_run=args.dry_run))
    return FAILED if outcome.failed or unknown else OK


async def _replay_file(args: argparse.Namespace, settings: Settings) -> int:
    try:
        lines = args.file.read_bytes().splitlines()
        messages = [from_line(line) for line in lines]
    except (OSError, ValueError) as error:
        log.error("%s: %s", args.file, getattr(error, "strerror", None) or error)  # noqa: TRY400 - one line
        return FAILED
    if args.dry_run:
        _say([f"would replay {len(messages)}, skipped 0, failed 0"])
        return OK
    async with _link(settings) as link:
        await link.wait_connected(CONNECT_SECONDS)
        errors = await publish_all(link, messages)
    failed = Counter(str(error) for error in errors if error is not None)
    if not failed:
        args.file.rename(f"{args.file}.replayed")
    _say(f"{count} not published: {reason}" for reason, count in failed.most_common())
    _say([f"replayed {len(messages) - failed.total()}, skipped 0, failed {failed.total()}"])
    return FAILED if failed else OK


def _link(settings: Settings) -> Link:
    return Link(LinkOptions.from_settings(settings, client_id=f"wattline-rejected-{secrets.token_hex(4)}"))


def _report(outcome: Outcome, unknown: list[int], *, dry_run: bool) -> Iterable[str]:
    if outcome.cut:
        yield f"skipped, only a part of them was kept: {_ids(outcome.cut)}"
    if unknown:
        yield f"not in quarantine (any more): {_ids(unknown)}"
    for reason, count in outcome.reasons.most_common():
        yield f"{count} not published: {reason}"
    if outcome.lost is not None:
        yield "ended early; run it again to go on from there"
    would = "would replay" if dry_run else "replayed"
    yield f"{would} {len(outcome.replayed)}, skipped {len(outcome.cut)}, failed {len(outcome.failed) + len(unknown)}"


def _ids(ids: list[int]) -> str:
    more = len(ids) - IDS_SHOWN_MAX
    return ", ".join(map(str, ids[:IDS_SHOWN_MAX])) + (f" and {more} more" if more > 0 else "")


async def _connect(settings: Settings) -> AsyncConnection[TupleRow]:
    return await connect(settings.database_conninfo, autocommit=True, application_name="wattline rejected")


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _add_code(parser: argparse._ActionsContainer, text: str) -> None:
    codes = get_args(ReasonCode)
    parser.add_argument("--code", choices=codes, metavar="CODE", help=f"{text}: {', '.join(codes)}")


def _number(most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to {most:,}")
        return number

    return parse

"""`wattline retention`: what retention would drop now, and why; `run` lets it, with or without a yes; `keep` hourly."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Iterator
from functools import partial

from config.errors import SettingsError, WattlineError
from config.output import say
from config.settings import Settings
from ingestor.clocks import Clocks
from ingestor.housekeeping.chores import keep_doing
from ingestor.housekeeping.retention import DAYS_WITHOUT_YES, Plan, chore, drop_due, look
from ingestor.schema.partitions import may_drop
from postgres.command import run_with_database
from postgres.connecting import connect
from postgres.session import Limits

# A reader that is waited for may take a minute for each day; then the line says what to do.
LIMITS = Limits(lock_ms=60_000)

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    running = actions.add_parser(
        "run",
        help="drop now what may go",
        description="Drop the days that are past RETENTION_DAYS, with their hourly sums. Where more than "
        f"{DAYS_WITHOUT_YES} became due at once, only the first {DAYS_WITHOUT_YES} go without --yes.",
    )
    running.add_argument("--yes", action="store_true", help="all that is due; look at `wattline retention` first")
    actions.add_parser(
        "keep",
        help="drop what may go once an hour, until SIGTERM",
        description="For an ingestor that does not own the tables: the owner's process, which drops what may go once "
        "an hour, until SIGTERM or SIGINT.",
    )


def run(args: argparse.Namespace) -> int:
    """Show or drop what is due. Raises WattlineError, also where the clocks disagree."""
    run_with_database(args, _keep if args.action == "keep" else partial(_run, args))
    return 0


async def _keep(settings: Settings) -> None:
    if settings.retention_days == 0:
        raise SettingsError("RETENTION_DAYS: is 0, so there is nothing to drop; set how many days are kept")
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    each = chore(settings.retention_days, Clocks(settings.max_clock_skew_seconds), note_held=lambda _: None)
    keeping = asyncio.create_task(
        keep_doing(each, conninfo=settings.database_conninfo, label=settings.database_label, books=_NoBooks())
    )
    logger.info("keeping %d days at %s", settings.retention_days, settings.database_label)
    await stopped.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
    logger.info("stopped")


class _NoBooks:
    """The log tells what went wrong; the metrics are the ingestor's."""

    def chore_done(self, chore: str, now: float) -> None:
        """Nothing to count."""

    def chore_failed(self, chore: str) -> None:
        """Nothing to count."""


async def _run(args: argparse.Namespace, settings: Settings) -> None:
    keep_days = settings.retention_days
    if keep_days == 0:
        say(["RETENTION_DAYS is 0: everything is kept"])
        return
    clocks = Clocks(settings.max_clock_skew_seconds)
    session = await connect(
        settings.database_conninfo, autocommit=True, application_name="wattline retention", limits=LIMITS
    )
    async with session:
        if args.action is None:
            say(_described(await look(session, keep_days, clocks), keep_days, clocks))
            return
        if not await may_drop(session):
            raise WattlineError(
                f"user {session.info.user} does not own the tables, so it may not drop their days; run it as the owner"
            )
        found, dropped = await drop_due(session, keep_days, clocks, yes=args.yes)
    say([f"dropped {name}" for name in dropped] or ["nothing to drop"])
    if found.held and not args.yes:
        say([_held(found)])


def _described(found: Plan, keep_days: int, clocks: Clocks) -> Iterator[str]:
    apart = abs(clocks.offset_seconds or 0.0)
    yield f"now {found.now:%Y-%m-%d %H:%M:%SZ} (our clock and the database's are {apart:.1f} s apart)"
    yield "newest stored reading: " + ("none" if found.newest is None else f"{found.newest:%Y-%m-%d %H:%M:%SZ}")
    yield f"RETENTION_DAYS={keep_days} keeps {found.wanted} and what is later"
    if not found.due:
        yield "nothing is due"
    for day, name in found.due:
        yield f"due: {name}{' (kept until a person says yes)' if day >= found.granted else ''}"
    if found.held:
        yield _held(found)


def _held(found: Plan) -> str:
    return (
        f"{len(found.held)} days became due at once and are kept, {found.held[0]} to {found.held[-1]}: "
        "where that is right, `wattline retention run --yes` drops them"
    )

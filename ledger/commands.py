"""What `wattline readings` and `wattline device` have in common: who asks, a session, patience with flushes."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import psycopg
from pydantic import TypeAdapter, ValidationError

from config.settings import Settings
from ledger.stretch import TEXT_RULE, LedgerError, Text
from postgres.command import run_with_database
from postgres.connecting import Session, connect
from postgres.session import Limits
from telemetry.readings import DEVICE_ID_RULE, DeviceId

# A flush that waits for somebody's lock is over by then, or has left those rows out.
PATIENCE_SECONDS = 40.0
PAUSE_SECONDS = 0.2

T = TypeVar("T")

_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)


def run_with_session(args: argparse.Namespace, name: str, work: Callable[[Session], Awaitable[int]]) -> int:
    """The exit status of `work` on a session in autocommit mode. Raises WattlineError."""
    return run_with_database(args, partial(_with_session, name, work))


async def patiently(session: Session, work: Callable[[], Awaitable[T]], *, dry_run: bool = False) -> T:
    """What `work` answers, in one transaction, which a `dry_run` rolls back; again while flushes are in its way."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            async with session.transaction(force_rollback=dry_run):
                return await work()
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise LedgerError("somebody holds a lock that this needs; nothing was changed, try later") from None
            await asyncio.sleep(PAUSE_SECONDS)


def add_options_of_changes(parser: argparse.ArgumentParser) -> None:
    """`--by`, by default who runs the command, and `--dry-run`."""
    parser.add_argument("--by", type=text, default=_user(), metavar="NAME", help="who does it (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would change")


def text(given: str) -> str:
    """A type for argparse: a line for people."""
    try:
        return _TEXT.validate_python(given)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{TEXT_RULE} is expected") from None


def device_id(given: str) -> str:
    """A type for argparse: the id of a device."""
    try:
        return _DEVICE_ID.validate_python(given)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"a device's id has {DEVICE_ID_RULE}") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return f"user {os.getuid()}"


async def _with_session(name: str, work: Callable[[Session], Awaitable[int]], settings: Settings) -> int:
    limits = Limits(statement_ms=60_000)
    async with await connect(
        settings.database_conninfo, autocommit=True, application_name=f"wattline {name}", limits=limits
    ) as session:
        return await work(session)

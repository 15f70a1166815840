"""`wattline device forget`: its options and its words."""

from __future__ import annotations

import argparse
from functools import partial

from config.errors import FAILED, OK, UsageError
from config.output import counted, first_few, say
from ledger.commands import add_options_of_changes, device_id, patiently, run_with_session
from ledger.forget import forget
from postgres.connecting import Session
from telemetry.kinds import BY_NAME, KINDS


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    forgetting = actions.add_parser(
        "forget",
        help="devices that are gone",
        description="Forget the status of devices that are gone: they are in no list, and never silent. Their history "
        "stays, and a reading that one sends after all brings it back.",
    )
    forgetting.add_argument("--kind", required=True, choices=[kind.name for kind in KINDS])
    forgetting.add_argument("devices", nargs="*", type=device_id, metavar="DEVICE")
    forgetting.add_argument("--prefix", type=device_id, metavar="TEXT", help="all whose ids begin with it")
    add_options_of_changes(forgetting)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 where a device has no status, none begins so, or the database is away."""
    return run_with_session(args, "device", partial(_forget, args))


async def _forget(args: argparse.Namespace, session: Session) -> int:
    if not args.devices and args.prefix is None:
        raise UsageError("which devices? Name them, or what their ids begin with: --prefix")
    kind = BY_NAME[args.kind]
    gone = await patiently(
        session, lambda: forget(session, kind, args.devices, args.prefix, who=args.by), dry_run=args.dry_run
    )
    if gone:
        would = "would forget" if args.dry_run else "forgot"
        say([f"{would} {counted(len(gone), kind.name, kind.many)}: {first_few(gone)}"])
    unknown = sorted(set(args.devices).difference(gone))
    if unknown:
        say([f"no status of {counted(len(unknown), kind.name, kind.many)}: {first_few(unknown)}"])
    elif not gone:
        say([f"no {kind.name} begins with {args.prefix}"])
    return FAILED if unknown or not gone else OK

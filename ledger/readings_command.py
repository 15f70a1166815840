"""`wattline readings annul`, `restore` and `list`: their options and their words."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from functools import partial

from config.arguments import add_limit, row_id
from config.errors import FAILED, OK, UsageError
from config.output import counted, say
from ledger.annul import annul, kind_of
from ledger.commands import add_options_of_changes, device_id, patiently, run_with_session, text
from ledger.listing import Annulment, annulments
from ledger.restore import restore
from ledger.stretch import Change, Stretch
from postgres.connecting import Session
from telemetry.kinds import BY_NAME, KINDS
from telemetry.moments import FORM, moment


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    annulling = actions.add_parser(
        "annul",
        help="take readings out of every answer",
        description="Take the readings of a device in [from, to) out of every answer: history, status and sums. They "
        "are kept with the reason, and can be restored. Delivered again, they do not come back; readings of the same "
        "moments with other values are stored.",
    )
    annulling.add_argument("--device", required=True, type=device_id, metavar="ID")
    _add_kind(annulling, "needed only where a device of another kind has the same id")
    annulling.add_argument("--from", dest="start", required=True, type=moment, metavar="TIME", help=f"like {FORM}")
    annulling.add_argument("--to", dest="end", required=True, type=moment, metavar="TIME", help="end, not included")
    annulling.add_argument("--reason", required=True, type=text, metavar="TEXT", help="why, for those who ask later")
    restoring = actions.add_parser(
        "restore",
        help="put annulled readings back",
        description="Put the readings of an annulment back, just as they were. A reading whose moment has another one "
        "by now stays annulled.",
    )
    restoring.add_argument(
        "--id", required=True, type=row_id, metavar="N", help="the annulment, as annul and list say it"
    )
    for each in (annulling, restoring):
        add_options_of_changes(each)
    listing = actions.add_parser("list", help="show the newest annulments", description="Show the newest annulments.")
    listing.add_argument("--device", type=device_id, metavar="ID", help="only those of this device")
    _add_kind(listing, "only those of this kind")
    add_limit(listing)
    listing.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Exit status 0; 1 where nothing was changed, or not all could be restored, or the database is away."""
    work = {"annul": _annul, "restore": _restore, "list": _list}[args.action]
    return run_with_session(args, "readings", partial(work, args))


async def _annul(args: argparse.Namespace, session: Session) -> int:
    if args.end <= args.start:
        raise UsageError("--to must be later than --from")
    kind = BY_NAME[args.kind] if args.kind else await kind_of(session, args.device, args.start, args.end)
    stretch = Stretch(kind, args.device, args.start, args.end)
    done = await patiently(
        session, lambda: annul(session, stretch, reason=args.reason, who=args.by), dry_run=args.dry_run
    )
    would = "would annul" if args.dry_run else "annulled"
    say([f"{would} {_change(done)}, of {kind.name} {args.device}"])
    if not args.dry_run:
        say([f"to put them back: wattline readings restore --id {done.annulment_id}"])
    return OK


async def _restore(args: argparse.Namespace, session: Session) -> int:
    done = await patiently(session, lambda: restore(session, args.id, who=args.by), dry_run=args.dry_run)
    would = "would restore" if args.dry_run else "restored"
    say([f"{would} {_change(done)}, of {done.kind.name} {done.device_id}"])
    if done.left:
        say([f"{counted(done.left, 'reading')} not restored: another reading of that moment is stored now"])
    return FAILED if done.left else OK


async def _list(args: argparse.Namespace, session: Session) -> int:
    found = await annulments(session, rows=args.limit, kind=args.kind, device_id=args.device)
    say(map(_as_json if args.json else _as_text, found))
    return OK


def _change(done: Change) -> str:
    status = "; the newest reading is another one now, or none" if done.status_changed else ""
    return f"{counted(done.readings, 'reading')} ({done.kwh:.4f} kWh in {counted(done.hours, 'hour')}{status})"


def _as_text(annulment: Annulment) -> str:
    stretch = f"{_stamp(annulment.start)} to {_stamp(annulment.end)}"
    line = (
        f"{annulment.id}  {annulment.kind} {annulment.device_id}  {stretch}  {counted(annulment.readings, 'reading')}  "
        f"annulled {_stamp(annulment.annulled_at)} by {annulment.who}: {annulment.reason}"
    )
    if annulment.restored_at is None:
        return line
    return f"{line}  ({annulment.restored:,} restored {_stamp(annulment.restored_at)} by {annulment.restored_by})"


def _as_json(annulment: Annulment) -> str:
    values = {name: _stamp(value) if isinstance(value, datetime) else value for name, value in vars(annulment).items()}
    return json.dumps(values, ensure_ascii=False)


def _stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _add_kind(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help=help_text)

"""`wattline devices`: its options and its words."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from access.errors import AccessError
from access.folder import changing, read
from access.lists import Entry, csv_text, read_devices, with_new_secrets, write_secrets
from access.rights import DEVICE, ROLES, device_of
from access.telling import PID_FILE, tell_broker
from config.errors import OK, UsageError
from config.logging import tell
from config.output import counted, say
from config.running import access_dir_of_running
from config.settings import load_settings
from telemetry.readings import DEVICE_ID_RULE, DeviceId

_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline devices` and of each action."""
    parser.epilog = (
        "The accounts are two files of Mosquitto, in the folder BROKER_ACCESS_DIR or that of the `wattline up "
        "--secure` that runs in this folder. The broker is not restarted, and nobody's connection is cut but that of "
        "an account which is removed or has a new secret."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    roles = "; ".join(f"{role.name}: {role.meaning}" for role in ROLES.values())
    for action, summary in (
        ("add", "accounts of new devices, each with a secret of its own"),
        ("rotate", "a new secret for each; with the old one it gets in no more"),
        ("remove", "accounts of devices that are gone; their connections are cut"),
        ("list", "all accounts, and what each may do"),
    ):
        inner = actions.add_parser(action, help=summary, description=summary[0].upper() + summary[1:] + ".")
        inner.add_argument(
            "--access-dir", type=Path, metavar="DIR", help="the folder of the two files (BROKER_ACCESS_DIR)"
        )
        if action == "list":
            inner.add_argument("--prefix", default="", metavar="TEXT", help="only those whose names begin with it")
            continue
        inner.add_argument("devices", nargs="*", type=_device_id, metavar="DEVICE")
        inner.add_argument(
            "--csv",
            metavar="FILE",
            help="a device a line" + (", or device,password" if action != "remove" else "") + "; - is standard input",
        )
        inner.add_argument(
            "--pid-file", type=Path, metavar="FILE", help=f"the broker's (default: {PID_FILE} in that folder)"
        )
        if action == "add":
            inner.add_argument("--as", dest="role", choices=[DEVICE, *ROLES], default=DEVICE, help=roles)
        if action != "remove":
            inner.add_argument(
                "--out",
                type=Path,
                metavar="FILE",
                help="a new file (0600) for the secrets; else they are printed, once",
            )


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or an AccessError and nothing changed."""
    folder = _folder(args)
    if args.action == "list":
        say(_listed(folder, args.prefix))
        return OK
    entries = _entries(args)
    names, secrets = [entry.device for entry in entries], [entry.secret for entry in entries]
    written = None
    try:
        with changing(folder) as accounts:
            if args.action == "add":
                accounts.add(names, args.role, secrets)
            elif args.action == "rotate":
                accounts.rotate(names, secrets)
            else:
                accounts.remove(names)
            if args.action != "remove" and args.out is not None:
                # Before the accounts are: a secret that nobody has written down serves nobody.
                write_secrets(args.out, entries)
                written = args.out
    except AccessError:
        if written is not None:
            with suppress(OSError):
                written.unlink()
        raise
    if written is not None:
        tell(f"the secrets are in {written}, and nowhere else")
    elif args.action != "remove":
        say(csv_text(entries).splitlines())
    done = {"add": "added", "rotate": "gave a new secret to", "remove": "removed"}[args.action]
    told = tell_broker(args.pid_file or folder / PID_FILE, len(accounts.passwords))
    tell(f"{done} {counted(len(entries), 'account')}; {told}")
    return OK


def _folder(args: argparse.Namespace) -> Path:
    settings = load_settings()
    if args.data_dir is not None:  # an option wins over what is set
        folder = args.access_dir or access_dir_of_running(args.data_dir)
    else:
        folder = args.access_dir or settings.broker_access_dir or access_dir_of_running(settings.data_dir)
    if folder is None:
        raise UsageError(
            "where are the broker's accounts? Set BROKER_ACCESS_DIR, or name the folder with --access-dir; "
            "`wattline secure` makes one, and so does `wattline up --secure`"
        )
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; `wattline secure` makes one with the broker's accounts")
    return Path(folder)


def _entries(args: argparse.Namespace) -> list[Entry]:
    entries = with_new_secrets(dict.fromkeys(args.devices))
    if args.csv is not None:
        entries += [entry for entry in read_devices(args.csv) if entry.device not in args.devices]
    if not entries:
        raise UsageError("which devices? Name them, or a file of them: --csv FILE")
    return entries


def _listed(folder: Path, prefix: str) -> list[str]:
    accounts = read(folder)
    shown = [name for name in sorted(accounts.passwords) if device_of(name).startswith(prefix)]
    roles = {name: accounts.role_of(name) for name in shown}
    tell(", ".join(f"{counted(number, role)}" for role, number in sorted(Counter(roles.values()).items())) or "none")
    return [f"{device_of(name)}\t{roles[name]}" for name in shown]


def _device_id(given: str) -> str:
    """A type for argparse: the id of a device."""
    try:
        return _DEVICE_ID.validate_python(given)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"a device's id has {DEVICE_ID_RULE}") from None

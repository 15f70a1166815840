"""The options of `wattline loadgen`: their names, their words, the limits of each. What makes no sense only together
with another option is `command`'s to refuse.
"""

from __future__ import annotations

import argparse
import re

from config.arguments import number, whole_number
from loadgen.charging import PAIR
from telemetry.kinds import KINDS, Kind

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
RECEIPT_SECONDS = 5.0
RECEIPT_SECONDS_MAX = 3600.0
DURATION_SECONDS_MAX = 366 * 86_400.0
# With the ids' own words and numbers this stays within the contract's 100 characters.
PREFIX_LENGTH_MAX = 100 - max(len(f"-{kind.id_prefix}{DEVICES_MAX}") for kind in KINDS)
PREFIX_PATTERN = re.compile(rf"[A-Za-z0-9._:-]{{0,{PREFIX_LENGTH_MAX}}}")
# The pair that the charging model is about; a device of any other kind is simulated where it is asked for.
DEVICES = {kind.name: 100 if kind in PAIR else 0 for kind in KINDS}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The broker and the database are those of the settings (MQTT_URL, DATABASE_URL), else of the `wattline up` "
        "that runs in this folder. One run at a time per prefix. Exit status: 0 ok, 1 failed (no answer to "
        "something that was sent, or --verify found something), 2 bad usage."
    )
    count = whole_number(0, DEVICES_MAX)
    add = parser.add_argument
    for kind in KINDS:
        add(
            _option_of(kind),
            type=count,
            default=DEVICES[kind.name],
            dest=_destination(kind),
            metavar="N",
            help=f"simulated {kind.many} (default %(default)s)",
        )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--interval",
        type=number(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
        metavar="SECONDS",
        help=f"a fleet: time between two readings of a device (default {INTERVAL_SECONDS:g})",
    )
    pace.add_argument(
        "--rate",
        type=number(0.1, RATE_MAX),
        metavar="R",
        help="open loop: R readings a second, whatever the broker does; latency counts from when each was due",
    )
    pace.add_argument(
        "--max", action="store_true", help="closed loop: as fast as the broker acknowledges what is under way"
    )
    add(
        "--messages",
        type=whole_number(1, MESSAGES_MAX),
        metavar="N",
        help="end after N readings (with --rate or --max)",
    )
    add(
        "--hours",
        type=number(1 / 60, HOURS_MAX),
        metavar="H",
        help="backfill: readings of the past H hours, one a minute and device, oldest first (as --max, or at --rate)",
    )
    share = number(0, 1)
    add("--duplicates", type=share, default=0.0, metavar="SHARE", help="share of the readings sent twice (0 to 1)")
    add("--late", type=share, default=0.0, metavar="SHARE", help="share with a timestamp of an hour before")
    add("--malformed", type=share, default=0.0, metavar="SHARE", help="share of messages that must be refused")
    add("--mqtt-version", choices=("3.1.1", "5"), default="5", help="what the devices speak (default %(default)s)")
    add("--qos", type=int, choices=(0, 1), default=1, help="0: nothing is acknowledged (default %(default)s)")
    add(
        "--receipts",
        type=number(0.1, RECEIPT_SECONDS_MAX),
        nargs="?",
        const=RECEIPT_SECONDS,
        metavar="SECONDS",
        help=f"devices ask for receipts, and send each reading until its own has come, again after SECONDS (default "
        f"{RECEIPT_SECONDS:g}), then twice as long",
    )
    add("--latency", action="store_true", help="measure publish → committed in the tables, too; --verify does anyway")
    add("--json", action="store_true", help="the report as one JSON object on stdout")
    add(
        "--duration",
        type=number(0.1, DURATION_SECONDS_MAX),
        metavar="SECONDS",
        help="how long to publish (default: until Ctrl-C)",
    )
    example_ids = ", ".join(f"PREFIX-{kind.example_id}" for kind in KINDS)
    add(
        "--prefix",
        type=_prefix,
        default="LOAD",
        help=f"what device ids begin with: {example_ids}; '' = {KINDS[0].example_id} (default %(default)s)",
    )
    add("--verify", action="store_true", help="at the end, compare every acknowledged reading with the tables")
    add(
        "--verify-timeout",
        type=number(0, DURATION_SECONDS_MAX),
        default=60.0,
        metavar="SECONDS",
        help="how long --verify waits for the last readings to be stored (default %(default)g)",
    )
    add(
        "--connections",
        type=whole_number(1, CONNECTIONS_MAX),
        default=4,
        metavar="N",
        help="connections to the broker that the devices share (default %(default)s)",
    )
    add(
        "--accounts",
        metavar="FILE",
        help="a CSV file of `wattline devices add --out`: each device connects by its own account, one connection each",
    )
    add("--seed", type=int, default=1, metavar="N", help="the same seed simulates the same fleet (default %(default)s)")


def devices_of(args: argparse.Namespace) -> dict[str, int]:
    """How many devices of each kind are asked for, by its name."""
    return {kind.name: getattr(args, _destination(kind)) for kind in KINDS}


def device_options() -> list[str]:
    """The options for the numbers of devices."""
    return [_option_of(kind) for kind in KINDS]


def _option_of(kind: Kind) -> str:
    return f"--{kind.many}"


def _destination(kind: Kind) -> str:
    # A name that no other option can have, whatever a kind is called.
    return f"devices of kind {kind.name}"


def _prefix(text: str) -> str:
    if not PREFIX_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} has other characters than A-Z a-z 0-9 . _ : - or is over {PREFIX_LENGTH_MAX} long"
        )
    return text

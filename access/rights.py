"""Which accounts there are at the broker, and what each may do: the lines of Mosquitto's ACL file.

An account is one client: its name is its client id (`use_username_as_clientid`), so nobody takes another's session.
A device's account is named as the device, and all devices share a few patterns. It reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config.broker import INGESTOR_ACCOUNT
from telemetry.kinds import KINDS, TOPIC_ROOT
from telemetry.topics import ALL_TELEMETRY

RECEIPTS = "v1/receipts"
DEVICE = "device"
# A device of one of these names would have the rights that the pattern of INGESTOR_ACCOUNT gives.
RESERVED = frozenset({INGESTOR_ACCOUNT, RECEIPTS.removeprefix("v1/")})
OURS = "wattline-"
"""What the names of all other accounts but the devices' begin with."""


@dataclass(frozen=True)
class Role:
    """What an account is for."""

    name: str
    meaning: str
    lines: tuple[str, ...]
    """Of its section in the ACL file; `{account}` stands for its name."""


# The patterns of devices hold for every account, so those that are none are refused what the patterns would give.
_NO_DEVICE = f"topic deny {TOPIC_ROOT}/+/{{account}}"
ROLES = {
    role.name: role
    for role in (
        Role(
            "ingestor",
            "reads all telemetry, writes receipts",
            (f"topic read {ALL_TELEMETRY}", f"topic write {RECEIPTS}/#", _NO_DEVICE),
        ),
        Role(
            "gateway",
            "the API: writes what is posted over HTTP",
            tuple(f"topic write {TOPIC_ROOT}/{kind.name}/+" for kind in KINDS),
        ),
        Role("monitor", "reads the broker's own figures", ("topic read $SYS/#", _NO_DEVICE)),
    )
}
"""All but the devices', which are what an account without a section is."""


def patterns() -> tuple[str, ...]:
    """The lines that hold for every account."""
    return (
        *(f"pattern write {kind.topic_prefix}%u" for kind in KINDS),
        f"pattern read {RECEIPTS}/%u/#",
        "pattern read v1/%u/#",
    )


HEADER = f"""\
# Who may do what at the broker, beside the passwords. `wattline devices` adds to this file and takes from it sections
# of accounts; other lines stay as they are. %u is the name of the account that asks, which is its client id, too.
#
# Every device: its own readings, its own receipts. And the account `{INGESTOR_ACCOUNT}`, the ingestor's, reads
# v1/telemetry/# by the last pattern. By a pattern, because Mosquitto 2.0 forgets the section of a client that is away
# when it was itself restarted and then reads its files again (SIGHUP): what devices publish from then on would be
# acknowledged and not kept for the ingestor. Patterns hold at any time.
"""


def section(account: str, topics: Sequence[str]) -> str:
    """The section of one account: its name and the lines of its rights."""
    return "\n".join((f"user {account}", *topics)) + "\n"


def lines_of(role: str, account: str) -> tuple[str, ...]:
    """The rights of an account that is no device's."""
    return tuple(line.format(account=account) for line in ROLES[role].lines)


def account_of(device_id: str) -> str:
    """The account of a device: its id, in which a colon, which ends a name in Mosquitto's password file, is `%3A`."""
    return device_id.replace(":", "%3A")


def device_of(account: str) -> str:
    """The device of an account."""
    return account.replace("%3A", ":")


def lines_of_device(device_id: str) -> tuple[str, ...]:
    """The lines of a device whose account has another name than itself, where no pattern fits; else none."""
    if account_of(device_id) == device_id:
        return ()
    return (*(f"topic write {kind.topic_prefix}{device_id}" for kind in KINDS), f"topic read {RECEIPTS}/{device_id}/#")

"""Lists of devices and of their secrets, as CSV files."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from access.errors import AccessError
from access.passwords import LENGTH_MAX, LENGTH_MIN, new_secret
from access.rights import account_of
from telemetry.readings import DEVICE_ID_RULE, DeviceId

HEADER = ("device", "username", "password")
_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)


@dataclass(frozen=True)
class Entry:
    """A device and its secret."""

    device: str
    secret: str

    @property
    def account(self) -> str:
        """As whom it connects."""
        return account_of(self.device)


def with_new_secrets(devices: Iterable[str]) -> list[Entry]:
    """Each with a secret of its own."""
    return [Entry(device, new_secret()) for device in devices]


def read_devices(path: str, *, new: bool = True) -> list[Entry]:
    """A line a device: its id, and its secret where it has one already; where not, it gets a new one, or, if `new` ones
    are not wanted, is refused. `-` is standard input. Raises AccessError.

    A first line of the words `device`, `deviceId` or `id` is a heading. What we write (`write_secrets`) can be read.
    """
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            rows = list(csv.reader(sys.stdin, skipinitialspace=True))
        else:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file, skipinitialspace=True))
    except OSError as error:
        raise AccessError(f"{name}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise AccessError(f"{name}: is no CSV text") from None
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[0].lower() in ("device", "deviceid", "device_id", "id")):
            continue
        entry = _entry(f"{name}, line {number}", cells, new=new)
        if entry.device in entries:
            raise AccessError(f"{name}, line {number}: {entry.device} is there twice")
        entries[entry.device] = entry
    if not entries:
        raise AccessError(f"{name}: has no devices")
    return list(entries.values())


def _entry(where: str, cells: Sequence[str], *, new: bool) -> Entry:
    try:
        device = _DEVICE_ID.validate_python(cells[0])
    except ValidationError:
        raise AccessError(f"{where}: {cells[0][:100]!r} is no device's id, which has {DEVICE_ID_RULE}") from None
    secret = cells[-1] if len(cells) in (2, len(HEADER)) else ""
    if not secret and not new:
        raise AccessError(f"{where}: {device} has no password")
    if not secret:
        return Entry(device, new_secret())
    if not LENGTH_MIN <= len(secret) <= LENGTH_MAX or not secret.isprintable():
        raise AccessError(f"{where}: a password has {LENGTH_MIN} to {LENGTH_MAX} characters that can be printed")
    return Entry(device, secret)


def secret_lines(entries: Iterable[Entry]) -> list[tuple[str, str, str]]:
    """What a device needs to know, a row each."""
    return [(entry.device, entry.account, entry.secret) for entry in entries]


def csv_text(entries: Iterable[Entry]) -> str:
    """Such a list with its heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(secret_lines(entries))
    return text.getvalue()


def write_secrets(path: Path, entries: Iterable[Entry]) -> None:
    """A new file that its owner alone may read, on disk. Raises AccessError, also where one is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise AccessError(f"{path} is there already, and is not overwritten: name another file") from None
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(csv_text(entries))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise AccessError(f"{path}: {error.strerror}") from None

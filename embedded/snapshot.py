"""The broker's snapshot, `mosquitto.db`: what it could not save from, told to a person and kept beside it.

A power cut leaves it empty, zeroed or torn, and a person may put anything there. Mosquitto then refuses to start, or
starts with what it could read and writes over the rest. It never deletes a snapshot.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
from datetime import UTC, datetime
from pathlib import Path

NAME = "mosquitto.db"
# src/persist.h of Mosquitto: magic, checksum (always 0) and version; then chunks, each with its kind and length.
MAGIC = b"\x00\xb5\x00mosquitto db"
HEADER = struct.Struct(">15sII")
CHUNK = struct.Struct(">II")
KNOWN_VERSIONS = (5, 6)
KINDS = range(1, 64)  # 1 to 6 so far; a later one may add some, and none is likely to be in a damaged place


def damage_of(snapshot: Path) -> str | None:
    """What is wrong with it, in words that follow "the snapshot"; None for a good one, and for none at all."""
    try:
        with os.fdopen(os.open(snapshot, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return "is empty"
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _damage_in(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # a folder, a link, a device
        return f"is not a file that can be read ({error})"


def keep(snapshot: Path) -> Path | None:
    """A second name for what is there now, which Mosquitto's next save replaces; None where it has one already."""
    aside = _aside(snapshot)
    try:
        os.link(snapshot, aside, follow_symlinks=False)
    except FileExistsError:
        return None
    except OSError:  # a file system without second names
        with snapshot.open("rb") as source, aside.open("xb") as target:
            shutil.copyfileobj(source, target)
    return aside


def set_aside(snapshot: Path) -> Path | None:
    """Move it out of the broker's way; its new name, None where it was kept under that before."""
    aside = _aside(snapshot)
    if aside.exists():
        snapshot.unlink()
        return None
    snapshot.rename(aside)
    return aside


def _aside(snapshot: Path) -> Path:
    """A name that is this file's for ever, and no other's."""
    status = snapshot.lstat()
    when = datetime.fromtimestamp(status.st_mtime, UTC)
    return snapshot.with_name(f"{NAME}.damaged-{when:%Y%m%dT%H%M%SZ}-{status.st_ino}")


def _damage_in(content: mmap.mmap) -> str | None:
    size = len(content)
    if size < HEADER.size:
        return "breaks off"
    magic, _checksum, version = HEADER.unpack_from(content)
    if magic != MAGIC:
        return "was not written by Mosquitto" if content[: HEADER.size].strip(b"\0") else "is zeroed"
    if version not in KNOWN_VERSIONS:
        return None  # the broker itself knows best
    place, unpack, step = HEADER.size, CHUNK.unpack_from, CHUNK.size
    while place < size:
        if place + step > size:
            return f"breaks off at byte {place}"
        kind, length = unpack(content, place)
        if kind not in KINDS:
            return f"is damaged at byte {place}"
        place += step + length
    return None if place == size else f"breaks off at byte {size}"

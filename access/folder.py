"""The folder in which the broker's password file and ACL file are: read, changed and put in place whole.

Who changes it holds a lock meanwhile. A file is replaced, never written into, so the broker reads the old or the new
one. It has the owner of the folder, so that the broker, which runs as that user, can read it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from access.accounts import Accounts
from access.errors import AccessError

PASSWORDS, ACL = "passwords", "acl"
LOCK = "lock"


@contextmanager
def changing(folder: Path) -> Iterator[Accounts]:
    """The accounts, which may be changed inside; afterwards they are on disk. Raises AccessError.

    The order of the two files keeps an account without rights rather than rights without a password.
    """
    try:
        with locked(folder / LOCK):
            accounts = read(folder)
            before = accounts.password_file(), accounts.acl_file()
            yield accounts
            text, acl = accounts.password_file(), accounts.acl_file()
            if acl != before[1] or not (folder / ACL).exists():
                put(folder / ACL, acl)
            if text != before[0] or not (folder / PASSWORDS).exists():
                put(folder / PASSWORDS, text)
    except OSError as error:
        raise AccessError(f"{error.filename or folder}: {error.strerror}") from None


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """An open file that nobody else holds locked; it belongs to the owner of its folder, who may be the next."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _give_away(descriptor, path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def read(folder: Path) -> Accounts:
    """What is there; files that are not there yet are empty. Raises AccessError."""
    try:
        texts = [(folder / name).read_text("utf-8") if (folder / name).exists() else "" for name in (PASSWORDS, ACL)]
    except OSError as error:
        raise AccessError(f"{error.filename or folder}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AccessError(f"{folder}: {PASSWORDS} or {ACL} is not UTF-8 text") from None
    return Accounts.parse(*texts)


def put(path: Path, text: str, mode: int = 0o600) -> None:
    """A file, whole and on disk, in place of whatever has its name; it belongs to the owner of its folder."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        _give_away(file.fileno(), path.parent)
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _give_away(descriptor: int, folder: Path) -> None:
    """To the owner of the folder, where we may."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)

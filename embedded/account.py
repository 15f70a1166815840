"""Which user the servers run as: PostgreSQL refuses to run as root, and no server needs to be.

An ordinary user's servers run as that user. It never creates an account and never opens anybody's folder to others.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from embedded.errors import EmbeddedError
from processes.child import Account


def account_for(data: Path) -> Account | None:
    """Who runs the server of the folder `data` (which need not exist yet); None = ourselves.

    For root: the owner of what is there, so that data written by an ordinary user stays that user's, else `nobody`.
    Raises EmbeddedError where no server can run as us on that folder.
    """
    owner = data.stat().st_uid if data.exists() else None
    us = os.geteuid()
    if us != 0:
        if owner not in (None, us):
            raise EmbeddedError(f"{data} belongs to {_name(owner)}: run as that user, or choose another --data-dir")
        _entry(us)
        return None
    try:
        entry = _entry(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError("as root the servers run as the user 'nobody', which this system does not have") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def can_read(path: Path, account: Account | None) -> bool:
    """Whether the account may reach and read `path` (None: whether we may)."""
    if account is None:
        return os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    resolved = path.resolve()
    return all(_grants(folder, account, stat.S_IXOTH) for folder in resolved.parents) and _grants(
        resolved, account, stat.S_IROTH | (stat.S_IXOTH if resolved.is_dir() else 0)
    )


def can_read_inside(path: Path, account: Account) -> bool:
    """Whether the account may read a file of a folder that it is handed, whatever stands above."""
    return _grants(path, account, stat.S_IROTH)


def write_for(account: Account | None, path: Path, text: str) -> None:
    """Put a file into a folder of the account's, owned by it; whatever has that name is replaced, never written into.

    The account could have left a link there, and we may be root.
    """
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        if account:
            os.fchown(file.fileno(), account.uid, account.gid)
        file.write(text)
    draft.replace(path)


def _grants(path: Path, account: Account, wanted: int) -> bool:
    """`wanted` in the bits of "others"; shifted to those of owner or group where the account is one."""
    status = path.stat()
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
    return (status.st_mode >> shift) & wanted == wanted


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"the user id {uid} has no entry in the system's list of users, and PostgreSQL does not start without; "
            "add one, or run as another user"
        ) from None


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "nobody we know"
    except KeyError:
        return f"user {uid}"

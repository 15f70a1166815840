"""The broker's accounts in memory, and what may be done with them: added, removed, given a new secret.

Both files are kept as people left them: lines and sections that are nobody's of ours stay. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from access.errors import AccessError
from access.passwords import password_line
from access.rights import (
    DEVICE,
    HEADER,
    OURS,
    RESERVED,
    ROLES,
    account_of,
    device_of,
    lines_of,
    lines_of_device,
    patterns,
    section,
)
from config.broker import INGESTOR_ACCOUNT
from config.output import counted, first_few


@dataclass
class Accounts:
    """The lines of the password file by account, and the ACL file in pieces: its head, then sections by account."""

    passwords: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Lines of the password file that name no account."""
    head: str = HEADER
    sections: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, passwords: str, acl: str) -> Accounts:
        """From the two files."""
        found = cls(head="" if acl else HEADER)
        for line in passwords.splitlines():
            name, colon, _ = line.partition(":")
            if colon and not line.startswith("#"):
                found.passwords[name] = line
            elif line:
                found.others.append(line)
        account = None
        for line in acl.splitlines(keepends=True):
            if line.startswith("user "):
                account = line.removeprefix("user ").strip()
                found.sections.setdefault(account, "")
            if account is None:
                found.head += line
            else:
                found.sections[account] += line
        return found

    def password_file(self) -> str:
        """The text of the file."""
        return "".join(f"{line}\n" for line in (*self.others, *self.passwords.values()))

    def acl_file(self) -> str:
        """The text of the file; patterns of kinds that are new are added to its head."""
        there = {" ".join(line.split()) for line in self.head.splitlines()}
        missing = [line for line in patterns() if line not in there]
        head = self.head + "".join(f"{line}\n" for line in missing)
        return "\n".join(part.rstrip("\n") + "\n" for part in (head, *self.sections.values()))

    def role_of(self, account: str) -> str:
        """What an account is for: `device`, a role's name, or `other` where a person wrote its rights."""
        if account == INGESTOR_ACCOUNT:
            return "ingestor"
        text = self.sections.get(account)
        if text is None or device_of(account) != account:
            return DEVICE
        for role in ROLES:
            if text.split() == section(account, lines_of(role, account)).split():
                return role
        return "other"

    def add(self, names: Iterable[str], role: str, secrets: Iterable[str]) -> None:
        """Accounts of devices (by their ids) or of a role. Raises AccessError when one is there, or may not be."""
        wanted = dict(zip(map(account_of, names), secrets, strict=True))
        there = sorted(device_of(account) for account in wanted if account in self.passwords)
        if there:
            raise AccessError(
                f"{counted(len(there), 'account')} of these {'is' if len(there) == 1 else 'are'} there already, and "
                f"nothing was added: {first_few(there)}; `wattline devices rotate` gives a new secret"
            )
        for account, secret in wanted.items():
            _check(account, role)
            lines = lines_of_device(device_of(account)) if role == DEVICE else lines_of(role, account)
            if lines:
                self.sections[account] = section(account, lines)
            self.passwords[account] = password_line(account, secret)

    def rotate(self, names: Iterable[str], secrets: Iterable[str]) -> None:
        """New secrets in place of the old. Raises AccessError when an account is not there."""
        wanted = dict(zip(map(account_of, names), secrets, strict=True))
        self._demand(wanted)
        for account, secret in wanted.items():
            self.passwords[account] = password_line(account, secret)

    def remove(self, names: Iterable[str]) -> None:
        """Raises AccessError when an account is not there."""
        wanted = list(map(account_of, names))
        self._demand(wanted)
        for account in wanted:
            del self.passwords[account]
            self.sections.pop(account, None)

    def _demand(self, accounts: Iterable[str]) -> None:
        missing = sorted(device_of(account) for account in accounts if account not in self.passwords)
        if missing:
            raise AccessError(f"no such account, and nothing was changed: {first_few(missing)}")


def _check(account: str, role: str) -> None:
    if role == DEVICE:
        if account in RESERVED or account.startswith(OURS):
            raise AccessError(f"a device may not be called {account}: names like it are those of wattline's own parts")
    elif not account.startswith(OURS) and not (role == "ingestor" and account == INGESTOR_ACCOUNT):
        raise AccessError(
            f"{account}: the account of wattline's own {role} has a name that begins with {OURS}, which no device has"
        )

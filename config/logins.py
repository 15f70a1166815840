"""DATABASE_LOGINS, taken apart: the users of PostgreSQL that `wattline migrate` makes, each with the roles of its part.

ingestor:ingest:PASSWORD,api:api+ledger:PASSWORD,grafana:monitor:PASSWORD
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

RoleName = Literal["ingest", "api", "ledger", "monitor"]
ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)

# Names that PostgreSQL takes without quotes; none of ours, none of the system's.
_USER = re.compile(r"(?!pg_|wattline_(?:ingest|api|ledger|monitor)$)[a-z_][a-z0-9_]{0,62}")
_EXPECTED = "expected user:role:password, separated by commas"


@dataclass(frozen=True)
class Login:
    """A user who may log in."""

    user: str
    roles: tuple[RoleName, ...]
    password: str = field(repr=False)


def database_logins(text: str) -> tuple[Login, ...]:
    """Raises ValueError, with a message that repeats no password."""
    logins = tuple(_login(part.strip()) for part in text.split(","))
    users = [login.user for login in logins]
    if len(set(users)) < len(users):
        raise ValueError("a user is named twice")
    return logins


def _login(text: str) -> Login:
    user, separator, rest = text.partition(":")
    names, second, password = rest.partition(":")
    if not (separator and second and password):
        raise ValueError(f"{_EXPECTED}, like ingestor:ingest:PASSWORD; a password has no comma")
    if not _USER.fullmatch(user):
        raise ValueError(f"{_EXPECTED}; a user has small letters, digits and _, and is none of wattline's own roles")
    roles = tuple(dict.fromkeys(name for name in ROLE_NAMES if name in names.split("+")))
    if len(roles) != len(names.split("+")):
        raise ValueError(f"{_EXPECTED}; a role is one of {', '.join(ROLE_NAMES)}, or several with + between them")
    return Login(user, roles, password)

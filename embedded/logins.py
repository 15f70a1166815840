"""The users of PostgreSQL that ingestor and API of an `up` connect as: no superuser, each with the rights of its part.

Their passwords are made for one run, and stand in the environment of the process that needs them, nowhere else;
`wattline migrate` makes the users (DATABASE_LOGINS).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from embedded.postgres import PostgresServer

ROLES = {"ingestor": "ingest", "api": "api+ledger"}
"""By the name of the command as `up` calls it, which is the name of its user too."""


class Logins:
    """Made anew by each run."""

    def __init__(self) -> None:
        self._passwords = {user: secrets.token_urlsafe(24) for user in ROLES}

    def setting(self) -> str:
        """DATABASE_LOGINS."""
        return ",".join(f"{user}:{ROLES[user]}:{password}" for user, password in self._passwords.items())

    def environment(self, user: str, server: PostgresServer) -> Mapping[str, str]:
        """What a command needs to connect; its password is not in the URL, which may be shown."""
        return {"DATABASE_URL": server.url_as(user), "PGPASSWORD": self._passwords[user]}

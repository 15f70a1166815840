"""A session of the API in PostgreSQL: it says how connecting went, and becomes the role API_ROLE.

That role may read, and write the links only: a fault in a query must not cost a reading.
"""

from __future__ import annotations

from typing import Any, LiteralString, Self

import psycopg

from analytics_api.database.failures import line_of
from analytics_api.database.outage import Outage
from postgres.connecting import Session
from postgres.roles import API_ROLE, right_to_become
from postgres.session import Limits
from postgres.trouble import trouble_with
from telemetry.kinds import KINDS

# A CSV answer waits for its reader inside a transaction, 30 s at most.
LIMITS = Limits(statement_ms=2000)
CONNECT_TIMEOUT_SECONDS = 2  # libpq's least

# An idle connection whose server vanished without a word is noticed after 5 + 2 * 2 s.
DEFAULTS: dict[str, str | int] = {
    "application_name": "wattline api",
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}

# No row where there is no such role (yet), it has no rights here (yet), or we may not become it: from version 16 on
# a member may be forbidden to. It has its rights once it may read the newest readings of every kind, and the table that
# came last of those that answers are made of.
_BECOME_API_ROLE: LiteralString = """
    SELECT set_config('role', rolname, false) FROM pg_roles
    WHERE rolname = %s AND pg_has_role(session_user, oid, %s)
      AND has_schema_privilege(oid, current_schema(), 'USAGE')
      AND (SELECT bool_and(coalesce(has_table_privilege(oid, to_regclass(name), 'SELECT'), false))
          FROM unnest(%s::text[]) AS name)"""
_NEEDED_TABLES = [*(kind.status for kind in KINDS), "annulled_readings"]


class ApiSession(Session):
    """Reports how connecting went (the pool keeps the reason to itself), and gives up the rights it does not need."""

    _limited = False

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        outage: Outage,
        **settings: Any,  # noqa: ANN401 - psycopg's
    ) -> Self:
        connected = outage.connected
        try:
            connection = await super().connect(conninfo, autocommit=True, limits=LIMITS, **settings)
        except psycopg.Error as error:
            if outage.connected == connected:  # else one that began with us knows better: the server is there
                outage.begun(trouble_with(error), line_of(error))
            raise
        outage.ended()
        return connection

    async def limit_rights(self) -> bool:
        """Become API_ROLE, if we have not. False where that cannot be: before the first migration there is no such
        role, and some users may not become it; the next question tries again.
        """
        if not self._limited:
            right = right_to_become(self.info.server_version)
            self._limited = (await self.execute(_BECOME_API_ROLE, [API_ROLE, right, _NEEDED_TABLES])).rowcount > 0
        return self._limited

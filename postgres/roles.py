"""The roles of PostgreSQL that the parts of wattline act as: their names, and what it takes to become one.

None of them can log in: a login is given one or more of them. What each may do is in ingestor/schema/roles.py.
"""

from __future__ import annotations

from typing import Literal

INGEST_ROLE = "wattline_ingest"
API_ROLE = "wattline_api"
LEDGER_ROLE = "wattline_ledger"
MONITOR_ROLE = "wattline_monitor"
# From this version on a member may be forbidden to become a role: who makes one may not, without a grant.
SERVER_KNOWS_SET = 160_000
# From this version on somebody who does not own a table may be allowed to vacuum it.
SERVER_KNOWS_MAINTAIN = 170_000


def right_to_become(server_version: int) -> Literal["SET", "MEMBER"]:
    """What `pg_has_role` has to confirm. `server_version` is libpq's, like 160004."""
    return "SET" if server_version >= SERVER_KNOWS_SET else "MEMBER"

"""The role that the API becomes and the ingestor provides: its name, and what it takes to become it."""

from __future__ import annotations

from typing import Literal

API_ROLE = "wattline_api"
# From this version on a member may be forbidden to become a role: who makes one may not, without a grant.
SERVER_KNOWS_SET = 160_000


def right_to_become(server_version: int) -> Literal["SET", "MEMBER"]:
    """What `pg_has_role` has to confirm. `server_version` is libpq's, like 160004."""
    return "SET" if server_version >= SERVER_KNOWS_SET else "MEMBER"

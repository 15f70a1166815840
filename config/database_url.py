"""What is wrong with a DATABASE_URL, found before libpq takes it for something else."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

_EXPECTED = "expected postgresql://user:pass@host:port/name"


def check_database_url(text: str) -> None:
    """Raises ValueError, with a message that repeats no password."""
    try:
        parts = conninfo_to_dict(text)
    except psycopg.Error:  # its text may quote the password
        raise ValueError(_EXPECTED) from None
    # A password with an unescaped @ or / spills into host and database name, and from there into the logs.
    if any("@" in str(parts.get(part, "")) for part in ("host", "port", "dbname")):
        raise ValueError(f"{_EXPECTED}; write @ in a password as %40, / as %2F, : as %3A")
    if not all(port.isdecimal() or not port for port in str(parts.get("port", "5432")).split(",")):
        raise ValueError(f"{_EXPECTED}; its port is not a number (write / in a password as %2F)")
